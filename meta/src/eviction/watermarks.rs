//! When to evict, and how much.

use crate::state::ClassStatus;

/// Between which fills of a class eviction works: above `high_percent` it starts, at `low_percent` it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    pub high_percent: u8,
    pub low_percent: u8,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { high_percent: 95, low_percent: 92 }
    }
}

impl Watermarks {
    /// Whether grants will find nothing before long: less than a hundredth of the class is free.
    pub fn is_short(class: &ClassStatus) -> bool {
        class.slots.free + class.creatable_slots < class.room_slots().div_ceil(100)
    }

    /// Slots to retire now. Slots that rest, and those of `cleared` entries that wait to be reclaimed, count as room
    /// that is coming: retiring more would not bring it sooner.
    ///
    /// Pages that are about to be retired are the caller's to take off, else it takes twice what is needed.
    pub fn slots_to_free(&self, class: &ClassStatus, cleared: u64) -> u64 {
        let room = class.room_slots();
        let present = class.slots.published.saturating_sub(cleared);
        let held = class.slots.granted + present;
        let fill = |percent: u8| room / 100 * u64::from(percent) + room % 100 * u64::from(percent) / 100;
        if held + cleared + class.slots.resting <= fill(self.high_percent) {
            return 0;
        }
        held.saturating_sub(fill(self.low_percent.min(self.high_percent))).min(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::SlotCounts;

    fn class(free: u64, granted: u64, published: u64, resting: u64, creatable_slots: u64) -> ClassStatus {
        let slots = SlotCounts { free, granted, published, resting };
        ClassStatus { slot_bytes: 4096, slabs: 1, slots, creatable_slots }
    }

    const MARKS: Watermarks = Watermarks { high_percent: 90, low_percent: 80 };

    #[test]
    fn nothing_is_freed_below_the_high_mark() {
        assert_eq!(MARKS.slots_to_free(&class(10, 10, 80, 0, 0), 0), 0);
        assert_eq!(MARKS.slots_to_free(&class(0, 100, 800, 0, 100), 0), 0);
        assert_eq!(MARKS.slots_to_free(&class(0, 0, 0, 0, 0), 0), 0);
    }

    #[test]
    fn above_it_the_fill_goes_down_to_the_low_mark() {
        assert_eq!(MARKS.slots_to_free(&class(5, 5, 90, 0, 0), 0), 15);
        assert_eq!(MARKS.slots_to_free(&class(0, 0, 100, 0, 0), 0), 20);
    }

    #[test]
    fn resting_slots_are_room_that_is_coming() {
        assert_eq!(MARKS.slots_to_free(&class(0, 5, 80, 15, 0), 0), 5);
        assert_eq!(MARKS.slots_to_free(&class(0, 5, 70, 25, 0), 0), 0);
    }

    #[test]
    fn what_was_cleared_is_room_that_is_coming_too() {
        assert_eq!(MARKS.slots_to_free(&class(0, 5, 95, 0, 0), 15), 5);
        assert_eq!(MARKS.slots_to_free(&class(0, 5, 95, 0, 0), 20), 0);
        assert_eq!(MARKS.slots_to_free(&class(0, 0, 100, 0, 0), 100), 0);
    }

    #[test]
    fn a_class_is_short_when_less_than_a_hundredth_can_be_granted() {
        assert!(Watermarks::is_short(&class(0, 100, 800, 100, 0)));
        assert!(Watermarks::is_short(&class(9, 100, 891, 0, 0)));
        assert!(!Watermarks::is_short(&class(9, 100, 890, 0, 1)));
        assert!(Watermarks::is_short(&class(0, 1, 1, 0, 0)), "also one of few slots");
    }

    #[test]
    fn no_more_is_freed_than_is_published() {
        assert_eq!(MARKS.slots_to_free(&class(0, 97, 3, 0, 0), 0), 3);
    }
}
