//! One page on its way in: gathered from its shards, written, published, or given up.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foreword_proto::checksum::ShardSum;
use foreword_proto::key::ParentHint;
use foreword_proto::location::Checksums;
use foreword_proto::namespace::Geometry;
use foreword_proto::{BadInput, EntryKey, Epoch, PutOutcome};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::PieceBytes;
use crate::arena::{Frame, FrameMut, FramePart};
use crate::fair_semaphore::FairPermit;
use crate::plan::gather::{Accepted, Begin, Gather, WriterId};

/// A page on its way in.
pub(super) struct PageWork {
    pub(super) epoch: Epoch,
    pub(super) key: EntryKey,
    pub(super) parent: ParentHint,
    pub(super) started: Instant,
    /// None once the page is whole, or given up.
    gathering: Mutex<Option<Gathering>>,
    /// Some while it is on L3 and the group has not answered.
    publishing: Mutex<Option<Publishing>>,
    outcome: OnceLock<PutOutcome>,
    settled: Notify,
}

struct Gathering {
    gather: Gather,
    /// One a shard. None while its writer copies into it.
    shards: Vec<Option<ShardBytes>>,
    room: FairPermit,
}

/// A shard's place in the page's frame, and the checksum of what has come of it.
struct ShardBytes {
    part: FramePart,
    sum: ShardSum,
}

/// A page on L3 that is to be published: what it takes until the group answers, or until it has waited too long.
pub(super) struct Publishing {
    pub(super) frame: Frame,
    pub(super) since: Instant,
    _room: FairPermit,
}

/// A page whose bytes are all here.
pub(super) struct WholePage {
    pub(super) frame: Frame,
    pub(super) checksums: Checksums,
    pub(super) room: FairPermit,
}

/// What became of a piece.
pub(super) enum Piece {
    /// Taken; more of the shard is to come.
    Taken,
    /// The shard is whole; with it, maybe the page.
    ShardWhole(Option<WholePage>),
    /// Another writer has the shard: the bytes are not needed.
    Joined,
}

impl PageWork {
    /// A page of which nothing has come; its padding is zeroed.
    pub(super) fn new(
        epoch: Epoch,
        key: EntryKey,
        parent: ParentHint,
        geometry: &Geometry,
        mut frame: FrameMut,
        room: FairPermit,
    ) -> Self {
        zero_padding(geometry, frame.bytes_mut());
        let parts = frame.split((0..geometry.shards()).map(|shard| geometry.shard_range(shard)));
        let shard = |(shard, part)| Some(ShardBytes { part, sum: ShardSum::new(&key, shard) });
        let shards = (0..).zip(parts).map(shard).collect();
        let gathering = Gathering { gather: Gather::new(&geometry.shard_bytes), shards, room };
        Self {
            epoch,
            key,
            parent,
            started: Instant::now(),
            gathering: Mutex::new(Some(gathering)),
            publishing: Mutex::default(),
            outcome: OnceLock::new(),
            settled: Notify::new(),
        }
    }

    /// Takes bytes of a shard from its writer. Writers of other shards do so at the same time: the bytes are copied
    /// under no lock.
    pub(super) fn piece(
        &self,
        shard: usize,
        writer: WriterId,
        offset: u64,
        bytes: &dyn PieceBytes,
    ) -> Result<Piece, BadInput> {
        let Some((mut to, accepted)) = self.check_out(shard, writer, offset, bytes.len() as u64)? else {
            return Ok(Piece::Joined);
        };
        if offset == 0 {
            // An earlier writer may have left in the middle.
            to.sum = ShardSum::new(&self.key, shard as u32);
        }
        let start = offset as usize;
        to.sum.fill(&mut to.part.bytes_mut()[start..start + bytes.len()], |at, to| bytes.copy_to(at, to));
        let checksum = to.sum.finish();
        let mut slot = self.gathering.lock();
        let Some(gathering) = slot.as_mut() else { return Ok(Piece::Joined) };
        gathering.shards[shard] = Some(to);
        if accepted == Accepted::More {
            return Ok(Piece::Taken);
        }
        if !gathering.gather.arrived(shard, checksum) {
            return Ok(Piece::ShardWhole(None));
        }
        Ok(Piece::ShardWhole(slot.take().and_then(Gathering::whole)))
    }

    /// The shard, for its writer to copy these bytes into. None: they are not needed.
    fn check_out(
        &self,
        shard: usize,
        writer: WriterId,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<(ShardBytes, Accepted)>, BadInput> {
        let mut slot = self.gathering.lock();
        let Some(gathering) = slot.as_mut() else { return Ok(None) };
        if gathering.gather.begin(shard, writer) == Begin::Join {
            return Ok(None);
        }
        let accepted = gathering.gather.accept(shard, writer, offset, bytes).map_err(|misplaced| {
            let (at, of) = (misplaced.offset_expected, misplaced.shard_bytes);
            let got = format!("{bytes} bytes at offset {offset}");
            BadInput::new("pieces", format!("bytes from offset {at} within a shard of {of} bytes, got {got}"))
        })?;
        // It is there: a writer gives one piece after the other.
        Ok(gathering.shards[shard].take().map(|shard| (shard, accepted)))
    }

    /// The writer is gone before its shard was whole. True: nothing else is here of the page.
    pub(super) fn abandon(&self, shard: usize, writer: WriterId) -> bool {
        let mut slot = self.gathering.lock();
        let Some(gathering) = slot.as_mut() else { return false };
        gathering.gather.abandon(shard, writer);
        gathering.gather.is_empty()
    }

    /// Gives the page up if it is still gathering: its frame is free at once. False: it is whole, or was given up
    /// before.
    pub(super) fn give_up(&self) -> bool {
        self.gathering.lock().take().is_some()
    }

    /// It is on L3, and to be published.
    pub(super) fn publish(&self, frame: Frame, room: FairPermit) {
        *self.publishing.lock() = Some(Publishing { frame, since: Instant::now(), _room: room });
    }

    /// True if it has been waiting for the group for this long.
    pub(super) fn is_publishing_for(&self, time: Duration) -> bool {
        self.publishing.lock().as_ref().is_some_and(|publishing| publishing.since.elapsed() >= time)
    }

    /// Ends that it takes memory and room. None: it had waited too long before.
    pub(super) fn end_publishing(&self) -> Option<Publishing> {
        self.publishing.lock().take()
    }

    /// Which of these shards it lacks. None: it is whole, or was given up.
    pub(super) fn lacks(&self, shards: &BTreeSet<usize>) -> Option<BTreeSet<usize>> {
        let slot = self.gathering.lock();
        let missing = slot.as_ref()?.gather.missing();
        Some(missing.filter(|shard| shards.contains(shard)).collect())
    }

    /// True if no more bytes of this shard are needed.
    pub(super) fn has(&self, shard: usize) -> bool {
        self.gathering.lock().as_ref().is_none_or(|gathering| gathering.gather.has(shard))
    }

    /// True while shards are missing.
    pub(super) fn is_gathering(&self) -> bool {
        self.gathering.lock().is_some()
    }

    /// Says what became of the page. False: that was said before, and the first word counts.
    pub(super) fn settle(&self, outcome: PutOutcome) -> bool {
        let first = self.outcome.set(outcome).is_ok();
        self.settled.notify_waiters();
        first
    }

    /// What became of the page, if that is known.
    pub(super) fn outcome(&self) -> Option<PutOutcome> {
        self.outcome.get().cloned()
    }

    /// Waits for what becomes of the page.
    pub(super) async fn settled(self: Arc<Self>) -> PutOutcome {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            settled.await;
        }
    }
}

impl Gathering {
    fn whole(self) -> Option<WholePage> {
        let checksums = Checksums::new(&self.gather.checksums()?);
        let parts = self.shards.into_iter().map(|shard| Some(shard?.part)).collect::<Option<Vec<_>>>()?;
        Some(WholePage { frame: FrameMut::join(parts)?.freeze(), checksums, room: self.room })
    }
}

fn zero_padding(geometry: &Geometry, bytes: &mut [u8]) {
    for shard in 0..geometry.shards() {
        let start = geometry.shard_range(shard).end;
        let end = geometry.shard_offsets.get(shard + 1).map_or(bytes.len(), |next| *next as usize);
        bytes[start..end].fill(0);
    }
}
