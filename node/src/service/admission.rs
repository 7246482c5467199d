//! A tower layer that refuses calls above a number, at once and with a clear status, instead of letting them queue.

use std::sync::Arc;
use std::task::{Context, Poll};

use foreword_proto::bad_input::status_for;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Makes [`Admission`] services that share one number of calls.
#[derive(Clone)]
pub struct AdmissionLayer {
    calls: Arc<Semaphore>,
    calls_max: usize,
}

impl AdmissionLayer {
    /// So many calls at once, over all services of this layer.
    pub fn new(calls_max: usize) -> Self {
        Self { calls: Arc::new(Semaphore::new(calls_max)), calls_max }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, layer: self.clone() }
    }
}

/// The limited service.
#[derive(Clone)]
pub struct Admission<S> {
    inner: S,
    layer: AdmissionLayer,
}

/// What a call above the limit is told.
pub(super) fn overloaded(calls_max: usize) -> Status {
    status_for(
        Code::ResourceExhausted,
        "calls_max",
        format!("calls_max: expected at most {calls_max} calls at once; try again later"),
    )
}

impl<S, Q> Service<http::Request<Q>> for Admission<S>
where
    S: Service<http::Request<Q>, Response = http::Response<Body>> + Send,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let Ok(permit) = self.layer.calls.clone().try_acquire_owned() else {
            let refused = overloaded(self.layer.calls_max).into_http();
            return Box::pin(async move { Ok(refused) });
        };
        let responding = self.inner.call(request);
        Box::pin(async move {
            let response = responding.await;
            drop(permit);
            response
        })
    }
}
