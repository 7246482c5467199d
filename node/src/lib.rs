//! Foreword's agent: one per machine. It mirrors the index of the namespaces open on it, keeps pages in its arena (L1),
//! and moves page bytes to and from L3 itself.
//!
//! [`serve`] is the one entry point, for the binary and for the simulator alike.

pub mod agent;
pub mod api;
pub mod arena;
mod chores;
pub mod config;
pub mod counters;
mod engine;
mod fair_semaphore;
pub mod kept_id;
pub mod l1;
pub mod l3;
pub mod machine;
mod memory;
pub mod mirror;
mod namespaces;
pub mod plan;
mod reading;
pub mod serve;
pub mod service;
pub mod session;
pub mod store;
mod tasks;
mod writing;

pub use config::{L3Location, NodeConfig};
pub use serve::{Deps, Handle, ServeError, StoreFactory, serve};
