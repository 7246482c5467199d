//! L3 as the agent sees it: whole pages read and written with a deadline, behind the breaker.
//!
//! The store gives completions; [`L3::run`] hands each to whoever waits for it. An I/O whose waiter has left still
//! completes, and its frame is free only then.

mod health;
mod slabs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::{SlabId, SlotRef};
use foreword_seams::seldom::Seldom;
use foreword_seams::{Marker, sometimes};
use futures::stream::{self, FuturesUnordered, Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::arena::{Frame, FrameMut, TenantId};
use crate::counters::Counters;
use crate::fair_semaphore::{FairPermit, FairSemaphore};
use crate::plan::breaker::BreakerState;
use crate::plan::fair_shares::Asker;
use crate::plan::health::Direction;
use crate::store::{Completion, Io, OpId, SharedStore, StoreError, Transfer};
pub use health::Readable;
use health::{Admitted, Health, is_no_room};
use slabs::Slabs;

/// Bytes that a probe reads.
const PROBE_BYTES: u64 = 4096;
/// Slabs that are probed at once.
const PROBES_AT_ONCE: usize = 4;

/// A tenant that is not the only one leaves this part of the reads that the store does at once to others, also while
/// its own hang. Alone it has twice as many there: the store always has a next one.
const READS_KEPT_PART: u32 = 4;

/// An I/O without an answer for this long gets none any more: longer than any store's patience.
const LOST_AFTER: Duration = Duration::from_secs(120);
/// Lost I/Os that are forgotten at a time.
const GIVEN_UP_AT_ONCE: usize = 64;

/// How pages of one kind lie on L3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageShape {
    pub slot_bytes: u32,
    /// Bytes moved: the sum of the strides.
    pub frame_bytes: u64,
}

/// Why there are no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IoFailure {
    /// It failed too often of late, this slab or the whole.
    #[error("the breaker is open")]
    BreakerOpen,
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What became of one page's write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// All bytes are on L3.
    Whole,
    /// Nothing was submitted: the slot is as it was.
    NotSubmitted(NotSubmitted),
    /// Nobody knows what the slot holds, or when a late write reaches it.
    Unknown(StoreError),
}

/// Why a write was not submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSubmitted {
    BreakerOpen,
    Fenced,
    NoSlab,
    /// L3 has no room, and no byte was written.
    NoRoom,
    /// The frame is of memory that L3 does not know any more.
    Unregistered,
}

/// L3 with its health and its I/Os under way.
pub struct L3 {
    store: SharedStore,
    slabs: Slabs,
    deadline: Duration,
    health: Health,
    no_room: Mutex<Seldom>,
    /// Reads that may be with the store.
    reads: Arc<FairSemaphore>,
    under_way: Mutex<UnderWay>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct UnderWay {
    last_op: OpId,
    submitted: BTreeMap<OpId, Submitted>,
}

/// An I/O that the store has.
struct Submitted {
    since: Instant,
    waiter: oneshot::Sender<Completion>,
    /// A read's; it is the store's as long as the read is, whether anybody waits for it or not.
    _turn: Option<FairPermit>,
}

/// Gets the completion of one I/O.
type Waiter = oneshot::Receiver<Completion>;

impl UnderWay {
    /// Forgets I/Os that the store has had for so long that it has lost them, a few at a time.
    fn give_up(&mut self, now: Instant) -> Vec<Submitted> {
        let lost = |io: &Submitted| now.duration_since(io.since) >= LOST_AFTER;
        let next = || {
            let first = self.submitted.first_entry()?;
            lost(first.get()).then(|| first.remove())
        };
        std::iter::from_fn(next).take(GIVEN_UP_AT_ONCE).collect()
    }
}

impl L3 {
    /// L3 in this store; slab files have `slab_bytes`, rounded down to whole slots.
    pub fn new(store: SharedStore, slab_bytes: u64, deadline: Duration, counters: Arc<Counters>) -> Self {
        let reads = store.reads_at_once() as u32;
        let each_max = reads.saturating_sub((reads / READS_KEPT_PART).max(1)).max(1);
        Self {
            slabs: Slabs::new(store.clone(), slab_bytes),
            reads: FairSemaphore::new(2 * reads, each_max),
            store,
            deadline,
            health: Health::new(counters.clone()),
            no_room: Mutex::default(),
            under_way: Mutex::default(),
            counters,
        }
    }

    /// Hands completions to their waiters until stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let completions = tokio::select! {
                completions = self.store.complete() => completions,
                () = stop.cancelled() => return,
            };
            let mut under_way = self.under_way.lock();
            for completion in completions {
                let late = match under_way.submitted.remove(&completion.op) {
                    // A waiter that left gets nothing; the frame is free here.
                    Some(io) => io.waiter.send(completion).err(),
                    None => Some(completion),
                };
                if let Some(late) = late {
                    sometimes(match late.transfer {
                        Transfer::Read(_) => Marker::ReadCompletedLate,
                        Transfer::Write(_) => Marker::WriteCompletedLate,
                    });
                }
            }
        }
    }

    /// Counts how often L3 had to be reached anew; frames of before cannot be moved any more.
    pub fn epoch(&self) -> u64 {
        self.store.epoch()
    }

    /// There is this tenant: something is kept for it.
    pub fn enter(&self, tenant: TenantId) {
        self.reads.enter(tenant_as_a_whole(tenant));
    }

    /// Ends one [`Self::enter`].
    pub fn leave(&self, tenant: TenantId) {
        self.reads.leave(tenant_as_a_whole(tenant));
    }

    /// Forgets what the L3 of before did: it was reached anew.
    pub fn reached_anew(&self) {
        self.health.begin_anew();
    }

    /// Where the breakers of the whole stand: of reads, and of writes.
    pub fn breakers(&self) -> (BreakerState, BreakerState) {
        self.health.states()
    }

    /// What a lookup may count.
    pub fn readable(&self) -> Readable<'_> {
        self.health.readable()
    }

    /// Slabs that a probe decides on now; at most a few.
    pub fn due_probes(&self) -> Vec<SlabId> {
        self.health.due_probes(PROBES_AT_ONCE)
    }

    /// Asks a slab that failed for some bytes, of no page; whether they come decides if it is asked again.
    pub async fn probe(&self, slab: SlabId, frame: FrameMut) {
        let shape = PageShape { slot_bytes: 0, frame_bytes: PROBE_BYTES.min(frame.len() as u64) };
        let Some(admitted) = self.health.admit(Direction::Read, slab, true) else { return };
        let (slot, deadline) = (SlotRef { slab, slot: 0, generation: 0 }, Instant::now() + self.deadline);
        // What is read is looked at by nobody.
        let _ = self.read_admitted(admitted, shape, (slot, frame), None, deadline).await;
    }

    /// Fills the frame from a slot; gives the bytes read, fewer than asked where the slab file ends.
    pub async fn read(
        &self,
        shape: PageShape,
        slot: SlotRef,
        frame: FrameMut,
        deadline: Instant,
    ) -> Result<(FrameMut, u64), IoFailure> {
        let admitted = self.health.admit(Direction::Read, slot.slab, false).ok_or(IoFailure::BreakerOpen)?;
        // A read that does not get there says nothing of its slab.
        let turn = self
            .reads
            .take(tenant_as_a_whole(frame.class().tenant), 1, deadline.min(Instant::now() + self.deadline))
            .await;
        let turn = turn.ok_or(StoreError::TimedOut)?;
        self.read_admitted(admitted, shape, (slot, frame), Some(turn), deadline).await
    }

    async fn read_admitted(
        &self,
        admitted: Admitted<'_>,
        shape: PageShape,
        (slot, frame): (SlotRef, FrameMut),
        turn: Option<FairPermit>,
        deadline: Instant,
    ) -> Result<(FrameMut, u64), IoFailure> {
        let began = Instant::now();
        let deadline = deadline.min(began + self.deadline);
        if let Err(error) = self.slabs.open(slot.slab, Direction::Read, shape.slot_bytes, deadline).await {
            admitted.judge(&error);
            return Err(error.into());
        }
        let mut waiters = self.submit(vec![(slot, shape, Transfer::Read(frame))], turn, deadline);
        let waiter = waiters.pop().ok_or(StoreError::Gone)?;
        match self.wait(waiter, deadline).await {
            Ok((Transfer::Read(frame), bytes)) => {
                admitted.answered();
                self.counters.stages.read.record(began.elapsed().as_secs_f64());
                self.counters.l3_reads.add(1);
                self.counters.l3_read_bytes.add(bytes);
                Ok((frame, bytes))
            }
            Ok((Transfer::Write(_), _)) => Err(StoreError::Gone.into()),
            Err(error) => {
                admitted.judge(&error);
                Err(error.into())
            }
        }
    }

    /// Writes pages to their slots, in one batch; the results in the order of the pages. As [`Self::write_each`].
    pub async fn write(
        &self,
        shape: PageShape,
        pages: Vec<(SlotRef, Frame)>,
        may_submit: impl Fn() -> bool,
    ) -> Vec<Written> {
        let mut results = vec![Written::NotSubmitted(NotSubmitted::Fenced); pages.len()];
        let mut written = std::pin::pin!(self.write_each(shape, pages, may_submit).await);
        while let Some((index, result)) = written.next().await {
            results[index] = result;
        }
        results
    }

    /// Writes pages to their slots, in one batch; gives each page's place among them and its result as soon as that is
    /// known, so that one slow write holds up no other page. `may_submit` is asked last: a fenced agent submits
    /// nothing.
    pub async fn write_each(
        &self,
        shape: PageShape,
        pages: Vec<(SlotRef, Frame)>,
        may_submit: impl Fn() -> bool,
    ) -> impl Stream<Item = (usize, Written)> {
        let deadline = Instant::now() + self.deadline;
        let mut refused = Vec::new();
        let mut admitted = Vec::with_capacity(pages.len());
        for (index, (slot, frame)) in pages.into_iter().enumerate() {
            let Some(admission) = self.health.admit(Direction::Write, slot.slab, true) else {
                refused.push((index, NotSubmitted::BreakerOpen));
                continue;
            };
            if let Err(error) = self.slabs.open(slot.slab, Direction::Write, shape.slot_bytes, deadline).await {
                let why = if is_no_room(&error) { NotSubmitted::NoRoom } else { NotSubmitted::NoSlab };
                self.say_unwritten(slot.slab, &error);
                admission.judge(&error);
                refused.push((index, why));
                continue;
            }
            admitted.push((index, admission, (slot, shape, Transfer::Write(frame))));
        }
        if !may_submit() {
            sometimes(Marker::WriteHeldBack);
            refused.extend(admitted.drain(..).map(|(index, ..)| (index, NotSubmitted::Fenced)));
        }
        let (who, transfers): (Vec<_>, Vec<_>) =
            admitted.into_iter().map(|(index, admission, transfer)| ((index, admission), transfer)).unzip();
        let waiters = if transfers.is_empty() { Vec::new() } else { self.submit(transfers, None, deadline) };
        let writing: FuturesUnordered<_> = who
            .into_iter()
            .zip(waiters)
            .map(|((index, admission), waiter)| async move {
                (index, self.written(shape, admission, waiter, deadline).await)
            })
            .collect();
        let refused = refused.into_iter().map(|(index, why)| (index, Written::NotSubmitted(why)));
        stream::iter(refused).chain(writing)
    }

    /// What became of one submitted write.
    async fn written(&self, shape: PageShape, admitted: Admitted<'_>, waiter: Waiter, deadline: Instant) -> Written {
        match self.wait(waiter, deadline).await {
            Ok((_, bytes)) if bytes == shape.frame_bytes => {
                admitted.answered();
                self.counters.l3_writes.add(1);
                self.counters.l3_write_bytes.add(bytes);
                Written::Whole
            }
            Ok((_, bytes)) => {
                admitted.failed();
                tracing::warn!(bytes, expected = shape.frame_bytes, "a short write");
                Written::Unknown(StoreError::Gone)
            }
            Err(StoreError::Unregistered) => Written::NotSubmitted(NotSubmitted::Unregistered),
            Err(error) => {
                if error == StoreError::TimedOut {
                    sometimes(Marker::WriteDeadlinePassed);
                }
                self.say_unwritten(admitted.slab(), &error);
                admitted.judge(&error);
                match error {
                    StoreError::NoRoom(_) => Written::NotSubmitted(NotSubmitted::NoRoom),
                    error => Written::Unknown(error),
                }
            }
        }
    }

    /// The log has a line a minute of no room: one full disk fails every write.
    fn say_unwritten(&self, slab: SlabId, error: &StoreError) {
        if !is_no_room(error) {
            tracing::warn!(slab, %error, "a page could not be written to L3");
        } else if let Some(unsaid) = self.no_room.lock().due() {
            tracing::warn!(slab, %error, unsaid, "L3 has no room for a page");
        }
    }

    /// Gives I/Os to the store; `turn` is that of the first.
    fn submit(
        &self,
        transfers: Vec<(SlotRef, PageShape, Transfer)>,
        mut turn: Option<FairPermit>,
        deadline: Instant,
    ) -> Vec<Waiter> {
        let mut batch = Vec::with_capacity(transfers.len());
        let mut waiters = Vec::with_capacity(transfers.len());
        let now = Instant::now();
        let mut under_way = self.under_way.lock();
        let given_up = under_way.give_up(now);
        for (slot, shape, transfer) in transfers {
            under_way.last_op += 1;
            let op = under_way.last_op;
            let (waiter, completion) = oneshot::channel();
            under_way.submitted.insert(op, Submitted { since: now, waiter, _turn: turn.take() });
            waiters.push(completion);
            let offset = u64::from(slot.slot) * u64::from(shape.slot_bytes);
            let (slab, len) = (slot.slab, shape.frame_bytes);
            batch.push(Io { op, slab, offset, len, transfer, begin_by: Some(deadline) });
        }
        drop(under_way);
        drop(given_up);
        self.store.submit(batch);
        waiters
    }

    async fn wait(&self, waiter: Waiter, deadline: Instant) -> Result<(Transfer, u64), StoreError> {
        match tokio::time::timeout_at(deadline, waiter).await {
            Ok(Ok(completion)) => Ok((completion.transfer, completion.result?)),
            Ok(Err(_)) => Err(StoreError::Gone),
            Err(_) => Err(StoreError::TimedOut),
        }
    }
}

/// Reads are told apart by tenant only.
fn tenant_as_a_whole(tenant: TenantId) -> Asker {
    Asker { tenant, namespace: 0 }
}

/// Bytes of a slab file with slots of this size.
pub fn slab_file_bytes(slab_bytes: u64, slot_bytes: u32) -> u64 {
    slab_bytes / u64::from(slot_bytes) * u64::from(slot_bytes)
}

#[cfg(test)]
impl L3 {
    /// An empty one, for tests of what lies above it.
    pub(crate) fn in_memory(counters: Arc<Counters>) -> Self {
        let store = crate::store::MemoryStore::new(Default::default(), foreword_proto::ClusterId([1; 16]), 4096);
        Self::new(Arc::new(store), 1 << 20, Duration::from_secs(30), counters)
    }
}
