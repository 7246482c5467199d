//! Calls that a replica passes on to the leader: once, and for as long as their caller waits.

use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

/// Says that a call was passed on: whoever gets it answers, or refuses.
const FORWARDED_METADATA: &str = "foreword-forwarded";

/// A caller's request as it came, deadline included.
pub(crate) fn passed_on<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().insert(FORWARDED_METADATA, MetadataValue::from_static("1"));
    request
}

/// A call on behalf of another, who waits until `deadline`.
pub(crate) fn forwarded<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = passed_on(Request::new(message));
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}

/// Whether a call was passed on by another replica.
pub(crate) fn was_forwarded(metadata: &MetadataMap) -> bool {
    metadata.contains_key(FORWARDED_METADATA)
}
