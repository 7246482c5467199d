//! The agent's lease with the group: who may write, until when, and which slots.

pub mod grants;
mod keeper;
pub mod pool;
pub mod window;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foreword_client::{Group, Replica, Tries};
use foreword_proto::bad_input::field_of;
use foreword_proto::wire::meta as wire;
use foreword_proto::{Revision, Sequence, SessionId};
use foreword_seams::{Marker, sometimes};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};

use window::SequenceWindow;

pub use keeper::{Identity, keep};

/// An open session.
pub struct Session {
    pub id: SessionId,
    lease: Duration,
    /// When the last renewal that succeeded was *sent*.
    renewed: Mutex<Instant>,
    sequences: Mutex<SequenceWindow>,
    sequence_ended: Notify,
    lost: CancellationToken,
}

impl Session {
    fn new(id: SessionId, lease: Duration, window: u32, opened: Instant) -> Self {
        Self {
            id,
            lease,
            renewed: Mutex::new(opened),
            sequences: Mutex::new(SequenceWindow::new(window)),
            sequence_ended: Notify::new(),
            lost: CancellationToken::new(),
        }
    }

    /// True while an L3 write may be submitted: the session is not known to be over and was renewed within half its
    /// lease.
    pub fn may_write(&self) -> bool {
        !self.lost.is_cancelled() && self.renewed.lock().elapsed() < self.lease / 2
    }

    /// True if the group said that the session is over.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    async fn begin_sequence(self: &Arc<Self>) -> Result<SequenceGuard, CommandError> {
        loop {
            let ended = self.sequence_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.is_lost() {
                return Err(CommandError::SessionLost);
            }
            if let Some(sequence) = self.sequences.lock().begin() {
                return Ok(SequenceGuard { session: self.clone(), sequence });
            }
            tokio::select! {
                () = ended => {}
                () = self.lost.cancelled() => {}
            }
        }
    }
}

/// Keeps a sequence number within the window until its command is answered.
struct SequenceGuard {
    session: Arc<Session>,
    sequence: Sequence,
}

impl Drop for SequenceGuard {
    fn drop(&mut self) {
        self.session.sequences.lock().end(self.sequence);
        self.session.sequence_ended.notify_waiters();
    }
}

/// Why a command has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The session ended; what the command did, if anything, is void for this agent.
    #[error("the session is over")]
    SessionLost,
    #[error("the group refused the command: {0}")]
    Refused(Status),
}

/// True if the status says that the session is not one (any more).
fn says_session_lost(status: &Status) -> bool {
    match status.code() {
        Code::NotFound | Code::FailedPrecondition => {
            matches!(field_of(status), None | Some("session" | "sequence"))
        }
        _ => false,
    }
}

/// The agent's session, as it changes.
pub struct Sessions {
    meta: Group,
    current: watch::Sender<Option<Arc<Session>>>,
    /// The group's last answer was that this agent gets none: its name is another's.
    refused: AtomicBool,
    /// The revision that the last renewal's answer named, and when it was asked for.
    heard: Mutex<Option<(Revision, Instant)>>,
}

impl Sessions {
    /// None yet; [`keep`] opens one.
    pub fn new(meta: Group) -> Self {
        Self { meta, current: watch::Sender::new(None), refused: AtomicBool::new(false), heard: Mutex::default() }
    }

    /// The session, if one is open.
    pub fn current(&self) -> Option<Arc<Session>> {
        self.current.borrow().clone()
    }

    /// The group's revision, as of the last renewal, and when that was asked for.
    pub fn heard(&self) -> Option<(Revision, Instant)> {
        *self.heard.lock()
    }

    /// True if no L3 write may be submitted now.
    pub fn fenced(&self) -> bool {
        self.current().is_none_or(|session| !session.may_write())
    }

    /// True while the group refuses this agent a session: waiting for one is in vain.
    pub fn refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits for a session that may write. None: the deadline came first, or the group refuses one.
    pub async fn writable(&self, deadline: Instant) -> Option<Arc<Session>> {
        /// A fenced session may be renewed without anybody being told.
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let mut changes = self.current.subscribe();
        loop {
            if let Some(session) = changes.borrow_and_update().clone().filter(|session| session.may_write()) {
                return Some(session);
            }
            let now = Instant::now();
            if now >= deadline || self.refused() {
                return None;
            }
            let _ = tokio::time::timeout_at(deadline.min(now + LOOK_AGAIN), changes.changed()).await;
        }
    }

    /// Waits until a session is open.
    pub async fn opened(&self) {
        let mut changes = self.current.subscribe();
        let _ = changes.wait_for(Option::is_some).await;
    }

    /// Sends one command of the session, under one sequence number, through any replica until it is answered or the
    /// session is over: the group applies it at most once.
    ///
    /// Run it in a task of its own: a command that was given up would have an outcome nobody knows.
    pub async fn command<T, F>(
        &self,
        session: &Arc<Session>,
        mut call: impl FnMut(Replica, Sequence) -> F,
    ) -> Result<T, CommandError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let guard = session.begin_sequence().await?;
        let mut tries = Tries::endless();
        let mut once = |client: Replica| call(client, guard.sequence);
        loop {
            let answer = tokio::select! {
                answer = self.meta.attempt(&tries, &mut once) => answer,
                () = session.lost.cancelled() => return Err(CommandError::SessionLost),
            };
            let status = match answer {
                Ok(answer) => return Ok(answer),
                Err(status) if says_session_lost(&status) => {
                    tracing::warn!(session = %session.id, %status, "the group does not know the session any more");
                    session.lost.cancel();
                    return Err(CommandError::SessionLost);
                }
                Err(status) => status,
            };
            let Some(pause) = tries.pause(&status, Instant::now(), self.meta.entropy()) else {
                return Err(CommandError::Refused(status));
            };
            sometimes(Marker::CommandRetried);
            tokio::time::sleep(pause).await;
        }
    }

    /// Ends the session: the group need not wait for its lease.
    pub async fn close(&self, deadline: Instant) {
        let Some(session) = self.current.send_replace(None) else { return };
        session.lost.cancel();
        let request = wire::CloseSessionRequest { session: session.id.to_wire() };
        let close = |mut client: Replica| {
            let request = request.clone();
            async move { client.close_session(request).await }
        };
        let closed = self.meta.retry(deadline, close).await;
        if let Err(status) = closed {
            tracing::info!(session = %session.id, %status, "the session was not closed and will expire");
        }
    }
}
