//! Whole pages to L3: a slot each, in batches, several batches under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::{Location, PutRefusal, SessionId, SlotRef};
use foreword_seams::{Marker, sometimes};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::page_work::WholePage;
use super::publish::PublishJob;
use super::under_way::Pending;
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::l3::{L3, NotSubmitted, Written};
use crate::memory::Memory;
use crate::session::grants::{Grants, NoSlot, SlotWait};
use crate::session::{Session, Sessions};
use crate::tasks::Tasks;

/// Whole pages waiting for a slot; more are refused. Their bytes are bounded by the room for puts as well.
const WRITE_QUEUE_PAGES_MAX: usize = 16_384;
/// Pages of one batch.
const BATCH_PAGES_MAX: usize = 64;
/// Slots that one page's write is tried in.
const WRITE_ATTEMPTS_MAX: u32 = 3;

/// A whole page to write.
pub(super) struct WriteJob {
    pub(super) page: WholePage,
    pub(super) pending: Pending,
    /// When the page was whole, or its last write failed.
    pub(super) taken: Instant,
    /// Writes that were submitted and failed.
    pub(super) failed: u32,
}

/// Writes whole pages: one queue a slot size, so that a full class does not hold up another.
pub(crate) struct Writers {
    queues: Mutex<BTreeMap<u32, mpsc::Sender<WriteJob>>>,
    depth: usize,
    /// How long a page waits for a slot, and for a frame of new memory.
    room_wait: Duration,
    /// How long a page waits for a session that may write, and for a group that does not answer.
    session_wait: Duration,
    memory: Arc<Memory>,
    l3: Arc<L3>,
    sessions: Arc<Sessions>,
    grants: Arc<Grants>,
    counters: Arc<Counters>,
    tasks: Tasks,
}

impl Writers {
    /// None runs yet.
    pub(crate) fn new(
        config: &NodeConfig,
        memory: Arc<Memory>,
        l3: Arc<L3>,
        sessions: Arc<Sessions>,
        grants: Arc<Grants>,
        counters: Arc<Counters>,
        tasks: Tasks,
    ) -> Self {
        Self {
            queues: Mutex::default(),
            depth: config.l3_write_depth,
            room_wait: Duration::from_millis(config.put_room_wait_ms),
            session_wait: Duration::from_millis(config.publish_wait_ms),
            memory,
            l3,
            sessions,
            grants,
            counters,
            tasks,
        }
    }

    /// The queue of pages with this slot size; its writer is started with the first namespace that has it.
    pub(super) fn queue(self: &Arc<Self>, slot_bytes: u32) -> mpsc::Sender<WriteJob> {
        let mut queues = self.queues.lock();
        let queue = queues.entry(slot_bytes).or_insert_with(|| {
            let (sender, jobs) = mpsc::channel(WRITE_QUEUE_PAGES_MAX);
            let writer = Writer {
                writers: self.clone(),
                slot_bytes,
                depth: Arc::new(Semaphore::new(self.depth)),
                session_began: Instant::now(),
                session: None,
            };
            self.tasks.spawn(writer.run(jobs));
            sender
        });
        queue.clone()
    }
}

/// Gives slots to the pages of one slot size.
struct Writer {
    writers: Arc<Writers>,
    slot_bytes: u32,
    depth: Arc<Semaphore>,
    session: Option<SessionId>,
    /// When this writer first saw the session: pages that waited for it get the full wait for room.
    session_began: Instant,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<WriteJob>) {
        let mut jobs = Vec::new();
        let batch_max = BATCH_PAGES_MAX.min(self.writers.depth);
        while queue.recv_many(&mut jobs, batch_max).await > 0 {
            while !jobs.is_empty() {
                self.write_some(&mut jobs, queue.len()).await;
            }
        }
    }

    /// Writes as many of the jobs as there are slots for, or refuses those that waited for too long.
    async fn write_some(&mut self, jobs: &mut Vec<WriteJob>, behind: usize) {
        let Writers { sessions, grants, session_wait, room_wait, .. } = &*self.writers;
        let Some(session) = sessions.writable(jobs[0].taken + *session_wait).await else {
            sometimes(Marker::PutRefusedFenced);
            // Nobody waits for a session that the group refuses.
            let wait = if sessions.refused() { Duration::ZERO } else { *session_wait };
            return self.refuse_older(jobs, Instant::now(), wait, PutRefusal::Fenced);
        };
        if Some(session.id) != self.session {
            (self.session, self.session_began) = (Some(session.id), Instant::now());
        }
        let began = jobs[0].taken.max(self.session_began);
        let wait = SlotWait { full: began + *room_wait, silent: began + *session_wait };
        let slots = match grants.take(&session, self.slot_bytes, jobs.len(), behind, wait).await {
            Ok(slots) => slots,
            Err(NoSlot::SessionLost) => return,
            Err(NoSlot::Full) => {
                sometimes(Marker::PutRefusedL3Full);
                return self.refuse_older(jobs, Instant::now(), *room_wait, PutRefusal::L3Full);
            }
            Err(NoSlot::Silent) => {
                sometimes(Marker::PublishExpired);
                return self.refuse_older(jobs, Instant::now(), *session_wait, PutRefusal::GroupGone);
            }
        };
        let taken = jobs.drain(..slots.len()).collect::<Vec<_>>();
        for job in &taken {
            self.writers.counters.stages.slot.record(job.taken.elapsed().as_secs_f64());
        }
        let batch: Vec<(SlotRef, WriteJob)> = slots.into_iter().zip(taken).collect();
        let permits = self.depth.clone().acquire_many_owned(batch.len() as u32).await;
        let Ok(permits) = permits else { return };
        let writing = self.writers.clone().write_batch(session, self.slot_bytes, batch, permits);
        self.writers.tasks.spawn(writing);
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

impl Writers {
    /// Writes pages of one slot size to their slots and hands the written ones to their publishers.
    async fn write_batch(
        self: Arc<Self>,
        session: Arc<Session>,
        slot_bytes: u32,
        batch: Vec<(SlotRef, WriteJob)>,
        mut depth: OwnedSemaphorePermit,
    ) {
        let mut unknown = Vec::new();
        let mut unwritten = Vec::new();
        // Pages of one slot size may still differ in how many bytes they move.
        let mut rest = batch;
        while let Some(shape) = rest.first().map(|(_, job)| job.pending.writes.open.shape) {
            let (same, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|(_, job)| job.pending.writes.open.shape == shape);
            rest = others;
            let pages = same.iter().map(|(slot, job)| (*slot, job.page.frame.clone())).collect();
            let mut jobs: Vec<Option<(SlotRef, WriteJob)>> = same.into_iter().map(Some).collect();
            let began = Instant::now();
            let mut written = std::pin::pin!(self.l3.write_each(shape, pages, || session.may_write()).await);
            while let Some((index, result)) = written.next().await {
                let Some((slot, job)) = jobs[index].take() else { continue };
                // A page that is still being written keeps its own place only.
                drop(depth.split(1));
                self.counters.stages.write.record(began.elapsed().as_secs_f64());
                if session.is_lost() && !matches!(result, Written::NotSubmitted(_)) {
                    sometimes(Marker::SessionLostDuringWrite);
                }
                match result {
                    Written::Whole => hand_on(&session, slot, job).await,
                    Written::NotSubmitted(NotSubmitted::Unregistered) => {
                        unwritten.push(slot);
                        self.write_from_new_memory(job).await;
                    }
                    Written::NotSubmitted(why) => {
                        unwritten.push(slot);
                        job.pending.refuse(match why {
                            NotSubmitted::Fenced => PutRefusal::Fenced,
                            NotSubmitted::NoRoom => PutRefusal::L3Full,
                            _ => PutRefusal::WriteFailed,
                        });
                    }
                    Written::Unknown(error) => {
                        tracing::debug!(?slot, %error, "an L3 write has no known result");
                        unknown.push(slot);
                        self.write_again(job);
                    }
                }
            }
        }
        self.grants.give_back(session.id, slot_bytes, &unwritten);
        self.grants.abort_unknown(&session, unknown);
    }

    /// Tries another slot: one I/O in a hundred that fails must not cost a chain its middle.
    fn write_again(&self, mut job: WriteJob) {
        job.failed += 1;
        if job.failed >= WRITE_ATTEMPTS_MAX {
            return job.pending.refuse(PutRefusal::WriteFailed);
        }
        job.taken = Instant::now();
        self.counters.l3_writes_repeated.add(1);
        let queue = job.pending.writes.writer.clone();
        // A queue that is full or closed drops the job, and that refuses the page.
        let _ = queue.try_send(job);
    }

    /// The page was on its way when L3's daemon died: the new one does not know its memory.
    async fn write_from_new_memory(&self, mut job: WriteJob) {
        let open = &job.pending.writes.open;
        let wait_until = Instant::now() + self.room_wait;
        let Some(mut frame) = self.memory.frame(open.tenant, open.geometry.frame_bytes, wait_until).await else {
            return job.pending.refuse(PutRefusal::WriteFailed);
        };
        frame.bytes_mut().copy_from_slice(job.page.frame.bytes());
        self.counters.bytes_copied.add(frame.len() as u64);
        job.page.frame = frame.freeze();
        self.write_again(job);
    }
}

async fn hand_on(session: &Arc<Session>, slot: SlotRef, job: WriteJob) {
    let WholePage { frame, checksums, room } = job.page;
    let location = Location { slot, checksums };
    let publisher = job.pending.writes.publisher.clone();
    job.pending.work.publish(frame, room);
    let publish = PublishJob { session: session.clone(), pending: job.pending, location };
    // The publisher ends with the agent only; the page is refused as it drops.
    let _ = publisher.send(publish).await;
}
