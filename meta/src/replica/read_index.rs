//! Linearizable reads share one round of leadership confirmation: each costs the leader a message to every peer.

use foreword_proto::Revision;
use openraft::Raft;
use tokio::sync::{mpsc, oneshot};

use crate::consensus::types::TypeConfig;

/// Reads that may wait for the next round.
const WAITING_MAX: usize = 4096;

/// A handle to the task that confirms leadership for everyone who asks meanwhile.
#[derive(Clone)]
pub(super) struct ReadIndex {
    queue: mpsc::Sender<oneshot::Sender<Option<Read>>>,
}

/// A round of confirmation that began after it was asked for, and found this replica leading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    /// What a linearizable read must have applied.
    pub(super) revision: Revision,
    /// The term in which this replica leads.
    pub(super) term: u64,
}

impl ReadIndex {
    /// Starts the task; it ends with the last handle.
    pub(super) fn spawn(raft: Raft<TypeConfig>) -> Self {
        let (queue, mut receiver) = mpsc::channel::<oneshot::Sender<Option<Read>>>(WAITING_MAX);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while receiver.recv_many(&mut waiting, WAITING_MAX).await > 0 {
                // At least the first entry of the leader's own term, so its term is the leader's.
                let read = raft.get_read_log_id().await.ok().and_then(|(id, _)| id);
                let read = read.map(|id| Read { revision: id.index, term: id.leader_id.term });
                for reply in waiting.drain(..) {
                    // A caller that left does not need the answer.
                    let _ = reply.send(read);
                }
            }
        });
        Self { queue }
    }

    /// Confirms that this replica leads, after this call; none when it does not.
    pub(super) async fn here(&self) -> Option<Read> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(reply).ok()?;
        answer.await.ok().flatten()
    }
}
