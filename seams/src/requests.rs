//! A tower layer that tells a connection of the requests on it, and gives up a request whose body does not come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::ConnectInfo;
use futures::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

use crate::connection::{Activity, Open};
use crate::http::Caller;

/// HTTP/1: from a request's head to the end of its body. HTTP/2: between two pieces of it, a stream may be long.
pub const BODY_DEADLINE: Duration = Duration::from_secs(15);

/// A body that can be made of another of its kind.
pub trait Rebox: Body + Sized {
    /// `body`, as this type.
    fn rebox<B>(body: B) -> Self
    where
        B: Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>;
}

impl Rebox for tonic::body::Body {
    fn rebox<B>(body: B) -> Self
    where
        B: Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::new(body)
    }
}

impl Rebox for axum::body::Body {
    fn rebox<B>(body: B) -> Self
    where
        B: Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::new(body)
    }
}

/// Makes [`Watched`] services.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestsLayer;

impl<S> Layer<S> for RequestsLayer {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner }
    }
}

/// The service whose requests their connections know of.
#[derive(Debug, Clone)]
pub struct Watched<S> {
    inner: S,
}

/// The connection a request came on: as tonic tells it, and as axum does. None under a server that watches none.
fn activity<B>(request: &http::Request<B>) -> Option<Arc<Activity>> {
    let extensions = request.extensions();
    let by_tonic = extensions.get::<Option<Arc<Activity>>>().cloned().flatten();
    by_tonic.or_else(|| extensions.get::<ConnectInfo<Caller>>().and_then(|info| info.0.activity()))
}

impl<S, Q, R> Service<http::Request<Q>> for Watched<S>
where
    S: Service<http::Request<Q>, Response = http::Response<R>> + Send,
    S::Future: Send + 'static,
    Q: Rebox + Body<Data = bytes::Bytes> + Send + 'static,
    Q::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<OpenBody<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let open = activity(&request).map(Activity::begin);
        let by_piece = request.version() == http::Version::HTTP_2;
        let request = request.map(|inner| Q::rebox(TimedBody { inner, by_piece, deadline: None }));
        let responding = self.inner.call(request);
        Box::pin(async move { Ok(responding.await?.map(|inner| OpenBody { inner, _open: open })) })
    }
}

pin_project! {
    /// A response's body; the request is open until it is dropped.
    pub struct OpenBody<B> {
        #[pin]
        inner: B,
        _open: Option<Open>,
    }
}

impl<B: Body> Body for OpenBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// A request's body that fails when it does not come in time. What is not asked for is not late.
    struct TimedBody<B> {
        #[pin]
        inner: B,
        by_piece: bool,
        deadline: Option<Pin<Box<Sleep>>>,
    }
}

/// The body of a request did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("body: expected its next bytes within {} s", BODY_DEADLINE.as_secs())]
struct BodyLate;

impl<B> Body for TimedBody<B>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            if *this.by_piece {
                *this.deadline = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + BODY_DEADLINE)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyLate.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Bytes;
    use axum::routing::post;
    use futures::stream::{self, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::connection::{HEAD_DEADLINE, Protocol, timed};
    use crate::net::Stream;

    /// A server over one connection: `/read` reads the body, `/wait` answers after an hour without it.
    fn served() -> DuplexStream {
        let (theirs, ours) = tokio::io::duplex(1 << 10);
        let stream = timed(Stream::new(ours), Protocol::Http1, metrics::Counter::noop(), ());
        let incoming = stream::iter([Ok(stream)]).chain(stream::pending()).boxed();
        let router = Router::new().route("/read", post(async |body: Bytes| format!("{} bytes\n", body.len()))).route(
            "/wait",
            post(async || {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                "at last\n"
            }),
        );
        let endpoint = "127.0.0.1:1".parse().unwrap();
        tokio::spawn(crate::http::serve(incoming, endpoint, router, std::future::pending()));
        theirs
    }

    async fn answer(peer: &mut DuplexStream) -> (String, Duration) {
        let started = Instant::now();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.unwrap();
        (answer, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_ends_its_request_and_connection() {
        let mut peer = served();
        peer.write_all(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
        let (answer, took) = answer(&mut peer).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("body: expected"), "{answer}");
        assert!(took <= BODY_DEADLINE + HEAD_DEADLINE, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_not_waited_for_longer() {
        let mut peer = served();
        peer.write_all(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(peer);
        let trickle = tokio::spawn(async move {
            while writing.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let started = Instant::now();
        let mut answer = Vec::new();
        reading.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", answer.escape_ascii());
        assert!(started.elapsed() <= BODY_DEADLINE + HEAD_DEADLINE, "{:?}", started.elapsed());
        trickle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_an_hour_is_waited_for() {
        let mut peer = served();
        peer.write_all(b"POST /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let (answer, took) = answer(&mut peer).await;
        assert!(answer.ends_with("at last\n"), "{answer}");
        assert_eq!(took, Duration::from_secs(3600));
    }
}
