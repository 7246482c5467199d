//! Whether L3 is asked: for reads and for writes apart, for each slab and for the whole.
//!
//! A full disk fails writes and no read; one bad target fails its slabs and no others. So each slab that fails has a
//! breaker of its own, and the whole is given up only when failures in a row are of several slabs.

use std::collections::BTreeMap;

use foreword_proto::SlabId;

use super::breaker::{Breaker, BreakerState};

/// Failures of I/Os that were under way together count once within this time: a daemon fails as a whole what it took at
/// once, so that they are one failure. Of those that came later the next one counts: an L3 that answers nothing is
/// given up within half a second.
pub const TOGETHER_MS: u64 = 100;
/// Slabs whose breakers are kept; a failure of one more counts for the whole at once.
pub const FAILING_SLABS_MAX: usize = 1024;

/// What is asked of L3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Read,
    Write,
}

/// The number of an admitted I/O of one direction.
pub type Ticket = u64;

/// A breaker to which failures that came together count once.
#[derive(Debug, Clone, Default)]
struct Counting {
    breaker: Breaker,
    /// The newest I/O admitted when a failure was counted last, and when that was.
    counted: Option<(Ticket, u64)>,
}

impl Counting {
    /// An I/O failed. True if this opened the breaker.
    fn failed(&mut self, ticket: Ticket, newest: Ticket, now_ms: u64) -> bool {
        let together = self.counted.is_some_and(|(before, at_ms)| ticket <= before && now_ms < at_ms + TOGETHER_MS);
        if together && self.breaker.state(now_ms) == BreakerState::Closed {
            self.breaker.abandoned();
            return false;
        }
        self.counted = Some((newest, now_ms));
        self.breaker.failed(now_ms)
    }
}

/// The health of L3 in one direction. Every admitted I/O reports back exactly once.
#[derive(Debug, Clone, Default)]
pub struct SideHealth {
    whole: Counting,
    /// The newest I/O that was admitted.
    newest: Ticket,
    /// Slabs that failed and have not answered since.
    slabs: BTreeMap<SlabId, Counting>,
    /// Who failed since the last answer: the first slab, and whether another one did.
    run: Option<(SlabId, bool)>,
    /// The slab that failed last: the one to probe when the whole was given up and every slab has answered since.
    last_failed: Option<SlabId>,
}

/// What a failure led to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opened {
    pub whole: bool,
    pub slab: bool,
}

impl SideHealth {
    /// Where the whole stands.
    pub fn state(&self, now_ms: u64) -> BreakerState {
        self.whole.breaker.state(now_ms)
    }

    /// True if nothing that is asked is held back, whatever the slab.
    pub fn is_sound(&self, now_ms: u64) -> bool {
        self.slabs.is_empty() && self.is_closed(now_ms)
    }

    /// True if an I/O on this slab goes ahead, and is no probe.
    pub fn serves(&self, slab: SlabId, now_ms: u64) -> bool {
        self.is_closed(now_ms)
            && self.slabs.get(&slab).is_none_or(|slab| slab.breaker.state(now_ms) == BreakerState::Closed)
    }

    /// Lets an I/O on this slab go ahead, as a probe perhaps; its result must then be reported. None: it may not.
    pub fn admit(&mut self, slab: SlabId, now_ms: u64) -> Option<Ticket> {
        if !self.whole.breaker.admit(now_ms) {
            return None;
        }
        let admitted = self.slabs.get_mut(&slab).is_none_or(|slab| slab.breaker.admit(now_ms));
        if !admitted {
            self.whole.breaker.abandoned();
            return None;
        }
        self.newest += 1;
        Some(self.newest)
    }

    /// An admitted I/O came back from L3, whatever its bytes were. True if the whole is asked again by this.
    pub fn answered(&mut self, slab: SlabId, now_ms: u64) -> bool {
        let closes = self.state(now_ms) == BreakerState::HalfOpen;
        self.run = None;
        self.whole.breaker.answered(now_ms);
        if let Some(Counting { breaker, .. }) = self.slabs.get_mut(&slab) {
            breaker.answered(now_ms);
            if breaker.state(now_ms) == BreakerState::Closed {
                self.slabs.remove(&slab);
            }
        }
        closes
    }

    /// An admitted I/O timed out or failed with an errno.
    pub fn failed(&mut self, slab: SlabId, ticket: Ticket, now_ms: u64) -> Opened {
        let several = match self.run {
            None => false,
            Some((first, several)) => several || first != slab,
        };
        self.last_failed = Some(slab);
        self.run = Some((self.run.map_or(slab, |(first, _)| first), several));
        let kept = self.slabs.contains_key(&slab) || self.slabs.len() < FAILING_SLABS_MAX;
        let opened = kept && self.slabs.entry(slab).or_default().failed(ticket, self.newest, now_ms);
        // A probe of the whole decides by itself.
        let counts = several || !kept || !self.is_closed(now_ms);
        let whole = if counts { self.whole.failed(ticket, self.newest, now_ms) } else { self.abandon_whole() };
        Opened { whole, slab: opened }
    }

    /// An admitted I/O was not asked of L3 after all.
    pub fn abandoned(&mut self, slab: SlabId) {
        self.whole.breaker.abandoned();
        if let Some(slab) = self.slabs.get_mut(&slab) {
            slab.breaker.abandoned();
        }
    }

    /// Slabs whose next probe is due. Of many, the first few: when one answers, the whole is asked again.
    pub fn due(&self, now_ms: u64, most: usize) -> Vec<SlabId> {
        if self.state(now_ms) == BreakerState::Open {
            return Vec::new();
        }
        let probes = self.slabs.iter().filter(|(_, slab)| slab.breaker.state(now_ms) == BreakerState::HalfOpen);
        let mut due: Vec<SlabId> = probes.map(|(slab, _)| *slab).take(most).collect();
        if due.is_empty() && self.state(now_ms) == BreakerState::HalfOpen {
            due.extend(self.slabs.keys().next().copied().or(self.last_failed));
        }
        due
    }

    /// Slabs that are not asked, or by probes only.
    pub fn failing_slabs(&self, now_ms: u64) -> usize {
        self.slabs.values().filter(|slab| slab.breaker.state(now_ms) != BreakerState::Closed).count()
    }

    fn is_closed(&self, now_ms: u64) -> bool {
        self.state(now_ms) == BreakerState::Closed
    }

    fn abandon_whole(&mut self) -> bool {
        self.whole.breaker.abandoned();
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::breaker::{FAILURES_TO_OPEN, OPEN_MS_MAX, OPEN_MS_MIN};
    use super::*;

    fn fail(health: &mut SideHealth, slab: SlabId, now_ms: u64) -> Opened {
        let ticket = health.admit(slab, now_ms).expect("it goes ahead");
        health.failed(slab, ticket, now_ms)
    }

    #[test]
    fn one_slab_that_fails_is_given_up_alone() {
        let mut health = SideHealth::default();
        for _ in 1..FAILURES_TO_OPEN {
            assert_eq!(fail(&mut health, 3, 0), Opened::default());
        }
        assert_eq!(fail(&mut health, 3, 0), Opened { slab: true, whole: false });
        assert!(!health.serves(3, 0) && health.serves(4, 0) && !health.is_sound(0));
        assert!(health.admit(3, 0).is_none() && health.admit(4, 0).is_some());
        health.answered(4, 0);
        assert_eq!(health.state(0), BreakerState::Closed);
        assert_eq!((health.due(OPEN_MS_MIN - 1, 9), health.due(OPEN_MS_MIN, 9)), (vec![], vec![3]));
        assert!(!health.serves(3, OPEN_MS_MIN), "the next I/O is a probe");
        assert!(health.admit(3, OPEN_MS_MIN).is_some());
        health.answered(3, OPEN_MS_MIN);
        assert!(health.is_sound(OPEN_MS_MIN));
    }

    #[test]
    fn failures_of_several_slabs_in_a_row_are_the_wholes() {
        let mut health = SideHealth::default();
        fail(&mut health, 0, 0);
        let opened: Vec<bool> = (1..=FAILURES_TO_OPEN).map(|slab| fail(&mut health, slab, 0).whole).collect();
        assert_eq!(opened, [false, false, false, false, true]);
        assert!(!health.serves(77, 0) && health.admit(77, 0).is_none(), "no slab is asked");
        assert_eq!(health.due(OPEN_MS_MIN, 9), [0], "one slab decides");
        assert!(health.admit(0, OPEN_MS_MIN).is_some());
        assert!(health.answered(0, OPEN_MS_MIN));
        assert!(health.serves(77, OPEN_MS_MIN));
    }

    #[test]
    fn the_whole_is_probed_though_late_answers_cleared_every_slab() {
        let mut health = SideHealth::default();
        for slab in [0, 1] {
            assert!(health.admit(slab, 0).is_some());
        }
        for at in 0..=FAILURES_TO_OPEN {
            fail(&mut health, at % 2, 0);
        }
        assert_eq!(health.state(0), BreakerState::Open);
        health.answered(0, 1);
        health.answered(1, 1);
        assert_eq!(health.state(OPEN_MS_MIN), BreakerState::HalfOpen);
        let due = health.due(OPEN_MS_MIN, 9);
        assert_eq!(due.len(), 1, "nobody else would ever ask");
        assert!(health.admit(due[0], OPEN_MS_MIN).is_some());
        assert!(health.answered(due[0], OPEN_MS_MIN) && health.is_sound(OPEN_MS_MIN));
    }

    #[test]
    fn what_fails_together_is_one_failure_and_what_is_asked_after_it_another() {
        let mut health = SideHealth::default();
        let job: Vec<_> = (0..64).map(|io| (io % 3, health.admit(io % 3, 0).unwrap())).collect();
        for (slab, ticket) in job {
            assert_eq!(health.failed(slab, ticket, 1), Opened::default());
        }
        assert!((0..3).all(|slab| health.serves(slab, 1)), "one job in fifty must not stop the others");
        for _ in 2..FAILURES_TO_OPEN {
            assert_eq!(fail(&mut health, 0, 1), Opened::default());
        }
        assert!(fail(&mut health, 0, 1).slab);
    }

    #[test]
    fn an_l3_that_answers_nothing_is_given_up_soon_after_the_first_deadline() {
        let mut health = SideHealth::default();
        let asked: Vec<_> = (0..100).map(|io| health.admit(io % 4, io.into()).unwrap()).collect();
        let given_up = asked
            .into_iter()
            .zip(0..)
            .position(|(ticket, io)| health.failed(io % 4, ticket, 5_000 + 10 * u64::from(io)).whole);
        assert_eq!(given_up.map(|io| 10 * io as u64), Some(10 + 4 * TOGETHER_MS));
    }

    #[test]
    fn an_answer_between_failures_of_several_slabs_keeps_the_whole() {
        let mut health = SideHealth::default();
        for slab in 0..99 {
            fail(&mut health, slab, 0);
            assert!(health.admit(100, 0).is_some());
            health.answered(100, 0);
        }
        assert_eq!(health.state(0), BreakerState::Closed);
    }

    proptest! {
        /// Whatever happens, in the end every slab is asked again, by a probe or else.
        #[test]
        fn every_slab_is_asked_again(steps in prop::collection::vec((0u32..6, 0u8..4, 0u64..300), 0..300)) {
            let (mut health, mut now, mut under_way) = (SideHealth::default(), 0, Vec::new());
            for (slab, what, later) in steps {
                now += later;
                match what {
                    0 => under_way.extend(health.admit(slab, now).map(|ticket| (slab, ticket))),
                    1 if !under_way.is_empty() => { health.answered(under_way.swap_remove(0).0, now); }
                    2 if !under_way.is_empty() => {
                        let (slab, ticket) = under_way.swap_remove(0);
                        health.failed(slab, ticket, now);
                    }
                    3 if !under_way.is_empty() => health.abandoned(under_way.swap_remove(0).0),
                    _ => {}
                }
                for slab in 0..6 {
                    prop_assert!(!health.serves(slab, now) || health.clone().admit(slab, now).is_some());
                }
            }
            for (slab, ticket) in under_way { health.failed(slab, ticket, now); }
            for slab in 0..6 {
                now += OPEN_MS_MAX;
                prop_assert!(health.admit(slab, now).is_some(), "slab {} is never asked again", slab);
                health.answered(slab, now);
            }
            prop_assert!(health.is_sound(now) || health.failing_slabs(now) == 0);
        }
    }
}
