//! gRPC over a [`Net`]: channels that notice a dead peer, and servers fed by an [`Incoming`].

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint as Target, Server, Uri};
use tower::layer::util::{Identity, Stack};

use crate::net::{Endpoint, Net};
use crate::requests::RequestsLayer;

/// Without these a connection that a partition cut stays "open" until the kernel gives up (facts/STACK.md).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an HTTP/2 window: one message of the largest kind goes out without a round trip.
const WINDOW_BYTES: u32 = 8 << 20;

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

/// A gRPC server builder with the same keepalive and windows; its connections know of their requests.
pub fn server() -> Server<Stack<RequestsLayer, Identity>> {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .layer(RequestsLayer)
}
