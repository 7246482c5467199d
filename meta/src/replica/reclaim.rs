//! Room that nobody holds any more: entries of cleared namespaces, slots whose rest is over.

use std::sync::Arc;

use super::applied::Applied;
use super::duties::Duty;
use crate::state::command::Command;

/// Entries that one command looks through.
const RECLAIM_ENTRIES_MAX: u32 = 4096;

/// Gives it back, a bounded part each round.
pub struct Reclaim {
    applied: Arc<Applied>,
}

impl Reclaim {
    /// Reclaims what `applied` shows.
    pub fn new(applied: Arc<Applied>) -> Self {
        Self { applied }
    }
}

impl Duty for Reclaim {
    fn take_office(&self, _term: u64) {}

    fn leave_office(&self) {}

    fn commands(&self, _now_ms: u64) -> Vec<Command> {
        match self.applied.read(|state| state.reclaimable()) {
            0 => Vec::new(),
            _ => vec![Command::Reclaim { entries_max: RECLAIM_ENTRIES_MAX }],
        }
    }

    fn tick_is_due(&self, now_ms: u64) -> bool {
        self.applied.read(|state| state.next_release_ms()).is_some_and(|at_ms| at_ms <= now_ms)
    }
}
