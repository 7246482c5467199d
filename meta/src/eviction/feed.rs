//! What the policy is told of what was applied: entry by entry, and never waited for.
//!
//! Applying an entry appends a reference to its events, whatever the policy is doing. A policy that does not keep up is
//! cut off once the feed holds its bytes, and starts over from a frozen view: entries up to the view's revision are
//! then passed over.

use std::collections::VecDeque;
use std::sync::Arc;

use foreword_proto::Revision;
use foreword_seams::Telemetry;
use metrics::Gauge;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::replica::observer::{EntryEvents, Observer};
use crate::state::State;
use crate::state::command::Event;

/// The feed wakes its reader at this share of its bytes; else the reader looks by itself.
const WAKE_DIVISOR: usize = 8;

/// Why what is in the feed does not go on from what the policy knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The policy has seen no state yet, or the state was replaced.
    Replaced,
    /// The policy was too slow.
    Overflowed,
}

/// What is next.
pub(super) enum Next {
    Entry(Arc<EntryEvents>),
    /// Nothing: everything up to this revision was taken.
    Nothing(Revision),
    Cut(Cut),
}

/// Between whoever applies, and the policy.
pub(super) struct Feed {
    queue: Mutex<Queue>,
    bytes_max: usize,
    /// Wakes the policy.
    wake: Arc<Notify>,
    bytes_held: Gauge,
    entries_held: Gauge,
}

struct Queue {
    entries: VecDeque<Arc<EntryEvents>>,
    bytes: usize,
    /// The last entry that was applied.
    applied: Revision,
    /// Nothing is appended until the policy starts over.
    cut: Option<Cut>,
}

/// Bytes that an entry's events keep in memory.
fn bytes_of(entry: &EntryEvents) -> usize {
    let of_shards = |event: &Event| match event {
        Event::Published { page, .. } => size_of_val(page.location.checksums.as_slice()),
        _ => 0,
    };
    entry.events.capacity() * size_of::<Event>() + entry.events.iter().map(of_shards).sum::<usize>()
}

impl Feed {
    /// An empty feed, which begins with a cut.
    pub(super) fn new(bytes_max: usize, wake: Arc<Notify>, telemetry: &Telemetry) -> Self {
        let queue = Queue { entries: VecDeque::new(), bytes: 0, applied: 0, cut: Some(Cut::Replaced) };
        Self {
            queue: Mutex::new(queue),
            bytes_max,
            wake,
            bytes_held: telemetry
                .gauge("foreword_meta_policy_feed_bytes", "Bytes of events that the eviction policy has not seen yet"),
            entries_held: telemetry.gauge(
                "foreword_meta_policy_feed_entries",
                "Entries whose events the eviction policy has not seen yet",
            ),
        }
    }

    fn push(&self, entry: &Arc<EntryEvents>) {
        let mut queue = self.queue.lock();
        queue.applied = entry.revision;
        if entry.events.is_empty() || queue.cut.is_some() {
            return;
        }
        let (before, bytes) = (queue.bytes, queue.bytes + bytes_of(entry));
        if bytes > self.bytes_max {
            queue.cut = Some(Cut::Overflowed);
            self.wake.notify_one();
            return;
        }
        queue.entries.push_back(entry.clone());
        queue.bytes = bytes;
        self.show(&queue);
        let wake_at = self.bytes_max / WAKE_DIVISOR;
        if before < wake_at && bytes >= wake_at {
            self.wake.notify_one();
        }
    }

    /// Takes the oldest entry.
    pub(super) fn next(&self) -> Next {
        let mut queue = self.queue.lock();
        if let Some(cut) = queue.cut {
            return Next::Cut(cut);
        }
        let Some(entry) = queue.entries.pop_front() else { return Next::Nothing(queue.applied) };
        queue.bytes -= bytes_of(&entry);
        self.show(&queue);
        Next::Entry(entry)
    }

    /// Whether the policy has to start over.
    pub(super) fn is_cut(&self) -> bool {
        self.queue.lock().cut.is_some()
    }

    /// Takes up from here. Whoever calls freezes the state after that, and passes over entries up to the view's
    /// revision.
    pub(super) fn resume(&self) {
        let mut queue = self.queue.lock();
        // Dropped behind the lock: there may be many.
        let _left = std::mem::take(&mut queue.entries);
        (queue.bytes, queue.cut) = (0, None);
        self.show(&queue);
        drop(queue);
    }

    fn show(&self, queue: &Queue) {
        self.bytes_held.set(queue.bytes as f64);
        self.entries_held.set(queue.entries.len() as f64);
    }
}

impl Observer for Feed {
    fn applied(&self, _state: &State, entry: &Arc<EntryEvents>) {
        self.push(entry);
    }

    fn replaced(&self, state: &State) {
        let mut queue = self.queue.lock();
        (queue.applied, queue.cut) = (state.revision(), Some(Cut::Replaced));
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::{EntryKey, RetireReason, SlotRef};

    use super::*;

    fn entry(revision: Revision, events: usize) -> Arc<EntryEvents> {
        let slot = SlotRef { slab: 1, slot: 1, generation: 1 };
        let retired = Event::Retired { namespace: 1, key: EntryKey([1; 16]), slot, reason: RetireReason::Evicted };
        Arc::new(EntryEvents { revision, events: vec![retired; events] })
    }

    fn feed(events_max: usize) -> Feed {
        let feed = Feed::new(events_max * size_of::<Event>(), Arc::default(), &Telemetry::new());
        feed.resume();
        feed
    }

    fn taken(feed: &Feed) -> Vec<Revision> {
        let mut revisions = Vec::new();
        while let Next::Entry(entry) = feed.next() {
            revisions.push(entry.revision);
        }
        revisions
    }

    #[test]
    fn entries_come_in_order_and_those_without_events_only_as_a_revision() {
        let feed = feed(10);
        for (revision, events) in [(4, 1), (5, 0), (6, 2), (7, 0)] {
            feed.push(&entry(revision, events));
        }
        assert_eq!(taken(&feed), [4, 6]);
        assert!(matches!(feed.next(), Next::Nothing(7)));
    }

    #[test]
    fn what_nobody_takes_stays_within_its_bytes_and_cuts_the_feed() {
        let feed = feed(10);
        for revision in 1..=100 {
            feed.push(&entry(revision, 3));
            assert!(feed.queue.lock().bytes <= feed.bytes_max);
        }
        assert!(matches!(feed.next(), Next::Cut(Cut::Overflowed)));
        feed.resume();
        assert!(matches!(feed.next(), Next::Nothing(100)));
        feed.push(&entry(101, 3));
        assert_eq!(taken(&feed), [101]);
        assert_eq!(feed.queue.lock().bytes, 0);
    }

    #[test]
    fn an_entry_larger_than_the_feed_cuts_it() {
        let feed = feed(2);
        feed.push(&entry(1, 3));
        assert!(matches!(feed.next(), Next::Cut(Cut::Overflowed)));
    }
}
