//! Opens a session, renews it, and opens another when it is over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foreword_client::retry::{Next, next};
use foreword_client::{Backoff, Replica};
use foreword_proto::wire::meta as wire;
use foreword_proto::{AgentId, SessionId};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Session, Sessions, says_session_lost};

/// A lease shorter than this could not be renewed in time by any means.
const LEASE_MIN: Duration = Duration::from_millis(50);
/// Renewals in one lease.
const RENEWALS_PER_LEASE: u32 = 5;

/// A refusal is asked about again after this: the name may come free with the other session's end.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// One refusal is said again after this.
const REFUSED_SAID_EVERY: Duration = Duration::from_secs(60);

/// Who opens the sessions.
#[derive(Debug, Clone)]
pub struct Identity {
    pub node: String,
    /// Kept in the agent's state directory, or this process's own.
    pub agent: AgentId,
    /// Of this process.
    pub incarnation: u64,
    /// Where this agent's own API listens, for status only.
    pub endpoint: String,
}

/// Keeps a session open until stopped. `opened` is called with each new one.
pub async fn keep(
    sessions: Arc<Sessions>,
    identity: Identity,
    opened: impl Fn(&Arc<Session>) + Send + Sync,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    let mut said = Said::default();
    while !stop.is_cancelled() {
        let open = tokio::select! {
            open = open(&sessions, &identity) => open,
            () = stop.cancelled() => return,
        };
        let mut refused = false;
        match open {
            Ok(session) => {
                (backoff, said) = (Backoff::default(), Said::default());
                sessions.refused.store(false, Ordering::Relaxed);
                opened(&session);
                sessions.current.send_replace(Some(session.clone()));
                tokio::select! {
                    () = renew(&sessions, &session) => {}
                    () = session.lost.cancelled() => {}
                    () = stop.cancelled() => return,
                }
                session.lost.cancel();
                sessions.current.send_replace(None);
            }
            Err(status) => {
                refused = said.refusal(&status);
                sessions.refused.store(refused, Ordering::Relaxed);
            }
        }
        let pause = backoff.next(sessions.meta.entropy());
        let pause = if refused { pause + REFUSED_PAUSE } else { pause };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What was said of sessions that could not be opened.
#[derive(Default)]
struct Said {
    last: Option<(String, Instant)>,
}

impl Said {
    /// Says it, but the same thing not too often. True: the group refused, and so would every replica.
    fn refusal(&mut self, status: &Status) -> bool {
        let said =
            self.last.as_ref().filter(|(message, at)| message == status.message() && at.elapsed() < REFUSED_SAID_EVERY);
        if said.is_none() {
            tracing::warn!(%status, "no session could be opened; trying again");
            self.last = Some((status.message().to_owned(), Instant::now()));
        }
        next(status) == Next::Final
    }
}

async fn open(sessions: &Sessions, identity: &Identity) -> Result<Arc<Session>, Status> {
    const OPEN: Duration = Duration::from_secs(10);
    let request = wire::OpenSessionRequest {
        node: identity.node.clone(),
        agent_id: identity.agent.to_wire(),
        incarnation: identity.incarnation,
        endpoint: identity.endpoint.clone(),
    };
    let sent = Mutex::new(Instant::now());
    let call = |mut client: Replica| {
        let request = request.clone();
        *sent.lock() = Instant::now();
        async move { client.open_session(request).await }
    };
    let answer = sessions.meta.retry(Instant::now() + OPEN, call).await?;
    let lease = Duration::from_millis(u64::from(answer.lease_ms)).max(LEASE_MIN);
    let session = SessionId::from_wire(&answer.session)?;
    tracing::info!(%session, lease_ms = answer.lease_ms, "session opened");
    let opened = *sent.lock();
    Ok(Arc::new(Session::new(session, lease, answer.window, opened)))
}

/// Renews until the group says that the session is over.
async fn renew(sessions: &Sessions, session: &Session) {
    let every = session.lease / RENEWALS_PER_LEASE;
    let request = wire::RenewSessionRequest { session: session.id.to_wire() };
    loop {
        tokio::time::sleep(every).await;
        let sent = Mutex::new(Instant::now());
        let call = |mut client: Replica| {
            let request = request.clone();
            *sent.lock() = Instant::now();
            async move { client.renew_session(request).await }
        };
        match sessions.meta.retry(Instant::now() + session.lease, call).await {
            Ok(answer) => {
                let sent = *sent.lock();
                sessions.meta.members_are(&answer.endpoints);
                *sessions.heard.lock() = Some((answer.revision, sent));
                *session.renewed.lock() = sent;
            }
            Err(status) if says_session_lost(&status) => {
                tracing::warn!(session = %session.id, %status, "the session is over");
                return;
            }
            Err(status) => tracing::warn!(session = %session.id, %status, "the session could not be renewed yet"),
        }
    }
}
