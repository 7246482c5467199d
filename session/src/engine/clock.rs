//! Time on the engine's side. No decision of the agent or the group depends on it, and no simulator runs it.

use std::time::{Duration, Instant};

/// When a call is over.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn after(time: Duration) -> Self {
        Self(now() + time)
    }

    /// What is left; None: it is over.
    pub fn left(self) -> Option<Duration> {
        Some(self.0.saturating_duration_since(now())).filter(|left| !left.is_zero())
    }
}

/// Now.
#[expect(clippy::disallowed_methods, reason = "the engine's own process: it waits in real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}
