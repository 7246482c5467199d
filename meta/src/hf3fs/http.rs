//! The HTTP surface: what SGLang's `mini_3fs_metadata_server` serves, and a deployment in the path.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use foreword_proto::limits::HF3FS_BODY_BYTES_MAX;
use futures::StreamExt;

use super::path::target_of;
use super::{Answer, Call, Calls};

/// Of a body that is too large, so much is read and thrown away, so that its sender reads the answer instead of a
/// broken connection.
const BODY_BYTES_DRAINED_MAX: usize = 8 * HF3FS_BODY_BYTES_MAX;

/// Serves SGLang's hf3fs metadata clients.
pub fn router(calls: Arc<Calls>) -> Router {
    Router::new().fallback(serve).with_state(calls)
}

async fn serve(State(calls): State<Arc<Calls>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some(target) = target_of(head.uri.path()) else {
        return redirected(&head).unwrap_or_else(|| response(Answer::detail(404, "Not Found")));
    };
    if head.method != Method::POST {
        let mut response = response(Answer::detail(405, "Method Not Allowed"));
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let rank = match target.check() {
        Ok(rank) => rank,
        Err(answer) => return response(answer),
    };
    let body = match read(body).await {
        Ok(body) => body,
        Err(answer) => return response(answer),
    };
    let call = Call { deployment: target.deployment, rank, operation: target.operation, body };
    response(calls.answer(call).await)
}

fn response(answer: Answer) -> Response<Body> {
    let json = !answer.body.is_empty();
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    if json {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}

/// A path with a slash too many is sent to the one without it, as Starlette does.
fn redirected(head: &axum::http::request::Parts) -> Option<Response<Body>> {
    let path = head.uri.path().strip_suffix('/')?.trim_end_matches('/');
    target_of(path)?;
    let host = head.headers.get(header::HOST)?.to_str().ok()?;
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(format!("http://{host}{path}{query}")).ok()?);
    Some(response)
}

/// A whole body, or what to answer instead.
async fn read(body: Body) -> Result<Bytes, Answer> {
    let mut stream = body.into_data_stream();
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    let mut bytes = 0;
    while let Some(chunk) = stream.next().await {
        // The sender left in the middle; nobody reads this.
        let chunk = chunk.map_err(|error| Answer::detail(400, &format!("body: {error}")))?;
        bytes += chunk.len();
        if bytes > BODY_BYTES_DRAINED_MAX {
            break;
        }
        if bytes > HF3FS_BODY_BYTES_MAX {
            (whole, parts) = (Bytes::new(), BytesMut::new());
        } else if bytes == chunk.len() {
            whole = chunk;
        } else {
            if parts.is_empty() {
                parts.extend_from_slice(&std::mem::take(&mut whole));
            }
            parts.extend_from_slice(&chunk);
        }
    }
    if bytes > HF3FS_BODY_BYTES_MAX {
        let detail = format!("body: expected at most {HF3FS_BODY_BYTES_MAX} bytes");
        return Err(Answer::detail(413, &detail));
    }
    Ok(if parts.is_empty() { whole } else { parts.freeze() })
}
