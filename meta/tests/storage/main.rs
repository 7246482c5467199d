//! The storage of a replica: engines, log store, mark, snapshots, data directory.

mod crashes;
mod data_dir;
mod engines;
mod faults;
mod kill;
mod power_cut;
mod raft_suite;
mod snapshots;
mod store;
mod support;
mod versions;
