//! Whether L3 is asked at all: the breaker, fed by what became of each I/O it let through.

use std::sync::Arc;

use foreword_seams::{Marker, sometimes};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::counters::Counters;
use crate::plan::breaker::{Breaker, BreakerState};

/// L3's health, as its I/Os tell.
pub(super) struct Health {
    started: Instant,
    breaker: Mutex<Breaker>,
    counters: Arc<Counters>,
}

impl Health {
    /// Nothing is known yet: everything is let through.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { started: Instant::now(), breaker: Mutex::default(), counters }
    }

    /// Forgets what is known: it is another L3 now.
    pub(super) fn begin_anew(&self) {
        *self.breaker.lock() = Breaker::default();
    }

    /// Where the breaker stands.
    pub(super) fn state(&self) -> BreakerState {
        self.breaker.lock().state(self.now_ms())
    }

    /// Lets an I/O through, or not.
    pub(super) fn admit(&self) -> Option<Admitted<'_>> {
        let now_ms = self.now_ms();
        let admitted = self.breaker.lock().admit(now_ms);
        // Made only after the lock is free again: dropping one takes it.
        admitted.then(|| Admitted { health: self, reported: false })
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// An I/O the breaker let through: it reports exactly once. Dropped without a report, it says nothing.
pub(super) struct Admitted<'a> {
    health: &'a Health,
    reported: bool,
}

impl Admitted<'_> {
    /// It came back from L3, whatever its bytes were.
    pub(super) fn answered(mut self) {
        self.reported = true;
        let now_ms = self.health.now_ms();
        let mut breaker = self.health.breaker.lock();
        if breaker.state(now_ms) == BreakerState::HalfOpen {
            sometimes(Marker::BreakerClosed);
        }
        breaker.answered(now_ms);
    }

    /// It timed out, or failed with an errno.
    pub(super) fn failed(mut self) {
        self.reported = true;
        if self.health.breaker.lock().failed(self.health.now_ms()) {
            sometimes(Marker::BreakerOpened);
            self.health.counters.breaker_openings.add(1);
            tracing::warn!("L3 fails: the breaker opens");
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.health.breaker.lock().abandoned();
        }
    }
}
