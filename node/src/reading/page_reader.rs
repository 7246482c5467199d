//! One page from L3: read once for all who want it, verified before anyone sees it.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::checksum::shard_checksum;
use foreword_proto::namespace::Geometry;
use foreword_proto::records::SuspectRecord;
use foreword_proto::{EntryKey, Epoch, Location};
use foreword_seams::{Marker, sometimes};
use tokio::time::Instant;

use super::NamespaceReads;
use super::shared_reads::{Joined, ReadId, SharedRead};
use super::suspects::Suspects;
use super::unreadable::{Retry, Unreadable};
use crate::api::Miss;
use crate::arena::Frame;
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::fair_semaphore::FairPermit;
use crate::l1::{Entrance, L1};
use crate::l3::{IoFailure, L3};
use crate::memory::Memory;
use crate::namespaces::OpenNamespace;
use crate::store::StoreError;
use crate::tasks::Tasks;

/// Reads of one location before its page is suspect.
const READS_MAX: usize = 3;
/// Locations tried for one page: it may move while it is read.
const LOCATIONS_MAX: usize = 3;

/// Brings pages from L3.
pub(crate) struct PageReader {
    memory: Arc<Memory>,
    l1: Arc<L1>,
    l3: Arc<L3>,
    suspects: Arc<Suspects>,
    unreadable: Unreadable,
    counters: Arc<Counters>,
    tasks: Tasks,
    /// A read has this long, whoever waits for it.
    read_max: Duration,
}

impl PageReader {
    /// Reads from this L3 into this memory; what it keeps goes into L1, what does not verify to the suspects.
    pub(crate) fn new(
        config: &NodeConfig,
        memory: Arc<Memory>,
        l1: Arc<L1>,
        l3: Arc<L3>,
        suspects: Arc<Suspects>,
        counters: Arc<Counters>,
        tasks: Tasks,
    ) -> Self {
        let read_max = Duration::from_millis(config.l3_deadline_ms);
        let unreadable = Unreadable::default();
        Self { memory, l1, l3, suspects, unreadable, counters, tasks, read_max }
    }

    /// The pages that L3 would not give.
    pub(super) fn unreadable(&self) -> &Unreadable {
        &self.unreadable
    }

    /// Joins the read of this page, or starts one, which begins with `room`. A failure fails those present, once; the
    /// next asker starts anew.
    pub(super) fn shared_read(
        self: &Arc<Self>,
        reads: &Arc<NamespaceReads>,
        epoch: Epoch,
        key: EntryKey,
        location: Location,
        room: impl Future<Output = Option<FairPermit>> + Send + 'static,
    ) -> SharedRead {
        let id = ReadId { epoch, key, slot: location.slot };
        match reads.shared.join(id) {
            Joined::Present(reading) => {
                sometimes(Marker::ReadCoalesced);
                self.counters.l3_reads_coalesced.add(1);
                reading
            }
            Joined::Own(reading, answer) => {
                let (reader, reads) = (self.clone(), reads.clone());
                self.tasks.spawn(async move {
                    let read = match room.await {
                        Some(room) => {
                            let read = reader.read_page(&reads.open, key, location, Some(epoch)).await;
                            read.map(|frame| (frame, Arc::new(room)))
                        }
                        None => Err(Miss::NoRoom),
                    };
                    // Where L3 answers nothing, the page is not to blame.
                    if matches!(read, Err(Miss::ReadFailed | Miss::Deadline)) && reader.l3.readable().has(id.slot.slab)
                    {
                        reader.unreadable.add(&reads.open, key, id.slot);
                    }
                    reads.shared.ended(&id);
                    let _ = answer.send(read);
                });
                reading
            }
        }
    }

    /// Reads and verifies a page; with `keep`, it stays in L1 as a page of that epoch if the index still names what was
    /// read.
    pub(super) async fn read_page(
        &self,
        open: &OpenNamespace,
        key: EntryKey,
        mut location: Location,
        keep: Option<Epoch>,
    ) -> Result<Frame, Miss> {
        let deadline = Instant::now() + self.read_max;
        for _ in 0..LOCATIONS_MAX {
            let mut bad_shard = 0;
            // A mismatch is read again: it may have been torn, or short for once. Only then is the page suspect.
            for again in 0..READS_MAX {
                match self.read_or_repeat(open, key, &location, deadline).await? {
                    Ok(frame) => {
                        if again > 0 {
                            sometimes(Marker::MismatchHealed);
                        }
                        if let Some(epoch) = keep {
                            self.keep_read(open, epoch, key, &location, &frame);
                        }
                        return Ok(frame);
                    }
                    Err(shard) => bad_shard = shard,
                }
                self.counters.checksum_mismatches.add(1);
                match open.mirror.read(|view| view.location(&key)) {
                    None => {
                        sometimes(Marker::ReadMetReusedSlot);
                        return Err(Miss::Absent);
                    }
                    Some(now) if now != location => {
                        sometimes(Marker::ReadMetReusedSlot);
                        location = now;
                        bad_shard = u32::MAX;
                        break;
                    }
                    Some(_) => {}
                }
            }
            if bad_shard != u32::MAX {
                self.suspect(open, key, &location, bad_shard);
                return Err(Miss::Checksum);
            }
        }
        Err(Miss::Checksum)
    }

    /// A read that L3 could not do is done once more.
    async fn read_or_repeat(
        &self,
        open: &OpenNamespace,
        key: EntryKey,
        location: &Location,
        deadline: Instant,
    ) -> Result<Result<Frame, u32>, Miss> {
        match self.read_once(open, key, location, deadline).await {
            Err(Miss::ReadFailed) => {
                self.counters.l3_reads_repeated.add(1);
                self.read_once(open, key, location, deadline).await
            }
            read => read,
        }
    }

    /// One read: the page, or the first shard whose bytes are not the page's.
    async fn read_once(
        &self,
        open: &OpenNamespace,
        key: EntryKey,
        location: &Location,
        deadline: Instant,
    ) -> Result<Result<Frame, u32>, Miss> {
        let frame = self.memory.frame(open.tenant, open.geometry.frame_bytes, deadline).await.ok_or(Miss::NoRoom)?;
        let read = self.l3.read(open.shape, location.slot, frame, deadline).await;
        let (frame, bytes) = read.map_err(|failure| match failure {
            IoFailure::BreakerOpen => Miss::BreakerOpen,
            IoFailure::Store(StoreError::TimedOut) => {
                sometimes(Marker::ReadDeadlinePassed);
                Miss::Deadline
            }
            IoFailure::Store(error) => {
                tracing::debug!(%key, %error, "an L3 read failed");
                Miss::ReadFailed
            }
        })?;
        match bad_shard(&open.geometry, &key, location, &frame.bytes()[..bytes as usize]) {
            None => Ok(Ok(frame.freeze())),
            // It says nothing of the bytes that did not come.
            Some(_) if bytes < open.geometry.frame_bytes => {
                tracing::debug!(%key, bytes, "an L3 read was short");
                Err(Miss::ReadFailed)
            }
            Some(shard) => Ok(Err(shard)),
        }
    }

    /// The index may say by now that the page is gone, deleted even: then no copy is kept. Within the mirror's lock, so
    /// that a purge comes after it.
    fn keep_read(&self, open: &OpenNamespace, epoch: Epoch, key: EntryKey, location: &Location, frame: &Frame) {
        open.mirror.read(|view| {
            if view.epoch() == epoch && view.slot(&key) == Some(location.slot) {
                self.l1.write(|pages| pages.insert(open.page(epoch, key), frame.clone(), Entrance::Protected));
            }
        });
    }

    /// Tries a page that L3 would not give once more; gives whether, and when, it is to be tried again.
    pub(super) async fn try_again(&self, open: &OpenNamespace, key: EntryKey, retry: Retry) -> Option<Retry> {
        let (epoch, location) = open.mirror.read(|view| (view.epoch(), view.location_of(&key)));
        let location = location.filter(|location| location.slot == retry.slot)?;
        let checksum = location.checksums.as_slice()[0];
        match self.read_page(open, key, location, Some(epoch)).await {
            Ok(_) => {
                sometimes(Marker::UnreadableHealed);
                open.mirror.write(|view| view.trust(&key, retry.slot));
                None
            }
            // L3 was not asked: it says nothing of the page.
            Err(Miss::BreakerOpen | Miss::NoRoom) => Some(retry.put_off()),
            Err(Miss::ReadFailed | Miss::Deadline) => {
                let next = retry.after_failure();
                if next.is_suspect() && self.l3.readable().has(retry.slot.slab) {
                    self.suspects.add(open.id, SuspectRecord { key, slot: retry.slot, shard: 0, checksum });
                }
                Some(next)
            }
            // Gone, or judged by its bytes.
            Err(Miss::Absent | Miss::Checksum | Miss::Behind) => None,
        }
    }

    fn suspect(&self, open: &OpenNamespace, key: EntryKey, location: &Location, shard: u32) {
        open.mirror.write(|view| view.avoid(key, location.slot));
        let checksum = location.checksums.as_slice()[shard as usize];
        tracing::warn!(namespace = open.id, %key, slot = ?location.slot, shard, "a page on L3 does not verify");
        self.suspects.add(open.id, SuspectRecord { key, slot: location.slot, shard, checksum });
    }
}

/// The first shard whose bytes are not what the location promises; bytes that are missing are bad.
fn bad_shard(geometry: &Geometry, key: &EntryKey, location: &Location, bytes: &[u8]) -> Option<u32> {
    let expected = location.checksums.as_slice();
    (0..geometry.shards()).find_map(|shard| {
        let good = bytes
            .get(geometry.shard_range(shard))
            .is_some_and(|bytes| shard_checksum(key, shard as u32, bytes) == expected[shard]);
        (!good).then_some(shard as u32)
    })
}
