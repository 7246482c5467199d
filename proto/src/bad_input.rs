//! The one error for input that a caller can mend: it names the field and says what was expected.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Metadata key under which a status names the field that was wrong.
pub const FIELD_METADATA: &str = "foreword-field";

/// A field that does not hold what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}")]
pub struct BadInput {
    /// The field as its owner wrote it: `keys`, `l3.path`, `namespace.page_tokens`.
    pub field: String,
    /// What it should hold and what it held: "at most 16384 keys, got 20000".
    pub expected: String,
}

impl BadInput {
    /// An error for `field`, with what was expected of it.
    pub fn new(field: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { field: field.into(), expected: expected.into() }
    }

    /// The same error with `prefix.` before its field.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> Self {
        self.field = format!("{prefix}.{}", self.field);
        self
    }
}

impl From<BadInput> for Status {
    fn from(error: BadInput) -> Self {
        status_for(Code::InvalidArgument, &error.field, error.to_string())
    }
}

/// A status of any code that names the field it is about in its metadata.
pub fn status_for(code: Code, field: &str, message: impl Into<String>) -> Status {
    let mut status = Status::new(code, message);
    if let Ok(value) = MetadataValue::try_from(field) {
        status.metadata_mut().insert(FIELD_METADATA, value);
    }
    status
}

/// The field a status names, if it names one.
pub fn field_of(status: &Status) -> Option<&str> {
    status.metadata().get(FIELD_METADATA)?.to_str().ok()
}
