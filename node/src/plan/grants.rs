//! When to ask for more slots, and for how many.

/// Slots held at least, while pages are being written.
pub const SLOTS_LOW_MIN: u32 = 64;
/// Slots asked for at once: the group's own limit is 1/64 of the room.
pub const SLOTS_ASK_MIN: u32 = 64;
pub const SLOTS_ASK_MAX: u32 = 1024;
/// Grants of one slot size under way at once: a commit of the log each, and what one gives may be less than what is
/// asked for.
pub const GRANTS_UNDER_WAY_MAX: usize = 4;
/// The pool is refilled when it holds less than what this time's writes need: an election and a round trip.
const LOW_MARK_MS: u64 = 500;
/// A grant covers this time's writes.
const ASK_MS: u64 = 1000;

/// How many slots to ask for, given those held or on their way, the pages waiting for one, the pages written per second
/// lately, and what the last grant gave. None: enough.
///
/// Where the group gives little, room is short, and slots kept ahead of need are missing elsewhere: half of a grant is
/// kept then.
pub fn slots_to_ask(held: usize, waiting: usize, written_per_s: u64, gives: u32) -> Option<u32> {
    let low = (written_per_s * LOW_MARK_MS / 1000).clamp(u64::from(SLOTS_LOW_MIN) / 2, u64::from(SLOTS_ASK_MAX) / 2);
    let low = low.min(u64::from(gives) / 2);
    let needed = low + waiting as u64;
    if held as u64 >= needed {
        return None;
    }
    let wanted = (written_per_s * ASK_MS / 1000).max(waiting as u64);
    Some(wanted.clamp(u64::from(SLOTS_ASK_MIN), u64::from(SLOTS_ASK_MAX)) as u32)
}

/// Pages written per second, over the last second or so: an exponential average fed by counts.
#[derive(Debug, Clone, Default)]
pub struct WriteRate {
    per_s: u64,
    counted: u64,
    since_ms: u64,
}

impl WriteRate {
    /// Counts pages written at `now_ms`.
    pub fn count(&mut self, now_ms: u64, pages: u64) {
        self.roll(now_ms);
        self.counted += pages;
    }

    /// Pages a second.
    pub fn per_s(&mut self, now_ms: u64) -> u64 {
        self.roll(now_ms);
        self.per_s
    }

    fn roll(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.since_ms);
        if passed < 200 {
            return;
        }
        let current = self.counted * 1000 / passed;
        self.per_s = if passed >= 1000 { current } else { (self.per_s + current) / 2 };
        self.counted = 0;
        self.since_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_that_waits_is_always_asked_for_and_a_full_pool_never(held in 0usize..5000, waiting in 0usize..5000, rate in 0u64..1_000_000, gives in 0u32..5000) {
            let ask = slots_to_ask(held, waiting, rate, gives);
            if waiting > held {
                prop_assert!(ask.is_some());
            }
            if held >= waiting + SLOTS_ASK_MAX as usize {
                prop_assert!(ask.is_none());
            }
            if let Some(ask) = ask {
                prop_assert!((SLOTS_ASK_MIN..=SLOTS_ASK_MAX).contains(&ask));
            }
        }
    }

    #[test]
    fn the_rate_follows_the_counts_and_fades() {
        let mut rate = WriteRate::default();
        for step in 1..=20 {
            rate.count(step * 100, 50);
        }
        assert!((400..=600).contains(&rate.per_s(2100)), "{}", rate.per_s(2100));
        assert_eq!(rate.per_s(60_000), 0);
    }
}
