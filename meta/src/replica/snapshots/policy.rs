//! When a snapshot is due, and how much of the log goes after it.
//!
//! All sizes are bytes of the log as it is stored. A log between two snapshots is as long as half a snapshot's file, so
//! that writing snapshots costs at most twice what writing the log does; that is within [`LOG_BYTES_PER_SNAPSHOT_MAX`],
//! since the log stands in memory.

use foreword_proto::limits::LOG_BYTES_PER_SNAPSHOT_MAX;

/// A part of what lies between two snapshots, kept before the newest one for followers that are a little behind.
const KEPT_BEFORE_PART: u64 = 8;
/// So many times what lies between two snapshots is kept at most for a follower that receives one, or catches up after
/// it.
const KEPT_FOR_FOLLOWERS_TIMES: u64 = 3;

/// Sizes that follow from the newest snapshot's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Of the log between two snapshots.
    per_snapshot: u64,
}

impl Sizes {
    /// `floor`: as configured; `newest`: bytes of the newest snapshot's file.
    pub(super) fn new(floor: u64, newest: u64) -> Self {
        Self { per_snapshot: floor.max((newest / 2).min(LOG_BYTES_PER_SNAPSHOT_MAX)) }
    }

    /// Of what stays before a snapshot.
    pub(super) fn kept_before(self) -> u64 {
        self.per_snapshot / KEPT_BEFORE_PART
    }

    /// Of a log that is kept for followers.
    pub(super) fn kept_for_followers(self) -> u64 {
        self.per_snapshot * KEPT_FOR_FOLLOWERS_TIMES
    }

    /// Whether a snapshot is due, with so much of the log `after` the newest one. While a follower receives that one
    /// (`receives`), a newer one would make all it has worthless, and the log that it needs next would go: it waits,
    /// but not for ever.
    pub(super) fn is_due(self, after: u64, receives: bool) -> bool {
        after >= if receives { self.kept_for_followers() } else { self.per_snapshot }
    }
}

/// The index up to which the log may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purge {
    /// The last entry that the newest snapshot covers.
    pub(super) covered: u64,
    /// The last index with [`Sizes::kept_before`] bytes of log up to `covered` after it.
    pub(super) before: Option<u64>,
    /// What the slowest follower that is heard has.
    pub(super) needed_after: Option<u64>,
    /// The last index with [`Sizes::kept_for_followers`] bytes of log after it.
    pub(super) too_long: Option<u64>,
}

impl Purge {
    /// None: nothing may go.
    pub(super) fn upto(self) -> Option<u64> {
        let before = self.before?.min(self.covered);
        let needed = self.needed_after.map_or(before, |needed| needed.min(before));
        // However slow it is, the log stays within its bound; but nothing goes that no snapshot covers.
        Some(needed.max(self.too_long.map_or(0, |too_long| too_long.min(before))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_snapshot_is_due_by_the_larger_of_the_floor_and_half_the_state() {
        let small = Sizes::new(64 * MIB, 10 * MIB);
        assert!(!small.is_due(64 * MIB - 1, false) && small.is_due(64 * MIB, false));
        let large = Sizes::new(64 * MIB, 300 * MIB);
        assert!(!large.is_due(150 * MIB - 1, false) && large.is_due(150 * MIB, false));
        let huge = Sizes::new(64 * MIB, 1 << 40);
        assert!(huge.is_due(LOG_BYTES_PER_SNAPSHOT_MAX, false));
        assert!(!Sizes::new(1 << 40, 1 << 40).is_due(LOG_BYTES_PER_SNAPSHOT_MAX, false), "as configured");
    }

    #[test]
    fn while_a_follower_receives_one_the_next_waits_but_not_for_ever() {
        let sizes = Sizes::new(64 * MIB, 0);
        assert!(!sizes.is_due(191 * MIB, true) && sizes.is_due(192 * MIB, true));
    }

    #[test]
    fn the_log_stays_for_a_follower_within_a_bound() {
        let purge = Purge { covered: 100, before: Some(90), needed_after: None, too_long: None };
        assert_eq!(purge.upto(), Some(90));
        assert_eq!(Purge { before: Some(200), ..purge }.upto(), Some(100), "only what a snapshot covers");
        assert_eq!(Purge { before: None, ..purge }.upto(), None, "less than is kept anyway");
        assert_eq!(Purge { needed_after: Some(40), ..purge }.upto(), Some(40));
        assert_eq!(Purge { needed_after: Some(95), ..purge }.upto(), Some(90));
        assert_eq!(Purge { needed_after: Some(40), too_long: Some(70), ..purge }.upto(), Some(70));
        assert_eq!(Purge { needed_after: Some(40), too_long: Some(300), ..purge }.upto(), Some(90));
    }
}
