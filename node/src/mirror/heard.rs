//! What the group was heard to have, and when: how old a mirror is by it. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use foreword_proto::Revision;
use tokio::time::Instant;

/// Of what is heard within this time, the last counts.
const APART: Duration = Duration::from_secs(1);
/// Notes kept: some minutes of a busy group.
const NOTES_MAX: usize = 256;

/// Revisions and times, both rising.
pub(super) struct Heard {
    began: Instant,
    notes: VecDeque<(Revision, Instant)>,
}

impl Heard {
    /// Nothing was heard, since now.
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, notes: VecDeque::new() }
    }

    /// The group had this revision at this time. What comes late is not noted.
    pub(super) fn had(&mut self, revision: Revision, at: Instant) {
        let Some(&(last, last_at)) = self.notes.back() else {
            self.notes.push_back((revision, at));
            return;
        };
        if revision < last || at < last_at {
            return;
        }
        let before = self.notes.len().checked_sub(2).map(|before| self.notes[before].1);
        if revision == last || before.is_some_and(|before| at < before + APART) {
            self.notes.pop_back();
        }
        self.notes.push_back((revision, at));
        if self.notes.len() > NOTES_MAX {
            self.notes.pop_front();
        }
    }

    /// The last time at which the group was heard to have no more than this revision.
    pub(super) fn complete_at(&self, revision: Revision) -> Instant {
        let had = self.notes.partition_point(|(had, _)| *had <= revision);
        had.checked_sub(1).map_or(self.began, |last| self.notes[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn notes_rise_and_are_bounded() {
        let start = Instant::now();
        let second = |seconds: u64| start + Duration::from_secs(seconds);
        let mut heard = Heard::new(start);
        assert_eq!(heard.complete_at(0), start);
        heard.had(5, second(1));
        heard.had(5, second(3));
        assert_eq!((heard.complete_at(4), heard.complete_at(5)), (start, second(3)));
        heard.had(4, second(4));
        heard.had(9, second(2));
        assert_eq!(heard.complete_at(9), second(3), "what comes late, or is less, is no news");
        for more in 1..1000 {
            heard.had(5 + more, second(3 + more));
            heard.had(5 + more, second(3 + more) + Duration::from_millis(1));
        }
        assert_eq!(heard.notes.len(), NOTES_MAX);
        assert_eq!(heard.complete_at(1000), second(998) + Duration::from_millis(1));
        assert_eq!(heard.complete_at(5), start, "forgotten");
        let count = heard.notes.len();
        for millis in 0..100 {
            heard.had(2000 + millis, second(2000) + Duration::from_millis(millis));
        }
        assert!(heard.notes.len() <= count + 1, "a busy second is one note or two");
    }
}
