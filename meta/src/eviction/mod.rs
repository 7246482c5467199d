//! Which pages leave when room runs out. Runs on the leader, beside the state machine; only its decisions are proposed.
//!
//! A policy is fed every event of every entry in order, and the accesses that agents report. It may forget and start over
//! ([`EvictionPolicy::rebuild`]) at any time: what it picks is checked again when the retire is applied, so a wrong pick
//! costs a page, never more.

mod arena;
mod evictor;
mod leaf_lru;
mod watermarks;

use foreword_proto::{EntryKey, Epoch, NamespaceId};

use crate::state::State;
use crate::state::command::{Event, Retirement};

pub use evictor::{Evictor, LeaderPolicy};
pub use leaf_lru::LeafLru;
pub use watermarks::Watermarks;

/// An entry as agents report its use: of this epoch, or long gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub namespace: NamespaceId,
    pub epoch: Epoch,
    pub key: EntryKey,
}

/// Chooses what to evict.
pub trait EvictionPolicy: Send {
    /// Learns of one change, in log order.
    fn observe(&mut self, event: &Event);

    /// Learns of accesses, oldest first.
    fn heat(&mut self, entries: &[EntryId]);

    /// Picks up to `need_slots` pages of the class `slot_bytes`, coldest first. A picked page is not picked again while its
    /// retire may still be under way. `state` may be ahead of what was observed.
    fn victims(&mut self, state: &State, slot_bytes: u64, need_slots: usize) -> Vec<Retirement>;

    /// Forgets everything and starts from what the state holds: for a new leader.
    fn rebuild(&mut self, state: &State);
}
