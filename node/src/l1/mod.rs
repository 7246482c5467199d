//! L1: the pages that stay in the arena's frames, and which of them gives way.
//!
//! [`Pages`] is the bookkeeping and pure; [`L1`] is what the agent's paths share of it.

mod pages;
mod queues;
mod residents;
mod segments;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use foreword_proto::buckets::spread;
use foreword_proto::{EntryKey, Epoch, NamespaceId};
use parking_lot::Mutex;

use crate::arena::Arena;

pub use pages::{EVICTIONS_PER_ALLOCATION_MAX, Pages};
pub use residents::Residents;

/// Name of a page within this agent's cluster: a cleared namespace goes on under the next epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId {
    pub namespace: NamespaceId,
    pub epoch: Epoch,
    pub key: EntryKey,
}

impl PageId {
    /// Its hash, never 0. Keys are digests already, or spread as if they were.
    fn hashed(&self) -> u64 {
        let whose = (u64::from(self.namespace) | u64::from(self.epoch) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (spread(&self.key) ^ whose ^ whose >> 32).max(1)
    }
}

/// Where a page enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// Just written here: nobody has asked for it yet.
    Probation,
    /// Read from L3 because somebody asked: a use already. On probation too, L1 of 24 MB gave 30 % fewer hits on the conversation trace, 13 % on
    /// the synthetic one (docs/PERFORMANCE.md).
    Protected,
}

/// L1, shared by the agent's paths. Its lock is taken after a mirror's, never before it.
pub struct L1 {
    arena: Arena,
    pages: Mutex<Pages>,
    residents: Arc<Residents>,
}

impl L1 {
    /// An empty tier over this arena.
    pub fn new(arena: Arena) -> Self {
        let pages = Pages::new(arena.clone());
        Self { residents: pages.residents().clone(), pages: Mutex::new(pages), arena }
    }

    /// Which pages are here, for who only asks: takes no lock.
    pub fn residents(&self) -> &Residents {
        &self.residents
    }

    /// Looks at the pages; none comes or goes meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Pages) -> T) -> T {
        look(&self.pages.lock())
    }

    /// Changes the pages, or uses one of them.
    pub fn write<T>(&self, change: impl FnOnce(&mut Pages) -> T) -> T {
        change(&mut self.pages.lock())
    }

    /// The arena below.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }
}
