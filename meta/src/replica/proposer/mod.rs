//! Group commit: proposals wait in a bounded queue and are packed into entries, so that one flush serves many of them.
//!
//! openraft answers a write when it is applied or truncated here, and never when a snapshot takes its place: a leader
//! that was cut off would wait for ever. So what is in flight is let go of as soon as its leader or term is no more
//! ([`run`]), and a watchdog lets go of it when the group stands still for no reason ([`keep`]). A proposal that was
//! let go of is answered [`ProposeError::Unknown`].

mod keep;
mod log;
mod meters;
mod queue;
mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::Revision;
use foreword_seams::{Marker, Telemetry, sometimes};
use openraft::Raft;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::keep::keep;
use self::log::{Log, RaftLog};
use self::meters::Meters;
use self::queue::{Proposal, Queue};
use super::checked::{Author, Checked};
use super::clock::LeaderClock;
use super::supervise::Failing;
use crate::consensus::types::TypeConfig;
use crate::network::Heard;
use crate::state::command::Outcome;
use crate::storage::LogReader;

/// Why a proposal has no outcome. All but [`Self::Unknown`] and [`Self::Stopped`] say that nothing was proposed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("this replica is not the leader")]
    NotLeader,
    #[error("the queue of proposals is full")]
    QueueFull,
    #[error("its deadline passed while it waited to be proposed")]
    Late,
    /// Its leader or term is no more, or the group stood still: it may be applied, later even, or not.
    #[error("it may or may not be applied")]
    Unknown,
    #[error("the replica is stopping: {0}")]
    Stopped(String),
}

/// Outcomes of one proposal's commands, in order, with the entry's index.
pub type Proposed = Result<(Revision, Vec<Outcome>), ProposeError>;

/// A handle to the queue of proposals.
#[derive(Clone)]
pub struct Proposer {
    queue: Arc<Queue>,
}

/// What the proposer's task works with.
#[derive(Clone)]
struct Parts {
    log: Arc<dyn Log>,
    clock: Arc<LeaderClock>,
    queue: Arc<Queue>,
}

impl Proposer {
    /// A queue, and the task that empties it, to be run beside. `election`: the longest election timeout. The task ends
    /// with Raft; dropped, it answers everybody who waits.
    pub fn new(
        raft: Raft<TypeConfig>,
        log: LogReader,
        (heard, election): (Arc<Heard>, Duration),
        clock: Arc<LeaderClock>,
        telemetry: &Telemetry,
        failing: Failing,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let log = Arc::new(RaftLog { raft, log, heard, election });
        Self::over(log, clock, telemetry, failing)
    }

    fn over(
        log: Arc<dyn Log>,
        clock: Arc<LeaderClock>,
        telemetry: &Telemetry,
        failing: Failing,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let queue = Arc::new(Queue::new(Meters::new(telemetry)));
        let task = keep(Parts { log, clock, queue: queue.clone() }, failing);
        (Self { queue }, task)
    }

    /// Proposes commands; they share one entry, and their order is kept. Once `deadline` has passed, or the caller has
    /// left, they are not proposed any more.
    pub async fn propose(&self, checked: Checked, author: Author, deadline: Instant) -> Proposed {
        let (reply, outcome) = oneshot::channel();
        self.queue.push(author, Proposal { checked, deadline, reply })?;
        outcome.await.unwrap_or_else(|_| {
            sometimes(Marker::ProposalUnknown);
            self.queue.meters.unknown.increment(1);
            Err(ProposeError::Unknown)
        })
    }
}
