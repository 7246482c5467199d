//! A tower layer that times every gRPC call by method and counts it by method and status code.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use metrics::{Counter, Histogram};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::Telemetry;

/// Makes [`RpcMetrics`] services.
#[derive(Clone)]
pub struct RpcMetricsLayer {
    instruments: Arc<Instruments>,
}

impl RpcMetricsLayer {
    /// Records into this host's telemetry: `foreword_rpc_seconds{method}`, `foreword_rpc_errors_total{method}`.
    pub fn new(telemetry: Telemetry) -> Self {
        Self { instruments: Arc::new(Instruments { telemetry, by_method: Mutex::default() }) }
    }
}

struct Instruments {
    telemetry: Telemetry,
    by_method: Mutex<BTreeMap<String, (Histogram, Counter)>>,
}

/// Paths come from the peer: past this many, new ones share one label.
const METHODS_MAX: usize = 64;

impl Instruments {
    fn of(&self, path: &str) -> (Histogram, Counter) {
        let mut by_method = self.by_method.lock();
        if let Some(found) = by_method.get(path) {
            return found.clone();
        }
        let method = if by_method.len() < METHODS_MAX { path.to_owned() } else { "other".to_owned() };
        let made = (
            self.telemetry.seconds_with(
                "foreword_rpc_seconds",
                "Time to the response's headers, by gRPC method",
                "method",
                method.clone(),
            ),
            self.telemetry.counter_with(
                "foreword_rpc_errors_total",
                "Calls answered with another status than OK, by gRPC method",
                "method",
                method.clone(),
            ),
        );
        by_method.insert(method, made.clone());
        made
    }
}

impl<S> Layer<S> for RpcMetricsLayer {
    type Service = RpcMetrics<S>;

    fn layer(&self, inner: S) -> RpcMetrics<S> {
        RpcMetrics { inner, instruments: self.instruments.clone() }
    }
}

/// The measured service.
#[derive(Clone)]
pub struct RpcMetrics<S> {
    inner: S,
    instruments: Arc<Instruments>,
}

impl<S, Q, R> Service<http::Request<Q>> for RpcMetrics<S>
where
    S: Service<http::Request<Q>, Response = http::Response<R>> + Send,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let (seconds, errors) = self.instruments.of(request.uri().path());
        let started = Instant::now();
        let responding = self.inner.call(request);
        Box::pin(async move {
            let response = responding.await;
            seconds.record(started.elapsed().as_secs_f64());
            let failed = match &response {
                Ok(response) => response.headers().get("grpc-status").is_some_and(|code| code != "0"),
                Err(_) => true,
            };
            if failed {
                errors.increment(1);
            }
            response
        })
    }
}
