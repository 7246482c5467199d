//! Records the watch stream of one namespace from the start of a run: the evidence for every page that is gone at the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::records::NamespaceEvent;
use foreword_proto::wire::meta as m;
use foreword_proto::wire::meta::watch_request::Kind as Ask;
use foreword_proto::wire::meta::watch_response::Kind;
use foreword_proto::{BadInput, EntryKey, RetireReason, Revision};
use foreword_seams::rpc::held_open;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::clients::Group;

/// Pause before another replica is asked for the stream.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long the first answer of the first stream may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A stream that says nothing for so long is asked for again elsewhere: a paused replica must not end the record.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What the stream said.
#[derive(Debug, Default)]
pub struct Record {
    /// The revision up to which every event is in the record.
    pub revision: Revision,
    epoch: u32,
    /// What the stream tells of revisions holds for the record: it is past its resync, or went on.
    tailing: bool,
    resyncing: bool,
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

    fn take(&mut self, kind: Kind, shards: usize) -> Result<(), BadInput> {
        match kind {
            Kind::Begin(begin) => {
                // A resync in the middle of a record stands for events that were not seen.
                self.gap |= self.revision > 0 && begin.revision > self.revision;
                (self.epoch, self.tailing, self.resyncing) = (begin.epoch, false, true);
            }
            Kind::Bucket(_) => {}
            Kind::End(end) => {
                self.revision = self.revision.max(end.revision);
                (self.tailing, self.resyncing) = (true, false);
            }
            Kind::Events(events) => {
                for entry in events.entries {
                    self.entry(entry.revision, &entry.events, shards)?;
                }
                self.tailing |= !self.resyncing;
                self.reached(events.revision);
            }
            Kind::Progress(progress) => self.reached(progress.revision),
            Kind::Dropped(_) => self.gap = true,
            Kind::Resync(resync) => {
                tracing::debug!(reason = resync.reason, "the watch stream starts again");
                self.gap = true;
                self.epoch = 0;
            }
        }
        Ok(())
    }

    fn reached(&mut self, revision: Revision) {
        if self.tailing {
            self.revision = self.revision.max(revision);
        }
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
        let record = Arc::new(Mutex::new(Record::default()));
        let (begun, mut beginning) = watch::channel(false);
        let task = tokio::spawn(record_for_ever(group, namespace_id, shards, Arc::clone(&record), begun));
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
        if let Err(status) = one_stream(&group, namespace_id, shards, &record, &begun).await {
            tracing::debug!(%status, "the watch stream broke; the next replica is asked");
        }
        group.turn();
        sleep(RETRY_PAUSE).await;
    }
}

async fn one_stream(
    group: &Group,
    namespace_id: u32,
    shards: usize,
    record: &Mutex<Record>,
    begun: &watch::Sender<bool>,
) -> Result<(), tonic::Status> {
    let open = {
        let mut record = record.lock();
        (record.tailing, record.resyncing) = (false, false);
        // Without an epoch there was no resync yet, or the last stream asked for one.
        let from_revision = if record.epoch == 0 { 0 } else { record.revision };
        m::WatchOpen { namespace_id, from_revision, epoch: record.epoch, ..m::WatchOpen::default() }
    };
    let first = m::WatchRequest { kind: Some(Ask::Open(open)), node: "recorder".into() };
    let requests = held_open(vec![first], m::WatchRequest::default());
    let silence = |_| tonic::Status::deadline_exceeded("the stream is silent");
    let mut replica = group.pick();
    let mut stream = timeout(SILENCE_MAX, replica.watch(requests)).await.map_err(silence)??.into_inner();
    while let Some(message) = timeout(SILENCE_MAX, stream.message()).await.map_err(silence)?? {
        let Some(kind) = message.kind else { continue };
        let resync = matches!(kind, Kind::Resync(_) | Kind::Dropped(_));
        let whole = matches!(kind, Kind::End(_));
        record.lock().take(kind, shards).map_err(tonic::Status::from)?;
        if whole {
            begun.send_replace(true);
        }
        if resync {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use foreword_proto::location::{Checksums, Location};
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
        let mut record = Record::default();
        let location = Location { slot: slot(2), checksums: Checksums::new(&[7]) };
        let published = NamespaceEvent::Published { key, parent: 0, location };
        let retired = NamespaceEvent::Retired { key, slot: slot(2), reason: RetireReason::Evicted };
        record.take(Kind::End(m::ResyncEnd { revision: 3 }), 1).unwrap();
        record.take(events(9, &[(5, published.clone()), (8, retired)]), 1).unwrap();
        record.take(events(9, &[(5, published)]), 1).unwrap();
        assert_eq!((record.revision, record.slots_reused), (9, 1), "an event that comes twice counts once");
        assert!(record.retired_after(&key, 5));
        assert!(!record.retired_after(&key, 8));
        assert!(!record.retired_after(&PageKey::opaque(b"b").entry(), 0));
    }

    #[test]
    fn a_resync_in_the_middle_is_a_gap() {
        let mut record = Record::default();
        let begin = |revision| Kind::Begin(m::ResyncBegin { revision, epoch: 1, entries: 0 });
        record.take(begin(4), 1).unwrap();
        record.take(Kind::End(m::ResyncEnd { revision: 4 }), 1).unwrap();
        assert!(!record.gap);
        record.take(begin(9), 1).unwrap();
        assert!(record.gap);
    }
}
