//! Written pages become visible: publish commands in batches, several under way.

use std::sync::Arc;

use foreword_proto::records::{self, PageRecord};
use foreword_proto::wire::meta as wire;
use foreword_proto::{BadInput, Location, PublishOutcome, PutOutcome, PutRefusal, Revision, SlotRef};
use foreword_seams::{Marker, sometimes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::Core;
use super::open::OpenNamespace;
use super::write::Pending;
use crate::arena::Frame;
use crate::l1::Entrance;
use crate::session::{CommandError, Session};

/// Written pages of one namespace waiting to be published.
pub(super) const PUBLISH_QUEUE_PAGES_MAX: usize = 1024;
/// Publish commands of one namespace under way at once; the session's window bounds them all.
const PUBLISHES_UNDER_WAY: usize = 8;

/// A written page to publish.
pub(super) struct PublishJob {
    pub(super) session: Arc<Session>,
    pub(super) pending: Pending,
    pub(super) frame: Frame,
    pub(super) location: Location,
    /// Room for puts, until the page is settled.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Publishes one namespace's pages until it is closed or the agent stops.
pub(super) async fn publish_pages(core: Arc<Core>, mut queue: mpsc::Receiver<PublishJob>) {
    let under_way = Arc::new(Semaphore::new(PUBLISHES_UNDER_WAY));
    let mut jobs: Vec<PublishJob> = Vec::new();
    // While all commands are under way, pages gather to a larger batch.
    while let Ok(permit) = under_way.clone().acquire_owned().await {
        if jobs.is_empty() && queue.recv_many(&mut jobs, core.config.publish_batch_pages).await == 0 {
            return;
        }
        let open = jobs[0].pending.open.clone();
        // One command is of one session and one epoch.
        let (session, epoch) = (jobs[0].session.id, jobs[0].pending.work.epoch);
        let same = jobs.iter().take_while(|job| job.session.id == session && job.pending.work.epoch == epoch).count();
        let batch = jobs.drain(..same).collect();
        core.spawn(publish_batch(core.clone(), open, batch, permit));
    }
}

async fn publish_batch(
    core: Arc<Core>,
    open: Arc<OpenNamespace>,
    batch: Vec<PublishJob>,
    _permit: OwnedSemaphorePermit,
) {
    let Some(first) = batch.first() else { return };
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
    let answer = core
        .sessions
        .command(&session, |mut client, sequence| {
            let pages = pages.clone();
            let request =
                wire::PublishRequest { session: session.id.to_wire(), sequence, namespace_id: open.id, epoch, pages };
            async move { client.publish(request).await }
        })
        .await;
    core.counters.stages.publish.record(began.elapsed().as_secs_f64());
    match answer {
        Ok(answer) => match Answer::read(&answer, batch.len(), shards) {
            Ok(answer) => settle_batch(&core, &open, &session, &batch, answer),
            Err(error) => {
                tracing::error!(%error, "a publish's answer could not be read");
                give_up(&core, &session, &batch, PutRefusal::WriteFailed);
            }
        },
        Err(CommandError::SessionLost) => {
            sometimes(Marker::PublishFenced);
            give_up(&core, &session, &batch, PutRefusal::Fenced);
        }
        Err(CommandError::Refused(status)) => {
            tracing::error!(%status, pages = batch.len(), "the group refused a publish");
            give_up(&core, &session, &batch, PutRefusal::WriteFailed);
        }
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

fn settle_batch(core: &Core, open: &OpenNamespace, session: &Session, batch: &[PublishJob], answer: Answer) {
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
            if location.is_some_and(|location| view.acknowledge(epoch, revision, key, location)) {
                core.l1.write(|pages| pages.insert(open.page(epoch, key), job.frame.clone(), Entrance::Probation));
            }
            // All bytes of an unused slot's write are on L3 and nobody knows of them: the slot can be written again.
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
    core.grants.give_back(session.id, open.shape.slot_bytes, &unused);
}

/// The pages were not published as far as is known; their slots are not used again by this session.
fn give_up(core: &Core, session: &Arc<Session>, batch: &[PublishJob], reason: PutRefusal) {
    for job in batch {
        job.pending.refuse(reason);
    }
    core.grants.abort_unknown(session, batch.iter().map(|job| job.location.slot).collect());
}
