//! A man in the middle: a host's connections end at it, and it goes on to the real servers itself.
//!
//! It knows gRPC and no service: calls are passed on as they come, but for those whose messages a [`Meddler`] wants to
//! change. It lives in the host's process, as a sidecar does, and what it sends still crosses the simulated network.

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready as some};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foreword_seams::{Endpoint, Incoming, Net, Stream, rpc};
use futures::future::BoxFuture;
use futures::stream;
use http_body::{Body as _, Frame};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::transport::Channel;

/// Bytes on their way between a host and its man in the middle.
const PIPE_BYTES: usize = 256 << 10;
/// Before each message of gRPC: a flag, and the length.
const PREFIX_BYTES: usize = 5;

/// What becomes of a message. None: it is swallowed.
pub(super) type Change = Box<dyn FnMut(Bytes) -> Option<Bytes> + Send>;
/// An answer that is given before the server is asked. None: the server answers.
pub(super) type Early = Box<dyn FnOnce(&Bytes) -> Option<Bytes> + Send>;

/// What happens to one call.
pub(super) struct Meddling {
    /// To each message on its way to the server.
    pub(super) up: Change,
    /// To each message on its way back.
    pub(super) down: Change,
    /// To a call of one message: it is answered at once, and the server asked then.
    pub(super) early: Option<Early>,
}

impl Default for Meddling {
    fn default() -> Self {
        Self { up: Box::new(Some), down: Box::new(Some), early: None }
    }
}

/// Decides about each call: its path, and the way on to its server. None: it is passed on as it is.
pub(super) type Meddler = Arc<dyn Fn(&str, &Channel) -> Option<Meddling> + Send + Sync>;

/// A host's network with a man in the middle of each connection that it opens.
pub(super) struct TappedNet {
    pub(super) inner: Arc<dyn Net>,
    pub(super) meddler: Meddler,
}

impl Net for TappedNet {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
        let (inner, meddler, endpoint) = (self.inner.clone(), self.meddler.clone(), endpoint.clone());
        Box::pin(async move {
            let tap = Tap { onward: rpc::channel(inner, &endpoint), meddler };
            let (here, there) = tokio::io::duplex(PIPE_BYTES);
            let incoming = stream::once(ready(Ok::<_, io::Error>(Stream::new(there))));
            tokio::spawn(rpc::server().serve_with_incoming(tap, incoming));
            Ok(Stream::new(here))
        })
    }

    fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
        self.inner.listen(endpoint)
    }
}

#[derive(Clone)]
struct Tap {
    onward: Channel,
    meddler: Meddler,
}

async fn ask(mut onward: Channel, request: Request<Body>) -> Result<Response<Body>, Status> {
    let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    poll_fn(|cx| onward.poll_ready(cx)).await.map_err(unavailable)?;
    onward.call(request).await.map_err(unavailable)
}

impl Tap {
    async fn pass(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let Some(meddling) = (self.meddler)(request.uri().path(), &self.onward) else {
            return ask(self.onward, request).await;
        };
        let Meddling { up, down, early } = meddling;
        let mut request = request.map(|body| Body::new(Changed::new(body, up)));
        if let Some(early) = early {
            let (parts, body) = request.into_parts();
            let message = first_message(body).await?;
            let again = Request::from_parts(parts, Body::new(Whole::new(&message, false)));
            if let Some(answer) = early(&message) {
                // The caller does not wait for this any more.
                tokio::spawn(ask(self.onward, again));
                return Ok(answered(&answer));
            }
            request = again;
        }
        Ok(ask(self.onward, request).await?.map(|body| Body::new(Changed::new(body, down))))
    }
}

impl Service<Request<Body>> for Tap {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let passing = self.clone().pass(request);
        Box::pin(async move { Ok(passing.await.unwrap_or_else(|status| status.into_http())) })
    }
}

fn answered(message: &Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Whole::new(message, true)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn put_message(message: &Bytes, out: &mut BytesMut) {
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
}

/// The next whole message, if it is there.
fn take_message(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = bytes.get(1..PREFIX_BYTES)?.try_into().map(u32::from_be_bytes).ok()? as usize;
    (bytes.len() >= PREFIX_BYTES + length).then_some(())?;
    bytes.advance(PREFIX_BYTES);
    Some(bytes.split_to(length).freeze())
}

async fn first_message(mut body: Body) -> Result<Bytes, Status> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if let Some(message) = take_message(&mut bytes) {
            return Ok(message);
        }
    }
    Err(Status::cancelled("the call ended before its message"))
}

/// A body whose messages are changed on their way.
struct Changed {
    inner: Body,
    change: Change,
    bytes: BytesMut,
}

impl Changed {
    fn new(inner: Body, change: Change) -> Self {
        Self { inner, change, bytes: BytesMut::new() }
    }
}

impl http_body::Body for Changed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            let frame = match some!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            this.bytes.extend_from_slice(&data);
            let mut out = BytesMut::new();
            while let Some(message) = take_message(&mut this.bytes) {
                if let Some(message) = (this.change)(message) {
                    put_message(&message, &mut out);
                }
            }
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.freeze()))));
            }
        }
    }
}

/// A body of one message; an answer's ends with what says that all is well.
struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    fn new(message: &Bytes, answer: bool) -> Self {
        let mut data = BytesMut::new();
        put_message(message, &mut data);
        let well = || HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
        Self { data: Some(data.freeze()), trailers: answer.then(well) }
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = self.data.take().map(Frame::data).or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(next.map(Ok))
    }
}
