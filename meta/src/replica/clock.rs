//! The leader's time: what ticks say.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Last committed tick plus the monotonic time since this replica took office. No wall clock, and none without office.
#[derive(Debug, Default)]
pub struct LeaderClock {
    office: Mutex<Option<Office>>,
}

#[derive(Debug, Clone, Copy)]
struct Office {
    term: u64,
    since: Instant,
    tick_ms: u64,
}

impl LeaderClock {
    /// Takes office in `term`, when the state's last tick was `tick_ms`.
    pub fn take_office(&self, term: u64, tick_ms: u64) {
        *self.office.lock() = Some(Office { term, since: Instant::now(), tick_ms });
    }

    /// Leaves office: from now on there is no time to tell.
    pub fn leave_office(&self) {
        *self.office.lock() = None;
    }

    /// The term this replica is in office for.
    pub fn term(&self) -> Option<u64> {
        self.office.lock().map(|office| office.term)
    }

    /// Cluster time in milliseconds, for a leader.
    pub fn now_ms(&self) -> Option<u64> {
        let office = (*self.office.lock())?;
        Some(office.tick_ms + office.since.elapsed().as_millis() as u64)
    }

    /// How long this replica has been in office.
    pub fn in_office(&self) -> Option<Duration> {
        Some((*self.office.lock())?.since.elapsed())
    }
}
