//! One connection to an agent, which does not come back: what was opened over it is known to be open at that agent, and
//! no other.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use foreword_client::{Connection, cause};
use foreword_proto::wire::node as wire;
use foreword_seams::net::{Incoming, Stream};
use foreword_seams::{Endpoint, Net, TokioNet};
use foreword_session::Session;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::transport::{Grpc, InSession, Transport};

/// How long an agent may take to say what it is, and to open a namespace.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which the agent has answered.
pub(super) struct Line {
    connection: Connection,
    pub(super) transport: Arc<dyn Transport>,
    /// Why there is no session on a unix socket.
    pub(super) no_session: Option<String>,
    /// Cancelled when the connection is gone.
    pub(super) gone: CancellationToken,
}

impl Line {
    /// Connects, and asks the agent for something: who does not answer is not there. The error is for people.
    pub(super) async fn connect(endpoint: &Endpoint, tenant: &str) -> Result<Self, String> {
        let gone = CancellationToken::new();
        let connection = Connection::new(Arc::new(Once { used: AtomicBool::new(false), gone: gone.clone() }), endpoint);
        let mut agent = connection.clone().agent();
        let answer = timeout_at(Instant::now() + CALL_TIMEOUT, agent.stats(wire::StatsRequest {})).await;
        answer
            .map_err(|_| format!("{endpoint}: no answer within {CALL_TIMEOUT:?}"))?
            .map_err(|status| cause(&status))?;
        let grpc = Grpc::new(connection.clone());
        let (transport, no_session): (Arc<dyn Transport>, _) = match session(endpoint, tenant).await {
            Some(Ok(session)) => (Arc::new(InSession::new(session, grpc, gone.clone())), None),
            Some(Err(error)) => (Arc::new(grpc), Some(error)),
            None => (Arc::new(grpc), None),
        };
        Ok(Self { connection, transport, no_session, gone })
    }

    /// Opens a namespace; its id. The error is for people.
    pub(super) async fn open(&self, namespace: wire::OpenNamespaceRequest) -> Result<u32, String> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        // The agent gives up sooner, so that its words arrive.
        let mut agent = self.connection.clone().until(deadline - CALL_TIMEOUT / 5).agent();
        let opened = in_time(deadline, agent.open_namespace(namespace)).await.map_err(|status| cause(&status))?;
        Ok(opened.into_inner().namespace_id)
    }

    /// Ends one opening, if the agent answers in time.
    pub(super) async fn close(&self, namespace_id: u32, deadline: Instant) {
        let mut agent = self.connection.clone().until(deadline).agent();
        // It ends by itself at last.
        let _ = in_time(deadline, agent.close_namespace(wire::CloseNamespaceRequest { namespace_id })).await;
    }

    /// Takes all pages of a namespace out of the index; the revision. The error is for people.
    pub(super) async fn clear(&self, namespace_id: u32, deadline: Instant) -> Result<u64, String> {
        let mut agent = self.connection.clone().until(deadline).agent();
        let cleared = in_time(deadline, agent.clear(wire::ClearRequest { namespace_id })).await;
        Ok(cleared.map_err(|status| cause(&status))?.into_inner().revision)
    }
}

/// A session with the agent at a unix socket; the error, for people, leaves gRPC on the same socket.
async fn session(endpoint: &Endpoint, tenant: &str) -> Option<Result<Session, String>> {
    let Endpoint::Unix(path) = endpoint else { return None };
    let (path, tenant) = (path.clone(), tenant.to_owned());
    let opened = tokio::task::spawn_blocking(move || Session::open(&path, &tenant, CALL_TIMEOUT)).await;
    Some(opened.map_err(|error| error.to_string()).and_then(|opened| opened.map_err(|error| error.to_string())))
}

/// Whether the agent would give a session now.
pub(super) async fn has_session(endpoint: &Endpoint, tenant: &str) -> bool {
    matches!(session(endpoint, tenant).await, Some(Ok(_)))
}

async fn in_time<T>(deadline: Instant, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout_at(deadline, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("the agent did not answer in time")))
}

/// A network that connects once.
struct Once {
    used: AtomicBool,
    gone: CancellationToken,
}

impl Net for Once {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
        if self.used.swap(true, Ordering::Relaxed) {
            return Box::pin(async { Err(io::Error::new(io::ErrorKind::NotConnected, "the connection was lost")) });
        }
        let (connecting, gone) = (TokioNet.connect(endpoint), self.gone.clone().drop_guard());
        Box::pin(async move { Ok(Stream::new(Watched { stream: connecting.await?, _gone: gone })) })
    }

    fn listen(&self, _: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// A stream whose end is seen.
struct Watched {
    stream: Stream,
    _gone: DropGuard,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
