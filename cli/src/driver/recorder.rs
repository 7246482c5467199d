//! Records the watch stream of one namespace from the start of a run: the evidence for every page that is gone at the
//! end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use foreword_client::watch::{Cursor, Ended, WatchStream, Watcher};
use foreword_client::{Group, Replica};
use foreword_proto::records::NamespaceEvent;
use foreword_proto::wire::meta::watch_response::Kind;
use foreword_proto::{BadInput, EntryKey, RetireReason, Revision};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Status;

/// Pause before another replica is asked for the stream.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long the first answer of the first stream may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A stream that says nothing for so long is asked for again elsewhere: a paused replica must not end the record.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What the stream said.
#[derive(Debug)]
pub struct Record {
    /// The revision up to which every event is in the record.
    pub revision: Revision,
    cursor: Cursor,
    /// Of each key that was retired, the last revision at which it was.
    retired: HashMap<EntryKey, Revision>,
    /// Published pages whose slot was used before.
    pub slots_reused: u64,
    /// Pages retired because their bytes on L3 were bad.
    pub retired_as_suspect: u64,
    /// The stream skipped events once: what is missing then cannot be explained.
    pub gap: bool,
}

impl Record {
    /// Whether a retire of this key at a later revision than `acked` is in the record.
    pub fn retired_after(&self, key: &EntryKey, acked: Revision) -> bool {
        self.retired.get(key).is_some_and(|retired| *retired > acked)
    }

    fn new(namespace_id: u32) -> Self {
        Self {
            revision: 0,
            cursor: Cursor::new(namespace_id),
            retired: HashMap::new(),
            slots_reused: 0,
            retired_as_suspect: 0,
            gap: false,
        }
    }

    /// One message. False: the stream is of no further use.
    fn take(&mut self, kind: &Kind, shards: usize) -> Result<bool, BadInput> {
        match kind {
            // A resync in the middle of a record stands for events that were not seen.
            Kind::Begin(begin) => self.gap |= self.revision > 0 && begin.revision > self.revision,
            Kind::Events(events) => {
                for entry in &events.entries {
                    self.entry(entry.revision, &entry.events, shards)?;
                }
            }
            Kind::Resync(_) | Kind::Dropped(_) => self.gap = true,
            Kind::Bucket(_) | Kind::End(_) | Kind::Progress(_) => {}
        }
        let goes_on = self.cursor.take(kind);
        self.revision = self.revision.max(self.cursor.revision());
        Ok(goes_on)
    }

    fn entry(&mut self, revision: Revision, events: &[u8], shards: usize) -> Result<(), BadInput> {
        let seen = revision <= self.revision;
        for event in NamespaceEvent::decode_all(events, shards)? {
            match event {
                NamespaceEvent::Published { location, .. } => {
                    self.slots_reused += u64::from(!seen && location.slot.generation > 1);
                }
                NamespaceEvent::Retired { key, reason, .. } => {
                    self.retired_as_suspect += u64::from(!seen && reason == RetireReason::Suspect);
                    let last = self.retired.entry(key).or_default();
                    *last = revision.max(*last);
                }
            }
        }
        Ok(())
    }
}

/// A recording under way.
pub struct Recorder {
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Starts to record, and returns once the stream has begun: everything published from now on is in the record.
    pub async fn start(group: Group, namespace_id: u32, shards: usize) -> anyhow::Result<Self> {
        let record = Arc::new(Mutex::new(Record::new(namespace_id)));
        let (begun, mut beginning) = watch::channel(false);
        let task = tokio::spawn(record_for_ever(group.apart(), namespace_id, shards, Arc::clone(&record), begun));
        let recorder = Self { record, task };
        timeout(START_TIMEOUT, beginning.wait_for(|begun| *begun))
            .await
            .map_err(|_| anyhow::anyhow!("watch: no replica began a stream of namespace {namespace_id} in time"))??;
        Ok(recorder)
    }

    /// Reads the record.
    pub fn read<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&self.record.lock())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record_for_ever(
    group: Group,
    namespace_id: u32,
    shards: usize,
    record: Arc<Mutex<Record>>,
    begun: watch::Sender<bool>,
) {
    loop {
        let member = group.member();
        let who = Watcher { node: "recorder", even_alone: group.went_round() };
        let ended = one_stream((&mut member.connection.clone().replica(), who), shards, &record, &begun).await;
        tracing::debug!(namespace_id, %ended, "the watch stream broke; the next replica is asked");
        group.failed(&member, &ended.status());
        sleep(RETRY_PAUSE).await;
    }
}

async fn one_stream(
    (replica, who): (&mut Replica, Watcher<'_>),
    shards: usize,
    record: &Mutex<Record>,
    begun: &watch::Sender<bool>,
) -> Ended {
    let followed = async {
        let mut cursor = record.lock().cursor.clone();
        let mut stream = WatchStream::of(replica, who, &mut cursor).await?;
        record.lock().cursor = cursor;
        loop {
            let (_, kind) = stream.next_within(SILENCE_MAX).await?;
            if !record.lock().take(&kind, shards).map_err(Status::from)? {
                return Err(Ended::Closed);
            }
            if matches!(kind, Kind::End(_)) {
                begun.send_replace(true);
            }
        }
    };
    let Err::<Infallible, Ended>(ended) = followed.await;
    ended
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use foreword_proto::location::{Checksums, Location};
    use foreword_proto::wire::meta as m;
    use foreword_proto::{PageKey, SlotRef};

    use super::*;

    fn slot(generation: u32) -> SlotRef {
        SlotRef { slab: 1, slot: 2, generation }
    }

    fn events(revision: u64, entries: &[(u64, NamespaceEvent)]) -> Kind {
        let entries = entries.iter().map(|(revision, event)| {
            let mut events = BytesMut::new();
            event.put(&mut events);
            m::EntryEvents { revision: *revision, events: events.freeze() }
        });
        Kind::Events(m::Events { revision, entries: entries.collect() })
    }

    #[test]
    fn only_a_later_retire_explains_an_absent_page() {
        let key = PageKey::opaque(b"a").entry();
        let mut record = Record::new(1);
        let location = Location { slot: slot(2), checksums: Checksums::new(&[7]) };
        let published = NamespaceEvent::Published { key, parent: 0, location };
        let retired = NamespaceEvent::Retired { key, slot: slot(2), reason: RetireReason::Evicted };
        record.take(&Kind::End(m::ResyncEnd { revision: 3 }), 1).unwrap();
        record.take(&events(9, &[(5, published.clone()), (8, retired)]), 1).unwrap();
        record.take(&events(9, &[(5, published)]), 1).unwrap();
        assert_eq!((record.revision, record.slots_reused), (9, 1), "an event that comes twice counts once");
        assert!(record.retired_after(&key, 5));
        assert!(!record.retired_after(&key, 8));
        assert!(!record.retired_after(&PageKey::opaque(b"b").entry(), 0));
    }

    #[test]
    fn a_resync_in_the_middle_is_a_gap() {
        let mut record = Record::new(1);
        let begin = |revision| Kind::Begin(m::ResyncBegin { revision, epoch: 1, entries: 0, deleted_at: 0 });
        record.take(&begin(4), 1).unwrap();
        record.take(&Kind::End(m::ResyncEnd { revision: 4 }), 1).unwrap();
        assert!(!record.gap);
        record.take(&begin(9), 1).unwrap();
        assert!(record.gap);
    }
}
