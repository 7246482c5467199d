//! Which pages leave when room runs out. Runs beside the state machine; only the leader's decisions are proposed.
//!
//! ```text
//! apply ──events──► Feed ──► PolicyThread ──► EvictionPolicy      on every replica, always
//! agents ──heat──► Reports ──►   │ ▲
//!                       answer, a │ │ question: how many slots
//!                     round later ▼ │ of which class
//!                                 Desk ◄──── Evictor ──Retire──► proposed      where the leader is
//! ```
//! Nothing waits for the policy. It sees what was applied a little later, holds no lock of the applied state while it
//! thinks, and may forget and start over from a frozen view at any time: what it picks is checked again when the retire
//! is applied, so a wrong pick costs a page, never more.

mod arena;
mod desk;
mod evictor;
mod feed;
mod leaf_lru;
mod order;
mod policy_thread;
mod reports;
mod watermarks;

use foreword_proto::key::ParentHint;
use foreword_proto::{EntryKey, Epoch, NamespaceId};
use foreword_seams::Runner;

use crate::state::command::Event;

pub use evictor::Evictor;
pub use leaf_lru::LeafLru;
pub use policy_thread::Policy;
pub use watermarks::Watermarks;

/// An entry as agents report its use: of this epoch, or long gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub namespace: NamespaceId,
    pub epoch: Epoch,
    pub key: EntryKey,
}

/// Where the policy works, and how far it may be behind.
#[derive(Clone)]
pub struct PolicyPlace {
    pub runner: Runner,
    /// Bytes of events that wait for it, at most.
    pub feed_bytes_max: usize,
}

/// Chooses what to evict. No call takes longer than what it is given is long: whoever calls can do something else in
/// between.
pub trait EvictionPolicy: Send {
    /// Forgets everything, and makes room for so many pages. What the state holds follows: [`Self::open`] for each
    /// namespace, then [`Self::page`].
    fn restart(&mut self, pages: usize);

    /// A namespace of the state that the policy starts from.
    fn open(&mut self, namespace: NamespaceId, epoch: Epoch, slot_bytes: u64);

    /// A page of the state that the policy starts from; 0 for no parent.
    fn page(&mut self, namespace: NamespaceId, key: EntryKey, parent: ParentHint);

    /// Learns of one change, in log order. `slot_bytes_of` tells the class of a namespace that was registered since the
    /// start; None if it is gone by now.
    fn observe(&mut self, event: &Event, slot_bytes_of: &dyn Fn(NamespaceId) -> Option<u64>);

    /// Learns of one access. They come oldest first.
    fn heat(&mut self, entry: &EntryId);

    /// A new question begins. Picked pages whose retire was not seen for many rounds may be picked again.
    fn begin_round(&mut self);

    /// Picks up to `need` pages of the class `slot_bytes`, coldest first, looking at no more than `steps` pages, of
    /// which are left what it did not use; 0: ask again. A picked page is not picked again while its retire may still
    /// be under way.
    fn victims(&mut self, slot_bytes: u64, need: usize, steps: &mut usize) -> Vec<EntryId>;

    /// Forgets pages of cleared namespaces, looking at no more than `nodes_max` pages; true if there may be more.
    fn sweep(&mut self, nodes_max: usize) -> bool;

    /// Heap bytes it takes, from capacities.
    fn heap_bytes(&self) -> usize;
}
