//! Small HTTP surfaces (/metrics, /healthz, /readyz, /status) over a [`Net`](crate::Net).

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures::StreamExt;
use tonic::transport::server::Connected as _;

use crate::connection::Activity;
use crate::net::{Endpoint, Incoming, Stream};
use crate::requests::RequestsLayer;

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
                // Only a bare `Net`'s: those of `listener::listen` are told of there.
                Some(Err(_)) => tokio::task::yield_now().await,
                None => futures::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Endpoint> {
        Ok(self.endpoint.clone())
    }
}

/// The connection a request came on.
#[derive(Debug, Clone)]
pub(crate) struct Caller(Option<Arc<Activity>>);

impl Caller {
    pub(crate) fn activity(&self) -> Option<Arc<Activity>> {
        self.0.clone()
    }
}

impl Connected<IncomingStream<'_, IncomingListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, IncomingListener>) -> Self {
        Self(stream.io().connect_info())
    }
}

/// Serves `router` until `stop` is ready.
pub async fn serve(
    incoming: Incoming,
    endpoint: Endpoint,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let service = router.layer(RequestsLayer).into_make_service_with_connect_info::<Caller>();
    axum::serve(IncomingListener { incoming, endpoint }, service).with_graceful_shutdown(stop).await
}
