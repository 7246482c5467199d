//! The log as the proposer needs it.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::Revision;
use futures::future::BoxFuture;
use openraft::error::{ClientWriteError, RaftError};
use openraft::metrics::RaftServerMetrics;
use openraft::{Raft, ServerState};

use crate::consensus::types::{EntryBatch, Member, TypeConfig};
use crate::network::Heard;
use crate::replica::office::quorum_heard_within;
use crate::state::command::Outcome;
use crate::storage::LogReader;

/// Whether this replica leads, and in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Office {
    pub(super) leads: bool,
    pub(super) term: u64,
}

/// Why an entry has no outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WriteError {
    /// This replica leads no more. The entry was refused, or truncated here and may live on elsewhere.
    Deposed,
    /// Raft has ended.
    Stopped(String),
}

/// What became of an entry.
pub(super) type Written = Result<(Revision, Vec<Outcome>), WriteError>;

/// What an entry may be waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) applied: Revision,
    /// A quorum answered within the election timeout.
    pub(super) quorum_heard: bool,
    /// Something is not on this replica's disk yet.
    pub(super) flushing: bool,
}

/// A replicated log. A trait, so that the proposer's tests can hold one still.
pub(super) trait Log: Send + Sync + 'static {
    /// The office as this replica knows it.
    fn office(&self) -> Office;
    /// Resolves once the office is another than `seen`; with false when the log has ended.
    fn office_is_not(&self, seen: Office) -> BoxFuture<'static, bool>;
    /// Appends an entry and waits until it is applied. It may wait for ever.
    fn write(&self, entry: EntryBatch) -> BoxFuture<'static, Written>;
    /// How far it is.
    fn progress(&self) -> Progress;
}

/// openraft over our log.
pub(super) struct RaftLog {
    pub(super) raft: Raft<TypeConfig>,
    pub(super) log: LogReader,
    pub(super) heard: Arc<Heard>,
    /// The longest election timeout.
    pub(super) election: Duration,
}

fn office_of(metrics: &RaftServerMetrics<u64, Member>) -> Office {
    let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id);
    Office { leads, term: metrics.vote.leader_id.term }
}

impl Log for RaftLog {
    fn office(&self) -> Office {
        office_of(&self.raft.server_metrics().borrow())
    }

    fn office_is_not(&self, seen: Office) -> BoxFuture<'static, bool> {
        let mut metrics = self.raft.server_metrics();
        Box::pin(async move { metrics.wait_for(|metrics| office_of(metrics) != seen).await.is_ok() })
    }

    fn write(&self, entry: EntryBatch) -> BoxFuture<'static, Written> {
        let raft = self.raft.clone();
        Box::pin(async move {
            match raft.client_write(entry).await {
                Ok(response) => Ok((response.log_id.index, response.data.0)),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(WriteError::Deposed),
                Err(error) => Err(WriteError::Stopped(error.to_string())),
            }
        })
    }

    fn progress(&self) -> Progress {
        Progress {
            applied: self.raft.metrics().borrow().last_applied.map_or(0, |id| id.index),
            quorum_heard: quorum_heard_within(&self.raft, &self.heard, self.election),
            flushing: self.log.flushing(),
        }
    }
}
