//! Linearizable reads share one round of leadership confirmation: each costs the leader a message to every peer.

use foreword_proto::Revision;
use openraft::Raft;
use tokio::sync::{mpsc, oneshot};

use super::types::TypeConfig;

/// Reads that may wait for the next round.
const WAITING_MAX: usize = 4096;

/// A handle to the task that confirms leadership for everyone who asks meanwhile.
#[derive(Clone)]
pub(super) struct ReadIndex {
    queue: mpsc::Sender<oneshot::Sender<Option<Revision>>>,
}

impl ReadIndex {
    /// Starts the task; it ends with the last handle.
    pub(super) fn spawn(raft: Raft<TypeConfig>) -> Self {
        let (queue, mut receiver) = mpsc::channel::<oneshot::Sender<Option<Revision>>>(WAITING_MAX);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while receiver.recv_many(&mut waiting, WAITING_MAX).await > 0 {
                let revision = raft.get_read_log_id().await.ok().map(|(read, _)| read.map_or(0, |id| id.index));
                for reply in waiting.drain(..) {
                    // A caller that left does not need the answer.
                    let _ = reply.send(revision);
                }
            }
        });
        Self { queue }
    }

    /// The index up to which a linearizable read must have applied; none when this replica does not lead.
    pub(super) async fn here(&self) -> Option<Revision> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(reply).ok()?;
        answer.await.ok().flatten()
    }
}
