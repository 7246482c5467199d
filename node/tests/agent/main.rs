//! The agent from outside: gRPC in, a fake metadata group and a memory L3 behind it.

mod fake_meta;
mod harness;
mod sharing;
