//! Agents that ask for a name that another one has: the leader says so, but not with every try.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_proto::limits::SESSIONS_MAX;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::state::command::{Outcome, Refusal};

/// One name is said again after this.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// When each name was said last.
#[derive(Debug, Default)]
pub(super) struct NamesTaken {
    said: Mutex<BTreeMap<String, Instant>>,
}

impl NamesTaken {
    /// Logs what of these outcomes is to be said now.
    pub(super) fn note(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            if let Outcome::Refused(refusal @ Refusal::NameTaken { node, .. }) = outcome
                && self.is_due(node)
            {
                tracing::warn!("{refusal}");
            }
        }
    }

    fn is_due(&self, node: &str) -> bool {
        let mut said = self.said.lock();
        said.retain(|_, at| at.elapsed() < SAID_EVERY);
        if said.contains_key(node) || said.len() >= SESSIONS_MAX {
            return false;
        }
        said.insert(node.to_owned(), Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_said_once_a_minute() {
        let names = NamesTaken::default();
        assert!(names.is_due("a") && !names.is_due("a") && names.is_due("b"));
        tokio::time::advance(SAID_EVERY).await;
        assert!(names.is_due("a"));
    }
}
