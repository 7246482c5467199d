//! What must hold of members' directories: by the names of docs/INVARIANTS.md.

use super::Members;
use crate::state::violation::{BACK, Violation, ensure};

#[cfg(test)]
mod canaries;

/// What later members are held against.
#[derive(Debug, Clone)]
pub(in crate::state) struct Summary(Members);

impl Summary {
    pub(in crate::state) fn of(members: &Members) -> Self {
        Self(members.clone())
    }
}

/// Checks one command's step: a replica id that was used stays its directory's.
pub(in crate::state) fn check_step(before: &Summary, members: &Members) -> Result<(), Violation> {
    for (replica_id, was) in before.0.iter() {
        let now = members.directory(replica_id);
        ensure(BACK, now == Some(was), || format!("replica id {replica_id} was {was}'s, it is {now:?}'s now"))?;
    }
    Ok(())
}
