//! Groups of real size without the hours that they take to grow: a state made by applying commands, as a replica
//! applies them, and disks that hold it, as replicas leave them.
//!
//! For benches, tests and the simulator; no server comes here. Whoever has the [`Plan`] knows every key ([`Keys`]).

pub mod directories;
mod keys;
pub mod state;
pub mod stopped;

pub use keys::{CHAIN_PAGES, Keys, PAGE_BYTES, namespace};

/// What a generated state holds. The same plan with the same settings makes the same state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// Pages of each namespace, of one shard of 4,096 bytes: the first is [`namespace`] 0.
    pub namespaces: Vec<u64>,
    /// So many of each namespace's pages, from number 0 on, have the checksums of [`Keys::bytes`], for whoever puts
    /// those on L3. The others' checksums are their numbers, which takes a fiftieth of the time, and which no bytes
    /// fit.
    pub written: u64,
    /// Slots that rest, of pages of the first namespace that were evicted.
    pub rests: u64,
    /// Sessions that stay open. With none, the one that published has ended.
    pub sessions: u32,
    /// Pages of each page file, all of them confirmed.
    pub page_files: Vec<u32>,
}

impl Plan {
    /// One namespace of so many pages, and no session.
    pub fn pages(seed: u64, pages: u64) -> Self {
        Self { seed, namespaces: vec![pages], written: 0, rests: 0, sessions: 0, page_files: Vec::new() }
    }

    /// Keys of a namespace, by its place in the plan.
    pub fn keys(&self, namespace: usize) -> Keys {
        Keys::new(self.seed, namespace)
    }
}
