//! Group commit: commands wait in a bounded queue and are packed into entries, so that one flush serves many of them.

use std::sync::Arc;

use bytes::Bytes;
use foreword_proto::Revision;
use foreword_proto::limits::{ENTRY_BYTES_SOFT_MAX, PROPOSER_QUEUE_MAX};
use foreword_seams::{Marker, sometimes};
use futures::stream::{FuturesOrdered, StreamExt};
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::checked::Checked;
use super::clock::LeaderClock;
use crate::consensus::types::{EntryBatch, TypeConfig};
use crate::state::codec::{encode_batch, encode_command};
use crate::state::command::{Command, Outcome};

/// Entries proposed and not yet applied. More would add latency without adding throughput: the next entry packs what has come meanwhile.
const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// Why a proposal has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead; nothing was proposed, or what was proposed may or may not be applied later.
    #[error("this replica is not the leader")]
    NotLeader { leader: Option<u64> },
    #[error("the queue of proposals is full")]
    QueueFull,
    #[error("the replica is stopping: {0}")]
    Stopped(String),
}

/// Outcomes of one proposal's commands, in order, with the entry's index.
pub type Proposed = Result<(Revision, Vec<Outcome>), ProposeError>;

struct Proposal {
    commands: Vec<Bytes>,
    /// The committed feature level: entries are of its format version.
    level: u32,
    reply: oneshot::Sender<Proposed>,
}

/// A handle to the proposer's queue.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Proposal>,
}

impl Proposer {
    /// Starts the proposer's task; it ends with the last handle.
    pub fn spawn(raft: openraft::Raft<TypeConfig>, clock: Arc<LeaderClock>) -> Self {
        let (queue, receiver) = mpsc::channel(PROPOSER_QUEUE_MAX);
        tokio::spawn(run(raft, clock, receiver));
        Self { queue }
    }

    /// Proposes commands; they share one entry, and their order is kept.
    pub async fn propose(&self, checked: Checked) -> Proposed {
        let (reply, outcome) = oneshot::channel();
        let level = checked.level();
        let commands = checked.into_commands();
        self.queue.try_send(Proposal { commands, level, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                sometimes(Marker::ProposalQueueFull);
                ProposeError::QueueFull
            }
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped("the proposer ended".into()),
        })?;
        outcome.await.unwrap_or_else(|_| Err(ProposeError::Stopped("the proposer ended".into())))
    }
}

/// The proposals of one entry, and how many outcomes each of them gets.
struct Batch {
    entry: EntryBatch,
    waiting: Vec<(usize, oneshot::Sender<Proposed>)>,
}

async fn run(raft: openraft::Raft<TypeConfig>, clock: Arc<LeaderClock>, mut queue: mpsc::Receiver<Proposal>) {
    let mut in_flight = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            proposal = queue.recv(), if in_flight.len() < ENTRIES_IN_FLIGHT_MAX => {
                let Some(first) = proposal else { break };
                let batch = pack(first, &mut queue, clock.now_ms());
                in_flight.push_back(write(raft.clone(), batch));
            }
        }
    }
    while in_flight.next().await.is_some() {}
}

/// Takes what waits, up to the soft limit of an entry. The leader's time leads each entry, so that rests and leases count from now.
fn pack(first: Proposal, queue: &mut mpsc::Receiver<Proposal>, now_ms: Option<u64>) -> Batch {
    let mut tick = bytes::BytesMut::new();
    // Without office there is no time to tell; the entry will be refused with the leader's name.
    encode_command(&Command::Tick { now_ms: now_ms.unwrap_or(0) }, &mut tick);
    let mut commands = vec![tick.freeze()];
    let mut waiting = Vec::new();
    let (mut entry_bytes, mut level) = (0, 0);
    let mut next = Some(first);
    while let Some(proposal) = next {
        entry_bytes += proposal.commands.iter().map(Bytes::len).sum::<usize>();
        level = level.max(proposal.level);
        waiting.push((proposal.commands.len(), proposal.reply));
        commands.extend(proposal.commands);
        next = if entry_bytes < ENTRY_BYTES_SOFT_MAX { queue.try_recv().ok() } else { None };
    }
    Batch { entry: EntryBatch(encode_batch(level, &commands)), waiting }
}

async fn write(raft: openraft::Raft<TypeConfig>, batch: Batch) {
    match raft.client_write(batch.entry).await {
        Ok(response) => answer(response.log_id.index, response.data.0, batch.waiting),
        Err(error) => {
            let error = match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                    ProposeError::NotLeader { leader: to.leader_id }
                }
                other => ProposeError::Stopped(other.to_string()),
            };
            for (_, reply) in batch.waiting {
                // A caller that left does not need the answer.
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

fn answer(revision: Revision, outcomes: Vec<Outcome>, waiting: Vec<(usize, oneshot::Sender<Proposed>)>) {
    let mut outcomes = outcomes.into_iter();
    // The leading tick's.
    outcomes.next();
    for (count, reply) in waiting {
        let own: Vec<_> = outcomes.by_ref().take(count).collect();
        assert_eq!(own.len(), count, "an applied entry has one outcome a command");
        let _ = reply.send(Ok((revision, own)));
    }
}
