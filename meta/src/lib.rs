//! The metadata group: which pages exist, where, and who may write which slot.
pub mod raft;
pub mod state;
pub mod storage;
