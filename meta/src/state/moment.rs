//! What a command may know of the state around the owners it touches.

use foreword_proto::Revision;

use super::command::ClusterSettings;

/// When and under which settings a command is applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'st> {
    pub(super) settings: &'st ClusterSettings,
    /// Of the entry that is being applied.
    pub(super) revision: Revision,
    /// The last committed tick.
    pub(super) tick_ms: u64,
    /// Of the entry's leader.
    pub(super) term: Term,
}

/// A leader's term, as far as this replica saw it. Not of the state itself: a restored one does not know it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) number: u64,
    /// Its first entry, if it was seen to begin; else 0.
    pub(super) began: Revision,
}

impl Term {
    /// An entry of the leader of term `number` is applied next.
    pub(super) fn entry(&mut self, number: u64, revision: Revision) {
        if number != self.number {
            *self = Self { number, began: if self.number == 0 { 0 } else { revision } };
        }
    }
}
