//! gRPC over a [`Net`]: channels that notice a dead peer, and servers fed by an [`Incoming`].

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint as Target, Server, Uri};
use tonic::{Code, Status};
use tower::layer::util::{Identity, Stack};

use crate::net::{Endpoint, Net};
use crate::requests::{BODY_DEADLINE, RequestsLayer};

/// What a status says, also where its sender says nothing: whoever does not know our services, or does not speak gRPC.
pub fn words(status: &Status) -> Cow<'_, str> {
    match (status.code(), status.message()) {
        (Code::Unimplemented, "") => "what answers there has no such service".into(),
        (code, "") => code.description().into(),
        // tonic's words for an HTTP answer without one.
        (_, message) if message.starts_with("grpc-status header missing") => {
            format!("what answers there does not speak gRPC, is it an HTTP endpoint? ({message})").into()
        }
        (_, message) => message.into(),
    }
}

/// Without these a connection that a partition cut stays "open" until the kernel gives up (facts/STACK.md).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an HTTP/2 window: one message of the largest kind goes out without a round trip.
const WINDOW_BYTES: u32 = 8 << 20;

/// Calls under way on one connection; a client's next ones wait on its side. A stream takes some 13 KB before it has
/// said anything.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1024;

/// How often who streams requests says something: well before the other side takes the stream for a request whose body
/// does not come.
pub const BEAT: Duration = BODY_DEADLINE.checked_div(3).expect("3 is not 0");

/// Requests of a stream that stays open until it is dropped: the first ones, and then `beat` again and again.
pub fn held_open<T: Clone + Send + 'static>(first: Vec<T>, beat: T) -> impl Stream<Item = T> + Send + 'static {
    let beats = stream::unfold(beat, |beat| async move {
        tokio::time::sleep(BEAT).await;
        Some((beat.clone(), beat))
    });
    stream::iter(first).chain(beats)
}

/// A lazily connected channel, with keepalive and a connect timeout; it reconnects by itself.
pub fn channel(net: Arc<dyn Net>, endpoint: &Endpoint) -> Channel {
    let endpoint = endpoint.clone();
    // The URI only fills the :authority header; the connector knows where to go.
    Target::from_static("http://foreword.internal")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .tcp_nodelay(true)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connecting = net.connect(&endpoint);
            async move { Ok::<_, std::io::Error>(TokioIo::new(connecting.await?)) }
        }))
}

/// A gRPC server builder with the same keepalive and windows; its connections know of their requests, and have so many
/// at most.
pub fn server() -> Server<Stack<RequestsLayer, Identity>> {
    Server::builder()
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .layer(RequestsLayer)
}
