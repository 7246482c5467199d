//! Small HTTP surfaces (/metrics, /healthz, /readyz, /status) over a [`Net`](crate::Net).

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use futures::StreamExt;

use crate::net::{Endpoint, Incoming, Stream};

struct IncomingListener {
    incoming: Incoming,
    endpoint: Endpoint,
}

impl Listener for IncomingListener {
    type Io = Stream;
    type Addr = Endpoint;

    async fn accept(&mut self) -> (Stream, Endpoint) {
        loop {
            match self.incoming.next().await {
                Some(Ok(stream)) => return (stream, self.endpoint.clone()),
                // Out of descriptors, or a connection that was reset before it was accepted: the next one may do.
                Some(Err(error)) => {
                    tracing::warn!(%error, "could not accept an HTTP connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                None => futures::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Endpoint> {
        Ok(self.endpoint.clone())
    }
}

/// Serves `router` until `stop` is ready.
pub async fn serve(
    incoming: Incoming,
    endpoint: Endpoint,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(IncomingListener { incoming, endpoint }, router).with_graceful_shutdown(stop).await
}
