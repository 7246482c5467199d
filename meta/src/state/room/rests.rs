//! Slots at rest: after a retire a reader may still be reading, after an unknown write a late one may still land.

use std::collections::VecDeque;
use std::sync::Arc;

use foreword_proto::{SlabId, Slot};
use xxhash_rust::xxh3::xxh3_64;

use crate::state::codec::{kinds, record};
use crate::state::digest::{Fields, Sums};

/// Slots released by one tick at most, one or two milliseconds' work: the rest follow with the next.
pub(super) const RELEASES_PER_TICK_MAX: usize = 8192;
/// Rests of one chunk: 64 KiB, of which the last is what the first change after a freeze copies.
const RESTS_PER_CHUNK: usize = 4096;

/// A resting slot and the tick at which it is free again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) due_ms: u64,
    pub(super) slab: SlabId,
    pub(super) slot: Slot,
}

record!(Rest { due_ms, slab, slot });

impl Rest {
    fn hash(&self) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.due_ms.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.slab.to_le_bytes());
        bytes[12..].copy_from_slice(&self.slot.to_le_bytes());
        xxh3_64(&bytes)
    }
}

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

/// Rests in the order in which they came, in chunks that a frozen view shares.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    chunks: VecDeque<Arc<Vec<Rest>>>,
    /// Rests of the first chunk that have left.
    left: usize,
    len: usize,
    /// Sum over the hashes of all rests.
    digest: u64,
}

impl Queue {
    pub(super) fn push(&mut self, rest: Rest) {
        if self.chunks.back().is_none_or(|chunk| chunk.len() == RESTS_PER_CHUNK) {
            self.chunks.push_back(Arc::default());
        }
        self.chunks.back_mut().into_iter().for_each(|chunk| Arc::make_mut(chunk).push(rest));
        self.len += 1;
        self.digest = self.digest.wrapping_add(rest.hash());
    }

    fn front(&self) -> Option<Rest> {
        self.chunks.front()?.get(self.left).copied()
    }

    pub(super) fn pop(&mut self) -> Option<Rest> {
        let rest = self.front()?;
        self.left += 1;
        if self.chunks.front().is_some_and(|chunk| chunk.len() == self.left) {
            self.chunks.pop_front();
            self.left = 0;
        }
        self.len -= 1;
        self.digest = self.digest.wrapping_sub(rest.hash());
        Some(rest)
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Rest> + '_ {
        self.chunks.iter().flat_map(|chunk| chunk.iter().copied()).skip(self.left)
    }

    /// The same; what has been passed is let go of.
    pub(super) fn into_rests(self) -> impl Iterator<Item = Rest> {
        let chunks = self.chunks.into_iter();
        chunks.flat_map(|chunk| (0..chunk.len()).map(move |at| chunk[at])).skip(self.left)
    }

    /// Heap bytes, from capacities.
    fn heap_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<Rest>() + 64).sum()
    }
}

/// One queue a kind; each is in the order of its deadlines, since ticks never go back and a kind's rest never changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Rests {
    pub(super) read: Queue,
    pub(super) write: Queue,
}

impl Rests {
    pub(super) fn push(&mut self, kind: RestKind, rest: Rest) {
        self.queue_mut(kind).push(rest);
    }

    fn queue_mut(&mut self, kind: RestKind) -> &mut Queue {
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
                return queue.pop();
            }
        }
        None
    }

    /// When the next rest is over.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        [&self.read, &self.write].into_iter().filter_map(Queue::front).map(|rest| rest.due_ms).min()
    }

    pub(super) fn len(&self) -> usize {
        self.read.len + self.write.len
    }

    /// Both queues, each with its kind.
    pub(super) fn into_queues(self) -> [(RestKind, Queue); 2] {
        let Self { read, write } = self;
        [(RestKind::Read, read), (RestKind::Write, write)]
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { read, write } = self;
        for queue in [read, write] {
            let digest = match sums {
                Sums::Kept => queue.digest,
                Sums::FromScratch => queue.iter().map(|rest| rest.hash()).fold(0, u64::wrapping_add),
            };
            fields.add((queue.len as u64, digest));
        }
    }

    /// Heap bytes, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        self.read.heap_bytes() + self.write.heap_bytes()
    }
}
