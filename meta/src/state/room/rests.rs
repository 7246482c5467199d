//! Slots at rest: after a retire a reader may still be reading, after an unknown write a late one may still land.

use std::collections::VecDeque;

use foreword_proto::{SlabId, Slot};

use crate::state::codec::{kinds, record};
use crate::state::digest::Fields;

/// Slots released by one tick at most: the rest follow with the next.
pub(super) const RELEASES_PER_TICK_MAX: usize = 65_536;

/// A resting slot and the tick at which it is free again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) due_ms: u64,
    pub(super) slab: SlabId,
    pub(super) slot: Slot,
}

record!(Rest { due_ms, slab, slot });

/// Why a slot rests, and so how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::state) enum RestKind {
    /// Its page was retired: readers may still read it.
    Read,
    /// Its write has no known result.
    Write,
}

kinds!(RestKind, "rest" {
    1 => Read,
    2 => Write,
});

/// One queue a kind; each is in the order of its deadlines, since ticks never go back and a kind's rest never changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rests {
    pub(super) read: VecDeque<Rest>,
    pub(super) write: VecDeque<Rest>,
}

impl Rests {
    pub(super) fn push(&mut self, kind: RestKind, rest: Rest) {
        self.queue_mut(kind).push_back(rest);
    }

    fn queue_mut(&mut self, kind: RestKind) -> &mut VecDeque<Rest> {
        match kind {
            RestKind::Read => &mut self.read,
            RestKind::Write => &mut self.write,
        }
    }

    /// The next slot whose rest is over.
    pub(super) fn pop_due(&mut self, tick_ms: u64) -> Option<Rest> {
        for kind in [RestKind::Read, RestKind::Write] {
            let queue = self.queue_mut(kind);
            if queue.front().is_some_and(|rest| rest.due_ms <= tick_ms) {
                return queue.pop_front();
            }
        }
        None
    }

    /// When the next rest is over.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        [&self.read, &self.write].into_iter().filter_map(|queue| queue.front()).map(|rest| rest.due_ms).min()
    }

    pub(super) fn len(&self) -> usize {
        self.read.len() + self.write.len()
    }

    /// Both queues, each with its kind.
    pub(super) fn into_queues(self) -> [(RestKind, VecDeque<Rest>); 2] {
        let Self { read, write } = self;
        [(RestKind::Read, read), (RestKind::Write, write)]
    }

    pub(super) fn hash_into(&self, fields: &mut Fields) {
        let Self { read, write } = self;
        fields.add_all(read.iter()).add_all(write.iter());
    }
}
