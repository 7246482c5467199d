//! Refusals as gRPC statuses that name their field.

use foreword_proto::bad_input::status_for;
use tonic::{Code, Status};

use crate::state::command::{Outcome, Refusal};

/// A refusal as a status that names its field.
pub(crate) fn refused(refusal: Refusal) -> Status {
    let message = refusal.to_string();
    match &refusal {
        Refusal::NoSession { .. } => status_for(Code::FailedPrecondition, "session", message),
        Refusal::SequenceTooOld { .. } => status_for(Code::FailedPrecondition, "sequence", message),
        Refusal::NoNamespace { .. } => status_for(Code::NotFound, "namespace_id", message),
        Refusal::OtherGeometry { registered, .. } => status_for(Code::FailedPrecondition, registered.field(), message),
        Refusal::Invalid(invalid) => status_for(Code::InvalidArgument, invalid.field(), message),
        Refusal::TooMany(limit) => status_for(Code::ResourceExhausted, limit.field(), message),
        Refusal::NameTaken { .. } => status_for(Code::FailedPrecondition, "node", message),
    }
}

/// An outcome that no command of this kind has: a bug, or a leader of another version.
pub(crate) fn unexpected(outcome: &Outcome) -> Status {
    Status::internal(format!("the group answered {outcome:?}"))
}
