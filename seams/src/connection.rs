//! One accepted connection: what is under way on it, and when it ends because nothing is.
//!
//! A connection that never says what it wants holds a descriptor for nothing. It ends when its first request (HTTP/1:
//! every request's head; HTTP/2: the preface) is not there in time, and when no request was open on it for long. A
//! request that is open keeps it, however long that takes: a watch lasts for days. What does not answer HTTP/2's pings
//! is ended by the server, what does not acknowledge bytes by the kernel ([`crate::net`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::net::Stream;

/// From accept to the first request, and from a request's first byte to the end of its head.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may have no request open on it: HTTP/1, and HTTP/2 where one that is lost costs more.
const IDLE_HTTP1: Duration = Duration::from_secs(60);
const IDLE_HTTP2: Duration = Duration::from_secs(300);
/// How often a connection is looked at; by so much at most a deadline is late.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes of HTTP/2's preface and an empty settings frame: what every client sends first.
const PREFACE_BYTES: u64 = 24 + 9;

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Requests on one connection, as its server sees them.
#[derive(Debug)]
pub struct Activity {
    protocol: Protocol,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: usize,
    requests: u64,
    bytes: u64,
    /// Since when no request is open.
    idle_since: Instant,
    /// HTTP/1, no request open: when the first byte of the next one came.
    head_since: Option<Instant>,
}

impl Activity {
    fn new(protocol: Protocol) -> Self {
        let state = State { open: 0, requests: 0, bytes: 0, idle_since: Instant::now(), head_since: None };
        Self { protocol, state: Mutex::new(state) }
    }

    /// A request begins; it is open until the guard is dropped.
    pub(crate) fn begin(self: Arc<Self>) -> Open {
        let mut state = self.state.lock();
        state.open += 1;
        state.requests += 1;
        state.head_since = None;
        drop(state);
        Open(self)
    }

    fn received(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes += bytes as u64;
        if self.protocol == Protocol::Http1 && state.open == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    /// When the connection ends unless something happens; None while a request is open.
    fn ends_at(&self) -> Option<Instant> {
        let state = self.state.lock();
        if state.open > 0 {
            return None;
        }
        Some(match self.protocol {
            Protocol::Http1 if state.requests == 0 => state.idle_since + HEAD_DEADLINE,
            Protocol::Http1 => state.head_since.map_or(state.idle_since + IDLE_HTTP1, |since| since + HEAD_DEADLINE),
            Protocol::Http2 if state.bytes < PREFACE_BYTES => state.idle_since + HEAD_DEADLINE,
            Protocol::Http2 => state.idle_since + IDLE_HTTP2,
        })
    }
}

/// A request that is open.
#[derive(Debug)]
pub struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        state.idle_since = Instant::now();
    }
}

/// A connection that reads its end when its time is over. `H` is held as long as the connection is.
struct Timed<H> {
    inner: Stream,
    activity: Arc<Activity>,
    look: Pin<Box<Sleep>>,
    over: bool,
    on_over: metrics::Counter,
    _held: H,
}

/// `inner`, which ends in time; `over` counts that, `held` is dropped with the connection.
pub(crate) fn timed<H: Send + Unpin + 'static>(
    inner: Stream,
    protocol: Protocol,
    over: metrics::Counter,
    held: H,
) -> Stream {
    let activity = Arc::new(Activity::new(protocol));
    let look = Box::pin(sleep_until(Instant::now() + LOOK));
    let timed = Timed { inner, activity: activity.clone(), look, over: false, on_over: over, _held: held };
    Stream::watched(timed, activity)
}

impl<H> Timed<H> {
    /// Ready when the time is over.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            let now = Instant::now();
            let ends_at = self.activity.ends_at();
            if ends_at.is_some_and(|at| at <= now) {
                self.over = true;
                self.on_over.increment(1);
                return Poll::Ready(());
            }
            let next = now + LOOK;
            self.look.as_mut().reset(ends_at.map_or(next, |at| at.min(next)));
        }
    }
}

impl<H: Unpin> AsyncRead for Timed<H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(read) => {
                self.activity.received(buf.filled().len() - before);
                Poll::Ready(read)
            }
            // Nothing waits to be read: a request that arrives just now is not cut off.
            Poll::Pending => self.poll_over(cx).map(Ok),
        }
    }
}

impl<H: Unpin> AsyncWrite for Timed<H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tonic::transport::server::Connected;

    use super::*;

    fn connection(protocol: Protocol) -> (Stream, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        (timed(Stream::new(ours), protocol, metrics::Counter::noop(), ()), theirs)
    }

    /// Reads until the end; how long that took.
    async fn seconds_until_end(stream: &mut Stream) -> u64 {
        let started = Instant::now();
        let mut bytes = [0; 16];
        while stream.read(&mut bytes).await.unwrap() > 0 {}
        started.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_half_sent_ends_its_connection() {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let (mut stream, mut peer) = connection(protocol);
            peer.write_all(b"GET / HT").await.unwrap();
            assert_eq!(seconds_until_end(&mut stream).await, HEAD_DEADLINE.as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_request_keeps_its_connection_and_an_idle_one_ends() {
        for (protocol, idle) in [(Protocol::Http1, IDLE_HTTP1), (Protocol::Http2, IDLE_HTTP2)] {
            let (mut stream, _peer) = connection(protocol);
            stream.connect_info().unwrap().received(PREFACE_BYTES as usize);
            let open = stream.connect_info().unwrap().begin();
            let day = Duration::from_secs(86_400);
            let reading = tokio::time::timeout(day, seconds_until_end(&mut stream)).await;
            assert!(reading.is_err(), "a watch was cut off");
            drop(open);
            let seconds = seconds_until_end(&mut stream).await;
            assert!((idle.as_secs()..=(idle + LOOK).as_secs()).contains(&seconds), "{seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_request_must_come_whole_too() {
        let (mut stream, mut peer) = connection(Protocol::Http1);
        drop(stream.connect_info().unwrap().begin());
        peer.write_all(b"GET / HT").await.unwrap();
        let seconds = seconds_until_end(&mut stream).await;
        assert!(seconds <= (HEAD_DEADLINE + LOOK).as_secs(), "{seconds}");
    }
}
