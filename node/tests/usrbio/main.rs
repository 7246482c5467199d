//! The USRBIO store on a mount: the stand-in's, in a process of its own that may be killed, stopped and started again.
//!
//! Needs root and /dev/fuse. Each test works in a mount namespace of its own.

mod conformance;
mod cycles;
mod daemon;
mod faults;
mod harness;
mod roles;
mod room;
