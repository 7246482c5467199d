//! What every [`PageStore`] must do, as one suite. A new store runs it; a store that breaks one of the rules must fail
//! it.
//!
//! I/Os have no order among themselves: the suite never has a write and another I/O of the same slot under way at once.

mod checks;
mod driver;
mod pattern;
#[cfg(test)]
mod tests;

use std::time::Duration;

use foreword_proto::ClusterId;

use super::{ClusterMark, SharedStore};
use crate::arena::Arena;

/// An L3 under test: makes stores on it, each as another agent would.
pub trait Subject: Send + Sync {
    /// The mark the directory was made with.
    fn mark(&self) -> ClusterMark;
    /// Another store on the same L3, looking for this cluster.
    fn store(&self, cluster_id: ClusterId) -> SharedStore;
}

/// A rule that a store broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {what} (seed {seed})")]
pub struct Violation {
    /// The check that found it.
    pub check: &'static str,
    pub what: String,
    /// What to run the suite with to see it again.
    pub seed: u64,
}

/// How the suite runs.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    pub seed: u64,
    /// Batches of the random run.
    pub batches: usize,
    /// How long a completion may take before it counts as lost.
    pub patience: Duration,
}

impl Default for Suite {
    fn default() -> Self {
        Self { seed: 1, batches: 200, patience: Duration::from_secs(30) }
    }
}

impl Suite {
    /// Runs every check, each on slabs of its own. The arena needs room for 256 frames of the chunk size, at least 16
    /// KiB each.
    ///
    /// Errors: the first rule that was broken.
    pub async fn run(&self, subject: &dyn Subject, arena: &Arena) -> Result<(), Violation> {
        checks::run(self, subject, arena).await
    }
}
