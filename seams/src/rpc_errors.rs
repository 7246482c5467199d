//! A tower layer that names the field of the one refusal tonic makes itself: a message above its limit.

use std::task::{Context, Poll};

use foreword_proto::bad_input::FIELD_METADATA;
use futures::future::BoxFuture;
use http::HeaderValue;
use tower::{Layer, Service};

/// The field of a message that is too large.
pub const MESSAGE_FIELD: &str = "message";
/// gRPC's OUT_OF_RANGE, with which tonic refuses to decode a message above its limit.
const OUT_OF_RANGE: &str = "11";

/// Makes [`NameMessage`] services.
#[derive(Debug, Clone, Copy, Default)]
pub struct NameMessageLayer;

impl<S> Layer<S> for NameMessageLayer {
    type Service = NameMessage<S>;

    fn layer(&self, inner: S) -> NameMessage<S> {
        NameMessage { inner }
    }
}

/// The service whose refusals all name a field.
#[derive(Debug, Clone)]
pub struct NameMessage<S> {
    inner: S,
}

impl<S, Q, R> Service<http::Request<Q>> for NameMessage<S>
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
        let responding = self.inner.call(request);
        Box::pin(async move {
            let mut response = responding.await?;
            let headers = response.headers_mut();
            // Our own refusals of that code, if there are any, name their field already.
            if headers.get("grpc-status").is_some_and(|code| code == OUT_OF_RANGE)
                && !headers.contains_key(FIELD_METADATA)
            {
                headers.insert(FIELD_METADATA, HeaderValue::from_static(MESSAGE_FIELD));
            }
            Ok(response)
        })
    }
}
