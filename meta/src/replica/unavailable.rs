//! Why a group did not answer.

use foreword_proto::Revision;
use foreword_proto::bad_input::{field_of, status_for};
use tonic::{Code, Status};

use super::checked::Unloggable;
use super::proposer::ProposeError;

/// Why the group could not answer in time. But for [`Self::Refused`] the caller may try again, here or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Nothing was proposed.
    #[error("no leader within the deadline")]
    NoLeader,
    /// Nothing was proposed.
    #[error("the proposal queue is full")]
    Overloaded,
    #[error("no answer of the leader within the deadline, or its leadership ended: it may or may not be applied")]
    Unknown,
    #[error("revision {wanted} is not applied here within the deadline, only {applied}")]
    Behind { wanted: Revision, applied: Revision },
    /// The leader will not log this, today or later: the caller's mistake, or a newer version's command.
    #[error("{message}")]
    Refused { code: Code, field: String, message: String },
    #[error("the replica is stopping: {0}")]
    Stopped(String),
}

/// The field of a status that says that its replica does not lead.
const LEADER_FIELD: &str = "leader";

/// The answer of a replica that does not lead to what only the leader decides.
pub(crate) fn not_leader() -> Status {
    let message = "leader: expected to be asked what a leader decides, this replica is not it";
    status_for(Code::Unavailable, LEADER_FIELD, message)
}

impl Unavailable {
    /// What a status of the leader says of a proposal that was passed on to it.
    pub(super) fn of_forward(status: &Status) -> Self {
        match (field_of(status), status.code()) {
            (Some(field), code) if field.starts_with("commands") => {
                Self::Refused { code, field: field.into(), message: status.message().into() }
            }
            // Refused before it was looked at.
            (Some(LEADER_FIELD), _) | (_, Code::FailedPrecondition) => Self::NoLeader,
            (_, Code::ResourceExhausted) => Self::Overloaded,
            _ if never_sent(status) => Self::NoLeader,
            _ => Self::Unknown,
        }
    }
}

/// The connection was not there: nothing left this replica.
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

impl From<Unloggable> for Unavailable {
    fn from(error: Unloggable) -> Self {
        Self::Refused { code: error.code(), field: error.field(), message: error.to_string() }
    }
}

impl From<ProposeError> for Unavailable {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::QueueFull => Self::Overloaded,
            ProposeError::Stopped(why) => Self::Stopped(why),
            ProposeError::NotLeader | ProposeError::Late => Self::NoLeader,
            ProposeError::Unknown => Self::Unknown,
        }
    }
}

impl From<Unavailable> for Status {
    fn from(error: Unavailable) -> Self {
        match error {
            Unavailable::Overloaded => Self::resource_exhausted(error.to_string()),
            Unavailable::NoLeader => status_for(Code::Unavailable, LEADER_FIELD, error.to_string()),
            Unavailable::Refused { code, field, message } => status_for(code, &field, message),
            Unavailable::Behind { .. } => status_for(Code::FailedPrecondition, "behind", error.to_string()),
            other => Self::unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_whether_a_forward_may_be_applied() {
        let of = |status: Status| Unavailable::of_forward(&status);
        assert_eq!(of(not_leader()), Unavailable::NoLeader);
        assert_eq!(of(Status::unavailable("a stream that broke")), Unavailable::Unknown);
        assert_eq!(of(Status::cancelled("Timeout expired")), Unavailable::Unknown);
        assert_eq!(of(Status::resource_exhausted("full")), Unavailable::Overloaded);
        let refused = of(status_for(Code::InvalidArgument, "commands.3", "commands.3: what"));
        assert!(matches!(refused, Unavailable::Refused { code: Code::InvalidArgument, .. }), "{refused:?}");
        let refused_connection = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let unconnected = Status::from_error(Box::new(tonic::ConnectError(refused_connection.into())));
        assert_eq!(of(unconnected), Unavailable::NoLeader);
    }
}
