//! The agent from outside: gRPC in, a fake metadata group and a memory L3 behind it.

// A test binary exports nothing.
#![allow(unreachable_pub)]

mod bad_input;
mod engine;
mod engine_session;
mod fake_meta;
mod faults;
mod harness;
mod hostile_engine;
mod members;
mod memory;
mod restart;
mod sessions;
mod sharing;
mod start;
mod trouble;
mod waiting;
