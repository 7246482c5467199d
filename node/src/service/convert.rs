//! Between generated messages and the agent's words: the messages stop here.

use foreword_proto::bad_input::status_for;
use foreword_proto::limits::PAGE_KEY_BYTES;
use foreword_proto::wire::node as wire;
use foreword_proto::{BadInput, PageKey, PutOutcome};
use tonic::{Code, Status};

use crate::api::{ApiError, Opened};

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let message = error.to_string();
        match error {
            ApiError::BadInput(error) => error.into(),
            ApiError::UnknownNamespace(_) => status_for(Code::NotFound, "namespace_id", message),
            // The group's refusal names its field; it is passed on as it is.
            ApiError::Group(status) => status,
            ApiError::TooManyNamespaces(_) => status_for(Code::ResourceExhausted, "namespace", message),
            ApiError::MayNotClear(_) => status_for(Code::PermissionDenied, "clear_tenants", message),
        }
    }
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
        PutOutcome::Refused { reason } => (wire::PutOutcome::Refused, 0, reason.name()),
    };
    wire::PagePut { outcome: outcome.into(), revision, reason: reason.to_owned() }
}
