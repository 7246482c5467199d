//! When something that failed is asked again.
//!
//! Timeouts and errnos open the breaker; what the bytes are (mismatches, short reads) never does: that is the page's
//! fault, not L3's.

/// Failures in a row after which L3 is not asked any more.
pub const FAILURES_TO_OPEN: u32 = 5;
/// Probes under way at once while half open.
pub const PROBES_MAX: u32 = 2;
/// How long the breaker stays open the first time; it doubles up to the second figure while probes fail.
pub const OPEN_MS_MIN: u64 = 500;
pub const OPEN_MS_MAX: u64 = 15_000;

/// Where the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Every I/O goes ahead.
    Closed,
    /// A few I/Os go ahead and decide.
    HalfOpen,
    /// None goes ahead.
    Open,
}

impl BreakerState {
    /// The word /status uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// The breaker. Every admitted I/O reports back exactly once.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    failures: u32,
    /// Set while not closed: when the next probes may go.
    open_until_ms: Option<u64>,
    open_ms: u64,
    probes: u32,
    openings: u64,
}

impl Breaker {
    /// Where it stands at `now_ms`.
    pub fn state(&self, now_ms: u64) -> BreakerState {
        match self.open_until_ms {
            None => BreakerState::Closed,
            Some(until) if now_ms < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// True if an I/O may go ahead now; its result must then be reported.
    pub fn admit(&mut self, now_ms: u64) -> bool {
        match self.state(now_ms) {
            BreakerState::Closed => true,
            BreakerState::Open => false,
            BreakerState::HalfOpen if self.probes < PROBES_MAX => {
                self.probes += 1;
                true
            }
            BreakerState::HalfOpen => false,
        }
    }

    /// An admitted I/O came back from L3, whatever its bytes were.
    pub fn answered(&mut self, now_ms: u64) {
        self.failures = 0;
        self.probes = self.probes.saturating_sub(1);
        if self.state(now_ms) == BreakerState::HalfOpen {
            self.open_until_ms = None;
            self.open_ms = 0;
            self.probes = 0;
        }
    }

    /// An admitted I/O timed out or failed with an errno. True if this opened the breaker.
    pub fn failed(&mut self, now_ms: u64) -> bool {
        self.probes = self.probes.saturating_sub(1);
        self.failures = self.failures.saturating_add(1);
        let opens = match self.state(now_ms) {
            BreakerState::Closed => self.failures >= FAILURES_TO_OPEN,
            BreakerState::HalfOpen => true,
            BreakerState::Open => false,
        };
        if opens {
            self.open_ms = (self.open_ms * 2).clamp(OPEN_MS_MIN, OPEN_MS_MAX);
            self.open_until_ms = Some(now_ms + self.open_ms);
            self.probes = 0;
            self.openings += 1;
        }
        opens
    }

    /// Nobody waits for an admitted I/O any more: it says nothing.
    pub fn abandoned(&mut self) {
        self.probes = self.probes.saturating_sub(1);
    }

    /// How often it opened.
    pub fn openings(&self) -> u64 {
        self.openings
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN {
            assert!(breaker.admit(0));
            breaker.failed(0);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_closes_it() {
        let mut breaker = opened();
        assert_eq!(breaker.state(0), BreakerState::Open);
        assert!(!breaker.admit(OPEN_MS_MIN - 1));
        assert!(breaker.admit(OPEN_MS_MIN));
        breaker.answered(OPEN_MS_MIN + 1);
        assert_eq!(breaker.state(OPEN_MS_MIN + 1), BreakerState::Closed);
    }

    #[test]
    fn a_failed_probe_doubles_the_wait() {
        let mut breaker = opened();
        assert!(breaker.admit(OPEN_MS_MIN));
        assert!(breaker.failed(OPEN_MS_MIN));
        assert!(!breaker.admit(OPEN_MS_MIN * 3 - 1));
        assert!(breaker.admit(OPEN_MS_MIN * 3));
    }

    #[test]
    fn an_answer_between_failures_keeps_it_closed() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.failed(0);
            breaker.answered(0);
        }
        assert_eq!((breaker.state(0), breaker.openings()), (BreakerState::Closed, 0));
    }

    proptest! {
        /// Whatever happens: it never opens without enough failures in a row, is never shut for longer than the
        /// maximum, and never has more probes under way than allowed.
        #[test]
        fn it_always_lets_a_probe_through_in_the_end(steps in prop::collection::vec((0u8..3, 0u64..400), 0..300)) {
            let mut breaker = Breaker::default();
            let mut now = 0;
            let mut under_way = 0u32;
            for (what, later) in steps {
                now += later;
                let before = breaker.state(now);
                match what {
                    0 => under_way += u32::from(breaker.admit(now)),
                    1 if under_way > 0 => { under_way -= 1; breaker.answered(now); }
                    2 if under_way > 0 => {
                        under_way -= 1;
                        breaker.failed(now);
                        if before == BreakerState::HalfOpen {
                            prop_assert_eq!(breaker.state(now), BreakerState::Open);
                        }
                    }
                    _ => {}
                }
                prop_assert!(breaker.probes <= PROBES_MAX);
            }
            // Every I/O under way reports, and then one of two asks must be let through after the longest wait.
            for _ in 0..under_way { breaker.failed(now); }
            prop_assert!(breaker.admit(now + OPEN_MS_MAX));
        }
    }
}
