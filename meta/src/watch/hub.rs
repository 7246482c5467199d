//! What watchers tail: the last entries' events, each encoded once for all of them, bounded in time and bytes; and who
//! is woken by which.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foreword_proto::limits::{WATCH_RESYNCS_MAX, WATCH_STREAMS_MAX};
use foreword_proto::{NamespaceId, Revision};
use foreword_seams::Telemetry;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::encoded::EncodedEntry;
use super::measures::Measures;
use super::wakes::{Wake, Wakes};
use crate::replica::observer::{EntryEvents, Observer};
use crate::state::State;

/// Events are kept at least this long, as far as the bytes allow.
const KEPT_MIN: Duration = Duration::from_secs(600);

#[derive(Default)]
struct Ring {
    /// Every entry above this revision that changed anything is in `entries`.
    complete_after: Revision,
    entries: VecDeque<(Arc<EncodedEntry>, Instant)>,
    bytes: usize,
}

/// The ring of recent entries and the revision it has reached.
pub struct WatchHub {
    ring: RwLock<Ring>,
    bytes_max: usize,
    pub(super) stuck: Duration,
    revision: AtomicU64,
    wakes: Mutex<Wakes>,
    /// Streams that may still be opened.
    pub(super) streams: Arc<Semaphore>,
    /// Whose turn it is to be resynced.
    pub(super) turns: Arc<Semaphore>,
    pub(super) measures: Measures,
}

/// What a watcher finds behind its revision.
pub enum Tail {
    /// Entries after it that changed anything, oldest first, and the revision up to which that is complete.
    Entries { upto: Revision, entries: Vec<Arc<EncodedEntry>> },
    /// Entries after it are not kept any more.
    Gone,
}

impl WatchHub {
    /// An empty hub that keeps at most `bytes_max` of encoded events, and whose watchers are dropped when they take
    /// nothing for `stuck`.
    pub fn new(bytes_max: usize, stuck: Duration, telemetry: &Telemetry) -> Self {
        Self {
            ring: RwLock::default(),
            bytes_max,
            stuck,
            revision: AtomicU64::new(0),
            wakes: Mutex::default(),
            streams: Arc::new(Semaphore::new(WATCH_STREAMS_MAX)),
            turns: Arc::new(Semaphore::new(WATCH_RESYNCS_MAX)),
            measures: Measures::new(telemetry),
        }
    }

    /// Forgets everything: the state jumped to `revision`. Whoever has not seen that revision is resynced.
    pub fn restart_at(&self, revision: Revision) {
        let forgotten = {
            let ring = Ring { complete_after: revision, ..Ring::default() };
            std::mem::replace(&mut *self.ring.write(), ring)
        };
        drop(forgotten);
        self.measures.hub_bytes.set(0.0);
        let woken = self.wakes.lock().all(revision);
        self.revision.store(revision, Ordering::Release);
        woken.iter().for_each(|wake| wake.up());
    }

    /// Adds an entry's events; entries come in order.
    pub fn push(&self, entry: &EntryEvents) {
        let revision = entry.revision;
        let mut woken = Vec::new();
        if !entry.events.is_empty() {
            let began = Instant::now();
            let encoded = Arc::new(EncodedEntry::new(entry));
            woken = self.wakes.lock().touched(&encoded);
            let forgotten = self.keep(encoded, began);
            self.measures.encoded.record(began.elapsed());
            drop(forgotten);
        }
        // Told only now: who sees the revision finds the entry, and that it concerns him.
        self.revision.store(revision, Ordering::Release);
        woken.iter().for_each(|wake| wake.up());
        self.wakes.lock().eager().for_each(|wake| wake.up());
    }

    /// Takes an entry in; answers with those that leave, to be freed outside the lock.
    fn keep(&self, entry: Arc<EncodedEntry>, now: Instant) -> Vec<Arc<EncodedEntry>> {
        let mut ring = self.ring.write();
        ring.bytes += entry.bytes;
        ring.entries.push_back((entry, now));
        let mut forgotten = Vec::new();
        while let Some((_, at)) = ring.entries.front() {
            let over = ring.bytes > self.bytes_max;
            // Old entries cost memory only; they are dropped once they fill half of what is allowed.
            let old = ring.bytes > self.bytes_max / 2 && now - *at > KEPT_MIN;
            if !over && !old {
                break;
            }
            let Some((oldest, _)) = ring.entries.pop_front() else { break };
            ring.bytes -= oldest.bytes;
            ring.complete_after = oldest.revision;
            forgotten.push(oldest);
        }
        self.measures.hub_bytes.set(ring.bytes as f64);
        forgotten
    }

    /// Entries after `from`, up to about `bytes_max` of them.
    pub fn tail(&self, from: Revision, bytes_max: usize) -> Tail {
        // Read first: what the ring has beyond it is sent the next time.
        let upto = self.revision();
        let ring = self.ring.read();
        if from < ring.complete_after {
            return Tail::Gone;
        }
        let start = ring.entries.partition_point(|(entry, _)| entry.revision <= from);
        let mut bytes = 0;
        let mut entries: Vec<Arc<EncodedEntry>> = Vec::new();
        for (entry, _) in ring.entries.range(start..).take_while(|(entry, _)| entry.revision <= upto) {
            if bytes > bytes_max {
                let last = entries.last().map_or(from, |entry| entry.revision);
                return Tail::Entries { upto: last, entries };
            }
            bytes += entry.bytes;
            entries.push(entry.clone());
        }
        Tail::Entries { upto: upto.max(from), entries }
    }

    /// The revision it has reached.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Bytes of encoded events held.
    pub fn bytes(&self) -> usize {
        self.ring.read().bytes
    }

    /// From now on entries that change this namespace wake `wake`.
    pub(super) fn follow(&self, namespace: NamespaceId, wake: &Arc<Wake>) {
        self.wakes.lock().follow(namespace, wake);
    }

    /// The counterpart of [`Self::follow`].
    pub(super) fn leave(&self, namespace: NamespaceId, wake: &Arc<Wake>) {
        self.wakes.lock().leave(namespace, wake);
    }

    /// Whether every entry wakes `wake`.
    pub(super) fn be_eager(&self, wake: &Arc<Wake>, eager: bool) {
        self.wakes.lock().be_eager(wake, eager);
    }
}

impl Observer for WatchHub {
    fn applied(&self, _: &State, _: &Arc<EntryEvents>) {}

    fn released(&self, entry: &Arc<EntryEvents>) {
        self.push(entry);
    }

    fn replaced(&self, state: &State) {
        self.restart_at(state.revision());
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::{EntryKey, RetireReason, SlotRef};

    use super::*;
    use crate::state::command::Event;

    fn hub(bytes_max: usize) -> WatchHub {
        WatchHub::new(bytes_max, Duration::from_secs(30), &Telemetry::new())
    }

    fn push(hub: &WatchHub, revision: Revision, namespaces: &[NamespaceId]) {
        let slot = SlotRef { slab: 1, slot: 2, generation: 3 };
        let retired = |namespace: &NamespaceId| Event::Retired {
            namespace: *namespace,
            key: EntryKey([7; 16]),
            slot,
            reason: RetireReason::Evicted,
        };
        hub.push(&EntryEvents { revision, events: namespaces.iter().map(retired).collect() });
    }

    fn revisions(tail: Tail) -> Option<(Revision, Vec<Revision>)> {
        match tail {
            Tail::Entries { upto, entries } => Some((upto, entries.iter().map(|entry| entry.revision).collect())),
            Tail::Gone => None,
        }
    }

    #[tokio::test]
    async fn a_tail_is_complete_or_gone() {
        let hub = hub(1000);
        hub.restart_at(10);
        push(&hub, 11, &[1]);
        push(&hub, 12, &[]);
        push(&hub, 13, &[2]);
        assert_eq!(revisions(hub.tail(10, 1 << 20)), Some((13, vec![11, 13])));
        assert_eq!(revisions(hub.tail(11, 1 << 20)), Some((13, vec![13])));
        assert_eq!(revisions(hub.tail(13, 1 << 20)), Some((13, vec![])));
        assert_eq!(revisions(hub.tail(9, 1 << 20)), None);
        assert_eq!(revisions(hub.tail(10, 0)), Some((11, vec![11])));
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_what_fell_out_is_gone() {
        let hub = hub(500);
        hub.restart_at(0);
        for revision in 1..=100 {
            push(&hub, revision, &[1]);
        }
        assert!(hub.bytes() <= 500);
        assert_eq!(revisions(hub.tail(1, 1 << 20)), None);
        let (upto, tail) = revisions(hub.tail(98, 1 << 20)).unwrap();
        assert_eq!((upto, tail), (100, vec![99, 100]));
    }

    async fn woken(wake: &Wake) -> bool {
        tokio::time::timeout(Duration::ZERO, wake.woken()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_wakes_those_it_concerns_and_those_who_wait_for_any() {
        let hub = hub(1 << 20);
        let [seven, eight] = [7, 8].map(|namespace| {
            let wake = Arc::default();
            hub.follow(namespace, &wake);
            wake
        });
        push(&hub, 1, &[7, 7, 9]);
        assert!(woken(&seven).await && !woken(&eight).await);
        assert_eq!((seven.touched(), eight.touched()), (1, 0));
        hub.be_eager(&eight, true);
        push(&hub, 2, &[]);
        assert!(!woken(&seven).await && woken(&eight).await);
        hub.be_eager(&eight, false);
        hub.leave(7, &seven);
        push(&hub, 3, &[7]);
        assert!(!woken(&seven).await && !woken(&eight).await);
        // A state that was replaced concerns everybody who follows anything.
        hub.restart_at(9);
        assert!(!woken(&seven).await && woken(&eight).await);
        assert_eq!(eight.touched(), 9);
    }
}
