//! What watchers tail: the last entries' events, each encoded once for all of them, bounded in time and bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foreword_proto::records::NamespaceEvent;
use foreword_proto::{Epoch, NamespaceId, Revision};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::replica::observer::{EntryEvents, Observer};
use crate::state::State;
use crate::state::command::Event;

/// Events are kept at least this long, as far as the bytes allow.
const KEPT_MIN: Duration = Duration::from_secs(600);

/// One entry's events, by namespace.
#[derive(Debug)]
pub struct EncodedEntry {
    pub revision: Revision,
    by_namespace: Vec<(NamespaceId, NamespaceChange)>,
    bytes: usize,
    at: Instant,
}

/// What one entry did to one namespace.
#[derive(Debug, Clone, Default)]
pub struct NamespaceChange {
    /// [`NamespaceEvent`] records, in order; empty when nothing was published or retired.
    pub events: Bytes,
    /// Its watchers start over after this entry.
    pub over: Option<StartOver>,
}

/// Why a watcher starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOver {
    /// The namespace was cleared: it is in this epoch now.
    Cleared(Epoch),
    /// There is no such namespace any more: who asks again is told so.
    Dropped,
}

impl EncodedEntry {
    /// What this entry did to a namespace, if anything.
    pub fn of(&self, namespace: NamespaceId) -> Option<&NamespaceChange> {
        self.by_namespace.iter().find(|(id, _)| *id == namespace).map(|(_, change)| change)
    }
}

struct Ring {
    /// Every entry above this revision that changed anything is in `entries`.
    complete_after: Revision,
    entries: VecDeque<Arc<EncodedEntry>>,
    bytes: usize,
}

/// The ring of recent entries and the revision it has reached.
pub struct WatchHub {
    ring: RwLock<Ring>,
    bytes_max: usize,
    revision: watch::Sender<Revision>,
}

/// What a watcher finds behind its revision.
pub enum Tail {
    /// Entries after it that changed anything, oldest first, and the revision up to which that is complete.
    Entries { upto: Revision, entries: Vec<Arc<EncodedEntry>> },
    /// Entries after it are not kept any more.
    Gone,
}

impl WatchHub {
    /// An empty hub that keeps at most `bytes_max` of encoded events.
    pub fn new(bytes_max: usize) -> Self {
        let ring = Ring { complete_after: 0, entries: VecDeque::new(), bytes: 0 };
        Self { ring: RwLock::new(ring), bytes_max, revision: watch::Sender::new(0) }
    }

    /// Forgets everything: the state jumped to `revision`.
    pub fn restart_at(&self, revision: Revision) {
        *self.ring.write() = Ring { complete_after: revision, entries: VecDeque::new(), bytes: 0 };
        self.revision.send_replace(revision);
    }

    /// Adds an entry's events. `shards` gives a namespace's number of shards, the record size.
    pub fn push(&self, revision: Revision, events: &[Event], shards: impl Fn(NamespaceId) -> Option<usize>) {
        if !events.is_empty() {
            let entry = Arc::new(encode(revision, events, shards));
            let mut ring = self.ring.write();
            ring.bytes += entry.bytes;
            ring.entries.push_back(entry);
            self.trim(&mut ring);
        }
        self.revision.send_replace(revision);
    }

    fn trim(&self, ring: &mut Ring) {
        while let Some(oldest) = ring.entries.front() {
            let over = ring.bytes > self.bytes_max;
            // Old entries cost memory only; they are dropped once they fill half of what is allowed.
            let old = ring.bytes > self.bytes_max / 2 && oldest.at.elapsed() > KEPT_MIN;
            if !over && !old {
                return;
            }
            ring.bytes -= oldest.bytes;
            ring.complete_after = oldest.revision;
            ring.entries.pop_front();
        }
    }

    /// Entries after `from`, up to about `bytes_max` of them.
    pub fn tail(&self, from: Revision, bytes_max: usize) -> Tail {
        // Read first: what the ring has beyond it is sent the next time.
        let upto = *self.revision.borrow();
        let ring = self.ring.read();
        if from < ring.complete_after {
            return Tail::Gone;
        }
        let start = ring.entries.partition_point(|entry| entry.revision <= from);
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in ring.entries.range(start..).take_while(|entry| entry.revision <= upto) {
            if bytes > bytes_max {
                let last: &Arc<EncodedEntry> = &entries[entries.len() - 1];
                return Tail::Entries { upto: last.revision, entries };
            }
            bytes += entry.bytes;
            entries.push(entry.clone());
        }
        Tail::Entries { upto: upto.max(from), entries }
    }

    /// Watches the revision the hub has reached.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Bytes of encoded events held.
    pub fn bytes(&self) -> usize {
        self.ring.read().bytes
    }
}

impl Observer for WatchHub {
    fn applied(&self, state: &State, entry: &Arc<EntryEvents>) {
        let shards = |namespace| state.namespace(namespace).map(|info| info.shards());
        self.push(entry.revision, &entry.events, shards);
    }

    fn replaced(&self, state: &State) {
        self.restart_at(state.revision());
    }
}

fn encode(revision: Revision, events: &[Event], shards: impl Fn(NamespaceId) -> Option<usize>) -> EncodedEntry {
    let mut by_namespace: BTreeMap<NamespaceId, (BytesMut, Option<StartOver>)> = BTreeMap::new();
    for event in events {
        match event {
            Event::Published { namespace, page } => {
                // None: it was dropped in the same entry.
                let of_namespace = shards(*namespace);
                debug_assert!(of_namespace.is_none_or(|shards| shards == page.location.checksums.as_slice().len()));
                let published =
                    NamespaceEvent::Published { key: page.key, parent: page.parent, location: page.location.clone() };
                published.put(&mut by_namespace.entry(*namespace).or_default().0);
            }
            Event::Retired { namespace, key, slot, reason } => {
                let retired = NamespaceEvent::Retired { key: *key, slot: *slot, reason: *reason };
                retired.put(&mut by_namespace.entry(*namespace).or_default().0);
            }
            Event::Cleared { namespace, epoch } => {
                let change = by_namespace.entry(*namespace).or_default();
                change.0.clear();
                change.1 = Some(StartOver::Cleared(*epoch));
            }
            Event::NamespaceDropped { namespace } => {
                let change = by_namespace.entry(*namespace).or_default();
                change.0.clear();
                change.1 = Some(StartOver::Dropped);
            }
            Event::SessionEnded { .. } => {}
        }
    }
    let by_namespace: Vec<_> = by_namespace
        .into_iter()
        .map(|(namespace, (events, over))| (namespace, NamespaceChange { events: events.freeze(), over }))
        .collect();
    let bytes = by_namespace.iter().map(|(_, change)| change.events.len() + 64).sum();
    EncodedEntry { revision, by_namespace, bytes, at: Instant::now() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foreword_proto::location::{Checksums, Location};
    use foreword_proto::records::PageRecord;
    use foreword_proto::{EntryKey, RetireReason, SlotRef};

    fn retired(namespace: NamespaceId) -> Event {
        let slot = SlotRef { slab: 1, slot: 2, generation: 3 };
        Event::Retired { namespace, key: EntryKey([7; 16]), slot, reason: RetireReason::Evicted }
    }

    fn revisions(tail: Tail) -> Option<(Revision, Vec<Revision>)> {
        match tail {
            Tail::Entries { upto, entries } => Some((upto, entries.iter().map(|entry| entry.revision).collect())),
            Tail::Gone => None,
        }
    }

    #[tokio::test]
    async fn a_tail_is_complete_or_gone() {
        let hub = WatchHub::new(1000);
        hub.restart_at(10);
        hub.push(11, &[retired(1)], |_| Some(1));
        hub.push(12, &[], |_| Some(1));
        hub.push(13, &[retired(2)], |_| Some(1));
        assert_eq!(revisions(hub.tail(10, 1 << 20)), Some((13, vec![11, 13])));
        assert_eq!(revisions(hub.tail(11, 1 << 20)), Some((13, vec![13])));
        assert_eq!(revisions(hub.tail(13, 1 << 20)), Some((13, vec![])));
        assert_eq!(revisions(hub.tail(9, 1 << 20)), None);
        assert_eq!(revisions(hub.tail(10, 0)), Some((11, vec![11])));
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_what_fell_out_is_gone() {
        let hub = WatchHub::new(500);
        hub.restart_at(0);
        for revision in 1..=100 {
            hub.push(revision, &[retired(1)], |_| Some(1));
        }
        assert!(hub.bytes() <= 500);
        assert_eq!(revisions(hub.tail(1, 1 << 20)), None);
        let (upto, tail) = revisions(hub.tail(98, 1 << 20)).unwrap();
        assert_eq!((upto, tail), (100, vec![99, 100]));
    }

    #[test]
    fn a_clear_drops_what_came_before_it_in_its_entry() {
        let entry = encode(1, &[retired(1), Event::Cleared { namespace: 1, epoch: 2 }, retired(1)], |_| Some(1));
        let change = entry.of(1).unwrap();
        assert_eq!(change.over, Some(StartOver::Cleared(2)));
        assert_eq!(NamespaceEvent::decode_all(&change.events, 1).unwrap().len(), 1);
        assert!(entry.of(2).is_none());
    }

    #[test]
    fn a_namespace_dropped_in_the_entry_that_published_in_it_ends_its_watchers() {
        let page = PageRecord {
            key: EntryKey([7; 16]),
            parent: 0,
            location: Location { slot: SlotRef { slab: 1, slot: 2, generation: 3 }, checksums: Checksums::new(&[5]) },
        };
        let events = [Event::Published { namespace: 1, page }, Event::NamespaceDropped { namespace: 1 }];
        let entry = encode(1, &events, |_| None);
        let change = entry.of(1).unwrap();
        assert_eq!((change.over, change.events.is_empty()), (Some(StartOver::Dropped), true));
    }
}
