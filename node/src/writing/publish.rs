//! Written pages become visible: publish commands in batches, several under way.

use std::sync::Arc;

use foreword_proto::records::{self, PageRecord};
use foreword_proto::wire::meta as wire;
use foreword_proto::{BadInput, Location, PublishOutcome, PutOutcome, PutRefusal, Revision, SlotRef};
use foreword_seams::{Marker, sometimes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::under_way::Pending;
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::l1::{Entrance, L1};
use crate::namespaces::OpenNamespace;
use crate::session::grants::Grants;
use crate::session::{CommandError, Session, Sessions};
use crate::tasks::Tasks;

/// Written pages of one namespace waiting to be published.
const PUBLISH_QUEUE_PAGES_MAX: usize = 1024;
/// Publish commands of one namespace under way at once; the session's window bounds them all.
const PUBLISHES_UNDER_WAY: usize = 8;

/// A written page to publish.
pub(super) struct PublishJob {
    pub(super) session: Arc<Session>,
    pub(super) pending: Pending,
    pub(super) location: Location,
}

/// Makes written pages visible: one queue a namespace.
pub(crate) struct Publishers {
    batch_pages: usize,
    l1: Arc<L1>,
    sessions: Arc<Sessions>,
    grants: Arc<Grants>,
    counters: Arc<Counters>,
    tasks: Tasks,
}

impl Publishers {
    /// None runs yet.
    pub(crate) fn new(
        config: &NodeConfig,
        l1: Arc<L1>,
        sessions: Arc<Sessions>,
        grants: Arc<Grants>,
        counters: Arc<Counters>,
        tasks: Tasks,
    ) -> Self {
        Self { batch_pages: config.publish_batch_pages, l1, sessions, grants, counters, tasks }
    }

    /// The queue of one more namespace; its publisher ends when nobody can add to it any more.
    pub(super) fn queue(self: &Arc<Self>) -> mpsc::Sender<PublishJob> {
        let (sender, jobs) = mpsc::channel(PUBLISH_QUEUE_PAGES_MAX);
        self.tasks.spawn(self.clone().run(jobs));
        sender
    }

    /// Publishes one namespace's pages until it is closed or the agent stops.
    async fn run(self: Arc<Self>, mut queue: mpsc::Receiver<PublishJob>) {
        let under_way = Arc::new(Semaphore::new(PUBLISHES_UNDER_WAY));
        let mut jobs: Vec<PublishJob> = Vec::new();
        // While all commands are under way, pages gather to a larger batch.
        while let Ok(permit) = under_way.clone().acquire_owned().await {
            if jobs.is_empty() && queue.recv_many(&mut jobs, self.batch_pages).await == 0 {
                return;
            }
            jobs = self.without_expired(jobs);
            if jobs.is_empty() {
                continue;
            }
            // One command is of one session and one epoch.
            let (session, epoch) = (jobs[0].session.id, jobs[0].pending.work.epoch);
            let same =
                jobs.iter().take_while(|job| job.session.id == session && job.pending.work.epoch == epoch).count();
            let batch = jobs.drain(..same).collect();
            self.tasks.spawn(self.clone().publish_batch(batch, permit));
        }
    }

    /// Drops the pages that have waited too long: nothing names their slots, which can be written again.
    fn without_expired(&self, jobs: Vec<PublishJob>) -> Vec<PublishJob> {
        let (expired, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.pending.work.outcome().is_some());
        for job in expired {
            let slot_bytes = job.pending.writes.open.shape.slot_bytes;
            self.grants.give_back(job.session.id, slot_bytes, &[job.location.slot]);
        }
        jobs
    }

    async fn publish_batch(self: Arc<Self>, batch: Vec<PublishJob>, _permit: OwnedSemaphorePermit) {
        let Some(first) = batch.first() else { return };
        let open = first.pending.writes.open.clone();
        let (session, epoch) = (first.session.clone(), first.pending.work.epoch);
        let shards = open.geometry.shards();
        let records: Vec<PageRecord> = batch
            .iter()
            .map(|job| PageRecord {
                key: job.pending.work.key,
                parent: job.pending.work.parent,
                location: job.location.clone(),
            })
            .collect();
        let pages = records::encode(&records, shards);
        let began = Instant::now();
        let answer = self
            .sessions
            .command(&session, |mut client, sequence| {
                let pages = pages.clone();
                let request = wire::PublishRequest {
                    session: session.id.to_wire(),
                    sequence,
                    namespace_id: open.id,
                    epoch,
                    pages,
                };
                async move { client.publish(request).await }
            })
            .await;
        self.counters.stages.publish.record(began.elapsed().as_secs_f64());
        match answer {
            Ok(answer) => match Answer::read(&answer, batch.len(), shards) {
                Ok(answer) => self.settle_batch(&open, &session, &batch, answer),
                Err(error) => {
                    tracing::error!(%error, "a publish's answer could not be read");
                    self.give_up(&session, &batch, PutRefusal::WriteFailed);
                }
            },
            Err(CommandError::SessionLost) => {
                sometimes(Marker::PublishFenced);
                self.give_up(&session, &batch, PutRefusal::Fenced);
            }
            Err(CommandError::Refused(status)) => {
                tracing::error!(%status, pages = batch.len(), "the group refused a publish");
                self.give_up(&session, &batch, PutRefusal::WriteFailed);
            }
        }
    }

    fn settle_batch(&self, open: &OpenNamespace, session: &Session, batch: &[PublishJob], answer: Answer) {
        let mut unused: Vec<SlotRef> = Vec::new();
        let mut existing = answer.existing.into_iter();
        let revision = answer.revision;
        let mut outcomes = Vec::with_capacity(batch.len());
        // Within the mirror's lock, so that a purge of L1 comes after what is put into it here.
        open.mirror.write(|view| {
            for (job, outcome) in batch.iter().zip(&answer.outcomes) {
                let (epoch, key) = (job.pending.work.epoch, job.pending.work.key);
                let location = match outcome {
                    PublishOutcome::Published => Some(job.location.clone()),
                    PublishOutcome::Existing => existing.next(),
                    _ => None,
                };
                // A page that had waited too long has left its memory.
                let publishing = job.pending.work.end_publishing();
                if location.is_some_and(|location| view.acknowledge(epoch, revision, key, location))
                    && let Some(publishing) = publishing
                {
                    self.l1.write(|pages| pages.insert(open.page(epoch, key), publishing.frame, Entrance::Probation));
                }
                // All bytes of an unused slot's write are on L3 and nobody knows of them: the slot can be written
                // again.
                if !matches!(outcome, PublishOutcome::Published | PublishOutcome::NotGranted) {
                    unused.push(job.location.slot);
                }
                outcomes.push(match outcome {
                    PublishOutcome::Published => PutOutcome::Published { revision },
                    PublishOutcome::Existing => PutOutcome::Exists { revision },
                    PublishOutcome::Cleared => PutOutcome::Refused { reason: PutRefusal::Cleared },
                    PublishOutcome::NotGranted => PutOutcome::Refused { reason: PutRefusal::Fenced },
                    PublishOutcome::IndexFull => PutOutcome::Refused { reason: PutRefusal::IndexFull },
                });
            }
        });
        for (job, outcome) in batch.iter().zip(outcomes) {
            job.pending.settle(outcome);
        }
        self.grants.give_back(session.id, open.shape.slot_bytes, &unused);
    }

    /// The pages were not published as far as is known; their slots are not used again by this session.
    fn give_up(&self, session: &Arc<Session>, batch: &[PublishJob], reason: PutRefusal) {
        for job in batch {
            job.pending.refuse(reason);
        }
        self.grants.abort_unknown(session, batch.iter().map(|job| job.location.slot).collect());
    }
}

/// What the group answered, page by page.
struct Answer {
    revision: Revision,
    outcomes: Vec<PublishOutcome>,
    /// One for each `Existing`, in order.
    existing: Vec<Location>,
}

impl Answer {
    fn read(answer: &wire::PublishResponse, pages: usize, shards: usize) -> Result<Self, BadInput> {
        let outcomes: Option<Vec<PublishOutcome>> =
            answer.outcomes.iter().map(|number| PublishOutcome::from_u8(*number)).collect();
        let outcomes = outcomes.filter(|outcomes| outcomes.len() == pages);
        let outcomes = outcomes.ok_or_else(|| BadInput::new("outcomes", format!("{pages} known outcomes")))?;
        let existing = records::decode::<Location>("existing", &answer.existing, shards, pages)?;
        Ok(Self { revision: answer.revision, outcomes, existing })
    }
}
