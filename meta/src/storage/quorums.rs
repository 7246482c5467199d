//! Whether a leader alone is a quorum, by the memberships in its log.

use std::collections::VecDeque;

use openraft::Membership;

use crate::consensus::types::Member;

/// What memberships ask for, by the indexes of their entries.
#[derive(Debug, Default)]
pub(super) struct Quorums {
    /// Of the newest membership that the log was purged of: false, which is the careful answer, until it is known.
    purged: bool,
    appended: VecDeque<(u64, bool)>,
}

/// Whether no leader commits without another replica: some of its sets of voters has more than one.
fn need_another(membership: &Membership<u64, Member>) -> bool {
    membership.get_joint_config().iter().any(|voters| voters.len() > 1)
}

impl Quorums {
    /// Whether nothing commits without another replica, under the newest membership.
    pub(super) fn need_another(&self) -> bool {
        self.appended.back().map_or(self.purged, |(_, need_another)| *need_another)
    }

    pub(super) fn appended(&mut self, index: u64, membership: &Membership<u64, Member>) {
        self.appended.push_back((index, need_another(membership)));
    }

    /// The membership in force was set at this index, which the log may have been purged of.
    pub(super) fn known(&mut self, index: u64, membership: &Membership<u64, Member>) {
        if self.appended.front().is_none_or(|(first, _)| *first > index) {
            self.purged = need_another(membership);
        }
    }

    /// A snapshot takes the place of more than the log has: it may have another membership.
    pub(super) fn unknown(&mut self) {
        *self = Self::default();
    }

    pub(super) fn truncated(&mut self, from: u64) {
        while self.appended.back().is_some_and(|(index, _)| *index >= from) {
            self.appended.pop_back();
        }
    }

    /// The log starts after this index.
    pub(super) fn purged(&mut self, upto: u64) {
        while let Some((_, need_another)) = self.appended.front().filter(|(index, _)| *index <= upto) {
            self.purged = *need_another;
            self.appended.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn of(configs: &[&[u64]]) -> Membership<u64, Member> {
        let configs: Vec<BTreeSet<u64>> = configs.iter().map(|voters| voters.iter().copied().collect()).collect();
        Membership::new(configs, BTreeMap::<u64, Member>::new())
    }

    #[test]
    fn it_goes_by_the_newest_membership_and_back_with_a_truncation() {
        let mut quorums = Quorums::default();
        assert!(!quorums.need_another(), "careful while nothing is known");
        quorums.appended(3, &of(&[&[1, 2, 3]]));
        assert!(quorums.need_another());
        quorums.appended(5, &of(&[&[1, 2, 3], &[1]]));
        assert!(quorums.need_another(), "three of the joint membership are still asked");
        quorums.appended(6, &of(&[&[1]]));
        assert!(!quorums.need_another());
        quorums.truncated(6);
        assert!(quorums.need_another());
        quorums.purged(5);
        assert!(quorums.need_another());
        quorums.appended(9, &of(&[&[1]]));
        quorums.known(9, &of(&[&[1]]));
        assert!(!quorums.need_another());
    }

    #[test]
    fn a_membership_that_only_a_snapshot_had_is_known_when_it_is_told() {
        let mut quorums = Quorums::default();
        quorums.appended(3, &of(&[&[1, 2, 3]]));
        quorums.unknown();
        quorums.purged(100);
        assert!(!quorums.need_another());
        quorums.known(90, &of(&[&[1, 2]]));
        assert!(quorums.need_another());
    }
}
