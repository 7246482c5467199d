//! How long one side looks for what the other will write before it sleeps.
//!
//! Spinning saves the wake-up, 50 µs and more, where the wait is shorter than that. On a machine without an idle core it takes the core
//! from the one who would write. So each side spins as long as it lately had to wait, with some reserve, and not at all where that was
//! long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longer waits are not worth a core.
const WORTH: Duration = Duration::from_micros(200);
/// What is added to twice the usual time.
const RESERVE: Duration = Duration::from_micros(10);
/// One wait's weight in the usual time: 1/8.
const WEIGHT: u64 = 8;
/// No single wait counts for more, so that a long one is forgotten within some tens of others.
const COUNTED_MAX: Duration = Duration::from_millis(2);

/// The usual wait, in nanoseconds.
#[derive(Debug, Default)]
pub struct Spin(AtomicU64);

impl Spin {
    /// How long to look before sleeping.
    pub fn budget(&self) -> Duration {
        let usual = Duration::from_nanos(self.0.load(Ordering::Relaxed));
        if usual > WORTH { Duration::ZERO } else { (usual * 2 + RESERVE).min(WORTH) }
    }

    /// A wait was this long, sleeping included.
    pub fn took(&self, time: Duration) {
        let (took, usual) = (time.min(COUNTED_MAX).as_nanos() as u64, self.0.load(Ordering::Relaxed));
        self.0.store(usual - usual / WEIGHT + took / WEIGHT, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_waits_end_the_spinning_and_short_ones_bring_it_back() {
        let spin = Spin::default();
        assert!(spin.budget() >= RESERVE);
        (0..64).for_each(|_| spin.took(Duration::from_millis(5)));
        assert_eq!(spin.budget(), Duration::ZERO);
        (0..64).for_each(|_| spin.took(Duration::from_micros(20)));
        assert!(spin.budget() > Duration::from_micros(40) && spin.budget() <= WORTH, "{:?}", spin.budget());
    }
}
