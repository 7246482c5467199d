//! What must hold of every state, and between any two states one entry apart: by the names of docs/INVARIANTS.md. Each
//! owner's checks are beside it.
//!
//! Everything is recomputed from the entries and the slots, so a check costs as much as the state is large: for tests
//! and the simulator.

use foreword_proto::Revision;

use super::command::Command;
use super::violation::{BACK, ensure};
use super::{State, agents, hf3fs, members, pages, room};

pub use super::violation::Violation;

#[cfg(test)]
mod canaries;
#[cfg(test)]
pub(in crate::state) mod planted;

/// Checks everything that can be seen in one state.
pub fn check(state: &State) -> Result<(), Violation> {
    let State { settings, revision: _, tick_ms, feature_level: _, pages, room, agents, hf3fs, members: _, term: _ } =
        state;
    pages::check(pages, room)?;
    room::check(room, settings)?;
    agents::check(agents, pages, room)?;
    hf3fs::checks::check(hf3fs, *tick_ms)?;
    ensure("digest-is-true", state.digest() == state.digest_from_scratch(), || {
        format!("{:016x} is kept, {:016x} is computed", state.digest(), state.digest_from_scratch())
    })
}

/// What a later state is held against.
#[derive(Debug, Clone)]
pub struct Summary {
    revision: Revision,
    tick_ms: u64,
    feature_level: u32,
    pages: pages::Summary,
    room: room::Summary,
    agents: agents::Summary,
    page_files: hf3fs::checks::Summary,
    members: members::Summary,
}

impl Summary {
    /// What must not go back.
    pub fn of(state: &State) -> Self {
        let State { settings: _, revision, tick_ms, feature_level, pages, room, agents, hf3fs, members, term: _ } =
            state;
        Self {
            revision: *revision,
            tick_ms: *tick_ms,
            feature_level: *feature_level,
            pages: pages::Summary::of(pages),
            room: room::Summary::of(room),
            agents: agents::Summary::of(agents),
            page_files: hf3fs::checks::Summary::of(hf3fs),
            members: members::Summary::of(members),
        }
    }
}

/// Checks one command's step from `before` to `state`.
pub fn check_step(before: &Summary, state: &State) -> Result<(), Violation> {
    let was = (before.revision, before.tick_ms, before.feature_level);
    let now = (state.revision, state.tick_ms, state.feature_level);
    let forward = was.0 <= now.0 && was.1 <= now.1 && was.2 <= now.2;
    ensure(BACK, forward, || format!("(revision, tick, feature level) {now:?} after {was:?}"))?;
    agents::check_step(&before.agents, &state.agents)?;
    pages::check_step(&before.pages, &state.pages)?;
    room::check_step(&before.room, &state.room)?;
    members::check_step(&before.members, &state.members)?;
    hf3fs::checks::check_step(&before.page_files, &state.hf3fs, state.moment())
}

/// Checks of the same step what only its command tells: that it is one that may have such an effect.
pub fn check_command(before: &Summary, command: &Command, state: &State) -> Result<(), Violation> {
    hf3fs::checks::check_command(&before.page_files, command, &state.hf3fs, state.moment())
}
