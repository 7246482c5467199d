//! Whole pages to L3: a slot each, in batches, several batches under way.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::{Location, PutOutcome, PutRefusal, SessionId, SlotRef};
use foreword_seams::{Marker, sometimes};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::Core;
use super::open::OpenNamespace;
use super::page_work::{PageWork, WholePage};
use super::publish::PublishJob;
use crate::l3::{NotSubmitted, PageShape, Written};
use crate::session::Session;

/// Whole pages waiting for a slot; more are refused. Their bytes are bounded by the room for puts as well.
pub(super) const WRITE_QUEUE_PAGES_MAX: usize = 16_384;
/// Pages of one batch.
const BATCH_PAGES_MAX: usize = 64;
/// Slots that one page's write is tried in.
const WRITE_ATTEMPTS_MAX: u32 = 3;

/// A page somebody has promised to settle. Dropped without a word, however that came, it is refused: nobody waits for ever.
pub(super) struct Pending {
    pub(super) core: Arc<Core>,
    pub(super) open: Arc<OpenNamespace>,
    pub(super) work: Arc<PageWork>,
}

impl Pending {
    /// Says what became of the page.
    pub(super) fn settle(&self, outcome: PutOutcome) {
        self.core.settle(&self.open, &self.work, outcome);
    }

    pub(super) fn refuse(&self, reason: PutRefusal) {
        self.settle(PutOutcome::Refused { reason });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.work.outcome().is_none() {
            self.refuse(PutRefusal::WriteFailed);
        }
    }
}

/// A whole page to write.
pub(super) struct WriteJob {
    pub(super) page: WholePage,
    pub(super) pending: Pending,
    /// When the page was whole, or its last write failed.
    pub(super) taken: Instant,
    /// Writes that were submitted and failed.
    pub(super) failed: u32,
}

impl Core {
    /// The queue of pages with this slot size; its writer is started with the first namespace that has it.
    pub(super) fn writer(self: &Arc<Self>, shape: PageShape) -> mpsc::Sender<WriteJob> {
        let mut writers = self.writers.lock();
        let writer = writers.entry(shape.slot_bytes).or_insert_with(|| {
            let (sender, jobs) = mpsc::channel(WRITE_QUEUE_PAGES_MAX);
            let writer = Writer {
                core: self.clone(),
                slot_bytes: shape.slot_bytes,
                depth: Arc::new(Semaphore::new(self.config.l3_write_depth)),
                session_began: Instant::now(),
                session: None,
            };
            self.spawn(writer.run(jobs));
            sender
        });
        writer.clone()
    }
}

/// Gives slots to the pages of one slot size.
struct Writer {
    core: Arc<Core>,
    slot_bytes: u32,
    depth: Arc<Semaphore>,
    session: Option<SessionId>,
    /// When this writer first saw the session: pages that waited for it get the full wait for room.
    session_began: Instant,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<WriteJob>) {
        let mut jobs = Vec::new();
        let batch_max = BATCH_PAGES_MAX.min(self.core.config.l3_write_depth);
        while queue.recv_many(&mut jobs, batch_max).await > 0 {
            while !jobs.is_empty() {
                self.write_some(&mut jobs, queue.len()).await;
            }
        }
    }

    /// Writes as many of the jobs as there are slots for, or refuses those that waited for too long.
    async fn write_some(&mut self, jobs: &mut Vec<WriteJob>, behind: usize) {
        let publish_wait = Duration::from_millis(self.core.config.publish_wait_ms);
        let Some(session) = self.core.sessions.writable(jobs[0].taken + publish_wait).await else {
            sometimes(Marker::PutRefusedFenced);
            // Nobody waits for a session that the group refuses.
            let wait = if self.core.sessions.refused() { Duration::ZERO } else { publish_wait };
            return self.refuse_older(jobs, Instant::now(), wait, PutRefusal::Fenced);
        };
        if Some(session.id) != self.session {
            (self.session, self.session_began) = (Some(session.id), Instant::now());
        }
        let room_wait = Duration::from_millis(self.core.config.put_room_wait_ms);
        let until = jobs[0].taken.max(self.session_began) + room_wait;
        let slots = self.core.grants.take(&session, self.slot_bytes, jobs.len(), behind, until).await;
        if slots.is_empty() {
            let now = Instant::now();
            if !session.is_lost() && now >= until {
                sometimes(Marker::PutRefusedL3Full);
                self.refuse_older(jobs, now, room_wait, PutRefusal::L3Full);
            }
            return;
        }
        let taken = jobs.drain(..slots.len()).collect::<Vec<_>>();
        for job in &taken {
            self.core.counters.stages.slot.record(job.taken.elapsed().as_secs_f64());
        }
        let batch: Vec<(SlotRef, WriteJob)> = slots.into_iter().zip(taken).collect();
        let permits = self.depth.clone().acquire_many_owned(batch.len() as u32).await;
        let Ok(permits) = permits else { return };
        self.core.spawn(write_batch(self.core.clone(), session, self.slot_bytes, batch, permits));
    }

    /// Refuses the jobs that have waited this long; the first one always.
    fn refuse_older(&self, jobs: &mut Vec<WriteJob>, now: Instant, wait: Duration, reason: PutRefusal) {
        let mut first = true;
        jobs.retain(|job| {
            let refused = std::mem::take(&mut first) || job.taken + wait <= now;
            if refused {
                job.pending.refuse(reason);
            }
            !refused
        });
    }
}

/// Writes pages of one slot size to their slots and hands the written ones to their publishers.
async fn write_batch(
    core: Arc<Core>,
    session: Arc<Session>,
    slot_bytes: u32,
    batch: Vec<(SlotRef, WriteJob)>,
    mut depth: OwnedSemaphorePermit,
) {
    let mut unknown = Vec::new();
    let mut unwritten = Vec::new();
    // Pages of one slot size may still differ in how many bytes they move.
    let mut rest = batch;
    while let Some(shape) = rest.first().map(|(_, job)| job.pending.open.shape) {
        let (same, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(_, job)| job.pending.open.shape == shape);
        rest = others;
        let pages = same.iter().map(|(slot, job)| (*slot, job.page.frame.clone())).collect();
        let mut jobs: Vec<Option<(SlotRef, WriteJob)>> = same.into_iter().map(Some).collect();
        let began = Instant::now();
        let mut written = std::pin::pin!(core.l3.write_each(shape, pages, || session.may_write()).await);
        while let Some((index, result)) = written.next().await {
            let Some((slot, job)) = jobs[index].take() else { continue };
            // A page that is still being written keeps its own place only.
            drop(depth.split(1));
            core.counters.stages.write.record(began.elapsed().as_secs_f64());
            if session.is_lost() && !matches!(result, Written::NotSubmitted(_)) {
                sometimes(Marker::SessionLostDuringWrite);
            }
            match result {
                Written::Whole => hand_on(&session, slot, job).await,
                Written::NotSubmitted(NotSubmitted::Unregistered) => {
                    unwritten.push(slot);
                    write_from_new_memory(&core, job).await;
                }
                Written::NotSubmitted(why) => {
                    unwritten.push(slot);
                    job.pending.refuse(if why == NotSubmitted::Fenced {
                        PutRefusal::Fenced
                    } else {
                        PutRefusal::WriteFailed
                    });
                }
                Written::Unknown(error) => {
                    tracing::warn!(?slot, %error, "an L3 write has no known result");
                    unknown.push(slot);
                    write_again(&core, job);
                }
            }
        }
    }
    core.grants.give_back(session.id, slot_bytes, &unwritten);
    core.grants.abort_unknown(&session, unknown);
}

/// Tries another slot: one I/O in a hundred that fails must not cost a chain its middle.
fn write_again(core: &Arc<Core>, mut job: WriteJob) {
    job.failed += 1;
    if job.failed >= WRITE_ATTEMPTS_MAX {
        return job.pending.refuse(PutRefusal::WriteFailed);
    }
    job.taken = Instant::now();
    core.counters.l3_writes_repeated.add(1);
    let writer = core.writer(job.pending.open.shape);
    // A queue that is full or closed drops the job, and that refuses the page.
    let _ = writer.try_send(job);
}

/// The page was on its way when L3's daemon died: the new one does not know its memory.
async fn write_from_new_memory(core: &Arc<Core>, mut job: WriteJob) {
    let room_wait = Duration::from_millis(core.config.put_room_wait_ms);
    let open = &job.pending.open;
    let wait_until = Instant::now() + room_wait;
    let Some(mut frame) = core.memory.frame(open.tenant, open.geometry.frame_bytes, wait_until).await else {
        return job.pending.refuse(PutRefusal::WriteFailed);
    };
    frame.bytes_mut().copy_from_slice(job.page.frame.bytes());
    core.counters.bytes_copied.add(frame.len() as u64);
    job.page.frame = frame.freeze();
    write_again(core, job);
}

async fn hand_on(session: &Arc<Session>, slot: SlotRef, job: WriteJob) {
    let WholePage { frame, checksums, room } = job.page;
    let location = Location { slot, checksums };
    let publisher = job.pending.open.publisher.clone();
    let publish = PublishJob { session: session.clone(), pending: job.pending, frame, location, _room: room };
    // The publisher ends with the agent only; the page is refused as it drops.
    let _ = publisher.send(publish).await;
}
