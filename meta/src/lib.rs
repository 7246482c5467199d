//! The metadata group: which pages exist, where, and who may write which slot.
//!
//! [`serve::serve`] is the one way in, for the binary and for the simulator. Page bytes never pass through here.

#![forbid(unsafe_code)]

pub mod config;
pub mod consensus;
pub mod eviction;
pub mod generated;
pub mod hf3fs;
pub mod network;
pub mod open;
mod refusal;
pub mod replica;
#[cfg(test)]
mod rooms;
pub mod serve;
pub mod service;
pub mod state;
pub mod storage;
pub mod watch;
