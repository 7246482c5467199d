//! What the group decided, as an answer.

use foreword_proto::Revision;

use super::Answer;
use super::answer::reserved_body;
use crate::replica::unavailable::Unavailable;
use crate::state::command::{Outcome, Refusal};
use crate::state::hf3fs::{FileName, Hf3fsOutcome};

/// The answer to an operation that was applied at `revision`; `pages` are those that an initialize asked for.
///
/// Errors: an outcome that no such operation has: a bug, or a leader of another version.
pub(super) fn answer_of(
    name: &FileName,
    pages: u32,
    revision: Revision,
    outcome: Outcome,
) -> Result<Answer, Unavailable> {
    let outcome = match outcome {
        Outcome::Hf3fs(outcome) => outcome,
        Outcome::Refused(refusal) => return Ok(refused(&refusal, revision)),
        other => return Err(unexpected(&other)),
    };
    Ok(match outcome {
        Hf3fsOutcome::Reserved { pages } => Answer::ok(reserved_body(&pages), revision),
        Hf3fsOutcome::Initialized { .. }
        | Hf3fsOutcome::Confirmed { .. }
        | Hf3fsOutcome::Deleted { .. }
        | Hf3fsOutcome::Cleared => Answer::done(revision),
        Hf3fsOutcome::OtherSize { pages: has } => other_size(name, has, pages, revision),
        Hf3fsOutcome::NoFile => Answer::no_file(&name.deployment, name.rank, &name.pool, revision),
        other @ (Hf3fsOutcome::Touched
        | Hf3fsOutcome::Expired { .. }
        | Hf3fsOutcome::Imported { .. }
        | Hf3fsOutcome::Dropped) => return Err(unexpected(&other)),
    })
}

/// 409: the file has another size.
pub(super) fn other_size(name: &FileName, has: u32, asked: u32, revision: Revision) -> Answer {
    let FileName { rank, pool, .. } = name;
    let detail = format!("num_pages: expected {has}, as rank {rank} namespace '{pool}' was initialized, got {asked}");
    Answer { revision, ..Answer::detail(409, &detail) }
}

fn refused(refusal: &Refusal, revision: Revision) -> Answer {
    Answer { revision, ..Answer::detail(422, &refusal.to_string()) }
}

fn unexpected(outcome: &impl std::fmt::Debug) -> Unavailable {
    Unavailable::Stopped(format!("the group answered {outcome:?}"))
}
