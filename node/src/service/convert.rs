//! Between generated messages and the agent's words: the messages stop here.

use std::time::Duration;

use foreword_proto::bad_input::status_for;
use foreword_proto::limits::PAGE_KEY_BYTES;
use foreword_proto::wire::node as wire;
use foreword_proto::{BadInput, PageKey, PutOutcome};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::api::{ApiError, Opened};

/// Part of the caller's time that is used: the answer must still travel.
const TIMEOUT_USED_PERCENT: u32 = 90;

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let message = error.to_string();
        match error {
            ApiError::BadInput(error) => error.into(),
            ApiError::UnknownNamespace(_) => status_for(Code::NotFound, "namespace_id", message),
            // The group's refusal names its field; it is passed on as it is.
            ApiError::Group(status) => status,
        }
    }
}

/// When the call must be answered: its `grpc-timeout`, less what the answer needs, or `default`.
pub(super) fn deadline_of(metadata: &MetadataMap, default: Duration) -> Instant {
    let timeout = metadata.get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
    let used = timeout.map_or(default, |timeout| (timeout / 100 * TIMEOUT_USED_PERCENT).min(default));
    Instant::now() + used
}

/// `grpc-timeout`: at most 8 digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The page before the first one: none or 32 bytes.
pub(super) fn parent_from_wire(bytes: &[u8]) -> Result<Option<PageKey>, BadInput> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let key = bytes.try_into();
    let key =
        key.map_err(|_| BadInput::new("parent", format!("none or {PAGE_KEY_BYTES} bytes, got {}", bytes.len())))?;
    Ok(Some(PageKey(key)))
}

pub(super) fn opened_to_wire(opened: &Opened) -> wire::OpenNamespaceResponse {
    wire::OpenNamespaceResponse {
        namespace_id: opened.namespace,
        epoch: opened.epoch,
        revision: opened.revision,
        shard_offsets: opened.geometry.shard_offsets.clone(),
        slot_bytes: opened.slot_bytes,
    }
}

pub(super) fn page_put_to_wire(outcome: &PutOutcome) -> wire::PagePut {
    let (outcome, revision, reason) = match outcome {
        PutOutcome::Taken => (wire::PutOutcome::Taken, 0, ""),
        PutOutcome::Published { revision } => (wire::PutOutcome::Published, *revision, ""),
        PutOutcome::Exists { revision } => (wire::PutOutcome::Exists, *revision, ""),
        PutOutcome::Declined => (wire::PutOutcome::Declined, 0, ""),
        PutOutcome::Refused { reason } => (wire::PutOutcome::Refused, 0, *reason),
    };
    wire::PagePut { outcome: outcome.into(), revision, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "S", "5", "5x", "123456789S", "-1S", "5é"] {
            assert_eq!(parse_timeout(text), None, "{text:?}");
        }
    }
}
