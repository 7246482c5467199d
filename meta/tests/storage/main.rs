//! The storage of a replica: engines, log store, mark, snapshots, data directory.

mod engines;
mod faults;
mod kill;
mod raft_suite;
mod support;
