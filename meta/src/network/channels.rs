//! Channels to endpoints, made once each and kept, for as long as whoever answers is the one that is meant.
//!
//! A connection outlives what its name led to when it was made: another replica that answers there would answer for
//! ever. So a call that was refused because it is for somebody else makes the next channel to that endpoint connect
//! anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foreword_proto::bad_input::field_of;
use foreword_seams::{Endpoint, Net, rpc};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{self, Channel};
use tower::Service;

use super::address::is_about_addressee;

/// A channel is made anew so often at most.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

struct Kept {
    channel: Channel,
    made: Instant,
}

/// The channels, by endpoint. Making one per call costs milliseconds (facts/STACK.md).
pub(super) struct Channels {
    net: Arc<dyn Net>,
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl Channels {
    /// None yet.
    pub(super) fn new(net: Arc<dyn Net>) -> Arc<Self> {
        Arc::new(Self { net, kept: Mutex::default() })
    }

    /// The channel to an endpoint.
    pub(super) fn to(&self, endpoint: &str) -> Channel {
        let make = || {
            let target = endpoint.parse().unwrap_or_else(|_| Endpoint::Tcp(endpoint.to_owned()));
            Kept { channel: rpc::channel(self.net.clone(), &target), made: Instant::now() }
        };
        self.kept.lock().entry(endpoint.to_owned()).or_insert_with(make).channel.clone()
    }

    /// The channel to whoever is meant at an endpoint.
    pub(super) fn to_peer(self: &Arc<Self>, endpoint: &str) -> PeerChannel {
        PeerChannel { channel: self.to(endpoint), channels: self.clone(), endpoint: endpoint.into() }
    }

    /// Somebody else answers at this endpoint: the next channel to it connects anew.
    pub(super) fn answered_by_another(&self, endpoint: &str) {
        let mut kept = self.kept.lock();
        if kept.get(endpoint).is_some_and(|kept| kept.made.elapsed() >= RESOLVE_AGAIN) {
            kept.remove(endpoint);
        }
    }
}

/// A channel whose refused calls are looked at.
#[derive(Clone)]
pub(crate) struct PeerChannel {
    channel: Channel,
    channels: Arc<Channels>,
    endpoint: Arc<str>,
}

impl Service<http::Request<Body>> for PeerChannel {
    type Response = http::Response<Body>;
    type Error = transport::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.channel.call(request);
        let (channels, endpoint) = (self.channels.clone(), self.endpoint.clone());
        Box::pin(async move {
            let answer = answer.await?;
            // A refusal has no body: its status stands in the headers.
            let refused = Status::from_header_map(answer.headers());
            if refused.is_some_and(|status| field_of(&status).is_some_and(is_about_addressee)) {
                channels.answered_by_another(&endpoint);
            }
            Ok(answer)
        })
    }
}
