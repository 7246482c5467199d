//! Who follows what this replica applies.

use std::sync::Arc;

use foreword_proto::Revision;

use crate::state::State;
use crate::state::command::Event;

/// What one entry changed, in order; often nothing. Shared by all who follow.
#[derive(Debug)]
pub struct EntryEvents {
    pub revision: Revision,
    pub events: Vec<Event>,
}

/// Follows the applied state, entry by entry in log order. It is called under the lock of the applied state, which
/// therefore comes before any lock of its own; applying waits for it.
pub trait Observer: Send + Sync {
    /// An entry was applied, and `state` stands at its end.
    fn applied(&self, state: &State, entry: &Arc<EntryEvents>);

    /// The same entry once the lock is released, in the same order: for what needs no state.
    fn released(&self, _entry: &Arc<EntryEvents>) {}

    /// The state was replaced by a snapshot's, or is the one that this replica starts from: what was followed before is
    /// void.
    fn replaced(&self, state: &State);
}
