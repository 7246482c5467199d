//! How long one side looks for what the other will write before it sleeps.
//!
//! Spinning saves the wake-up, 50 µs and more, where the wait is shorter than that. On a machine without an idle core
//! it takes the core from the one who would write, and the wait is as long as the spin. How long a wait was does not
//! tell the two apart, but whether its spin saw its end does: so it is asked for again, as long as is worth it, and
//! where even that is in vain some times in a row there are no more spins, but for a try now and then.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Longer waits are not worth a core.
const WORTH: Duration = Duration::from_micros(200);
/// What is added to twice the time that a spin took.
const RESERVE: Duration = Duration::from_micros(10);
/// So many whole spins in vain, one after another, end the spinning.
const IN_VAIN_MAX: u32 = 3;
/// Then one wait of so many has a whole one: at most 200 µs in 32 waits.
const TRY_EVERY: u64 = 32;

/// How long it is worth to look.
#[derive(Debug)]
pub struct Spin {
    budget_ns: AtomicU64,
    /// Whole spins in vain since one was not.
    in_vain: AtomicU32,
    /// Waits since then that were not spun through.
    waits: AtomicU64,
}

impl Default for Spin {
    fn default() -> Self {
        let budget_ns = AtomicU64::new(WORTH.as_nanos() as u64);
        Self { budget_ns, in_vain: AtomicU32::new(0), waits: AtomicU64::new(0) }
    }
}

impl Spin {
    /// How long to look in the next wait.
    pub fn budget(&self) -> Duration {
        if self.in_vain.load(Ordering::Relaxed) < IN_VAIN_MAX {
            return Duration::from_nanos(self.budget_ns.load(Ordering::Relaxed));
        }
        let waits = self.waits.fetch_add(1, Ordering::Relaxed) + 1;
        if waits.is_multiple_of(TRY_EVERY) { WORTH } else { Duration::ZERO }
    }

    /// The spin saw the end of the wait, after this time.
    pub fn saw(&self, after: Duration) {
        let enough = (after * 2 + RESERVE).min(WORTH).as_nanos() as u64;
        let before = self.budget_ns.load(Ordering::Relaxed);
        // Up at once, and down slowly: the next wait may be longer than this one again.
        self.budget_ns.store(enough.max(before - before / 8), Ordering::Relaxed);
        self.in_vain.store(0, Ordering::Relaxed);
    }

    /// A spin of this length was in vain.
    pub fn slept_after(&self, spun: Duration) {
        if spun >= WORTH {
            self.in_vain.fetch_add(1, Ordering::Relaxed);
        } else if spun > Duration::ZERO {
            // A longer one might not have been.
            self.budget_ns.store(WORTH.as_nanos() as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// What is spun in so many waits, all of which end so late.
    fn spun(spin: &Spin, waits: u64, end: Duration) -> Duration {
        let one = |_| {
            let budget = spin.budget();
            if budget > end {
                spin.saw(end)
            } else {
                spin.slept_after(budget)
            }
            budget.min(end)
        };
        (0..waits).map(one).sum()
    }

    #[test]
    fn spins_in_vain_end_the_spinning_but_for_a_try_now_and_then() {
        let spin = Spin::default();
        spun(&spin, 10, micros(50));
        spun(&spin, 10, micros(10_000));
        assert_eq!(spun(&spin, 10 * TRY_EVERY, micros(10_000)), 10 * WORTH);
    }

    #[test]
    fn one_spin_that_is_not_in_vain_brings_the_spinning_back() {
        let spin = Spin::default();
        spun(&spin, 1000, micros(10_000));
        spun(&spin, TRY_EVERY, micros(90));
        assert_eq!(spun(&spin, 100, micros(90)), 100 * micros(90));
    }

    #[test]
    fn a_late_answer_now_and_then_ends_nothing() {
        let spin = Spin::default();
        for _ in 0..100 {
            spun(&spin, 10, micros(60));
            spun(&spin, 1, micros(5000));
            assert_eq!(spun(&spin, 1, micros(190)), micros(190), "the next one is looked for as long as is worth it");
        }
    }

    #[test]
    fn short_waits_make_spins_short() {
        let spin = Spin::default();
        spun(&spin, 100, micros(1));
        assert!(spin.budget() < micros(20), "{:?}", spin.budget());
    }
}
