//! A stand-in as its users meet it: mounted, with posix calls, ioctls and other processes.

mod child;
mod harness;
mod ioctls;
mod liveness;
mod posix;
mod start;
mod users;
mod virt;
