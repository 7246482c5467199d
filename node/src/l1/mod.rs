//! L1: the pages that stay in the arena's frames, and which of them gives way.
//!
//! [`Pages`] is the bookkeeping and pure; [`L1`] is what the agent's paths share of it.

mod pages;
mod queues;
mod segments;
#[cfg(test)]
mod tests;

use foreword_proto::{EntryKey, Epoch, NamespaceId};
use parking_lot::Mutex;

use crate::arena::Arena;

pub use pages::{EVICTIONS_PER_ALLOCATION_MAX, Pages};

/// Name of a page within this agent's cluster: a cleared namespace goes on under the next epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId {
    pub namespace: NamespaceId,
    pub epoch: Epoch,
    pub key: EntryKey,
}

/// Where a page enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// Just written here: nobody has asked for it yet.
    Probation,
    /// Read from L3 because somebody asked.
    Protected,
}

/// L1, shared by the agent's paths. Its lock is taken after a mirror's, never before it.
pub struct L1 {
    arena: Arena,
    pages: Mutex<Pages>,
}

impl L1 {
    /// An empty tier over this arena.
    pub fn new(arena: Arena) -> Self {
        Self { pages: Mutex::new(Pages::new(arena.clone())), arena }
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
