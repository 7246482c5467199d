//! A whole group in one process: real Raft, real gRPC over loopback, logs in memory.

mod alone;
mod bad_input;
mod client;
mod cluster;
mod digests;
mod eviction;
mod failover;
mod feature_level;
mod files;
mod generated;
mod hf3fs;
mod hf3fs_http;
mod leases;
mod links;
mod membership;
mod names;
mod newcomers;
mod proposals;
mod proxy;
mod publishing;
mod sessions;
mod snapshots;
mod unloggable;
mod watching;
