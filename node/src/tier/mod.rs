//! The agent's own tiers: L1, pages in DRAM.

mod l1;

use foreword_proto::{EntryKey, Epoch, NamespaceId};

pub use l1::{EVICTIONS_PER_ALLOCATION_MAX, Entrance, L1};

/// Name of a page within this agent's cluster: a cleared namespace goes on under the next epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId {
    pub namespace: NamespaceId,
    pub epoch: Epoch,
    pub key: EntryKey,
}
