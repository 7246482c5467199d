//! A whole group in one process: real Raft, real gRPC over loopback, logs in memory.

mod bad_input;
mod cluster;
mod digests;
mod failover;
mod membership;
mod publishing;
mod watching;
