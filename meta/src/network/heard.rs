//! What this replica, as a leader, has lately heard of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// When the last append that each peer acknowledged was *sent*, in the newest term in which one was: nobody else was
/// elected in less than an election timeout after that.
#[derive(Debug, Default)]
pub struct Heard {
    newest: Mutex<Newest>,
}

#[derive(Debug, Default)]
struct Newest {
    term: u64,
    sent: BTreeMap<u64, Instant>,
}

impl Heard {
    /// A peer took an append of this replica as its leader's in `term`.
    pub(super) fn acknowledged(&self, peer: u64, term: u64, sent: Instant) {
        let mut newest = self.newest.lock();
        if term < newest.term {
            return;
        }
        if term > newest.term {
            *newest = Newest { term, sent: BTreeMap::new() };
        }
        let last = newest.sent.entry(peer).or_insert(sent);
        *last = (*last).max(sent);
    }

    /// Whether this peer acknowledged, in the newest term in which one did, what was sent within this time.
    pub fn peer_within(&self, peer: u64, within: Duration) -> bool {
        self.newest.lock().sent.get(&peer).is_some_and(|sent| sent.elapsed() <= within)
    }

    /// Whether a majority of each of these sets of voters, `own` always among those heard, acknowledged in `term` what
    /// was sent within this time.
    pub fn quorum_within(&self, own: u64, term: u64, voters: &[BTreeSet<u64>], within: Duration) -> bool {
        let newest = self.newest.lock();
        let lately = |sent: &Instant| newest.term == term && sent.elapsed() <= within;
        let heard = |id: &u64| *id == own || newest.sent.get(id).is_some_and(lately);
        voters.iter().all(|voters| voters.iter().filter(|id| heard(id)).count() > voters.len() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(600);

    #[tokio::test(start_paused = true)]
    async fn a_quorum_counts_for_a_while_and_in_its_term_only() {
        let (heard, voters) = (Heard::default(), [BTreeSet::from([1, 2, 3])]);
        assert!(!heard.quorum_within(1, 5, &voters, WITHIN));
        heard.acknowledged(2, 5, Instant::now());
        assert!(heard.quorum_within(1, 5, &voters, WITHIN));
        assert!(!heard.quorum_within(1, 6, &voters, WITHIN), "of another term");
        tokio::time::advance(WITHIN + Duration::from_millis(1)).await;
        assert!(!heard.quorum_within(1, 5, &voters, WITHIN));
        heard.acknowledged(3, 6, Instant::now());
        heard.acknowledged(2, 5, Instant::now());
        assert!(heard.quorum_within(1, 6, &voters, WITHIN));
        assert!(!heard.quorum_within(1, 5, &voters, WITHIN), "what came late of an earlier term counts for none");
    }

    #[tokio::test(start_paused = true)]
    async fn every_set_of_voters_needs_its_majority() {
        let heard = Heard::default();
        heard.acknowledged(2, 1, Instant::now());
        assert!(!heard.quorum_within(1, 1, &[BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 3, 4])], WITHIN));
        assert!(heard.quorum_within(1, 1, &[BTreeSet::from([1])], Duration::ZERO), "a group of one hears itself");
        assert!(!heard.quorum_within(1, 1, &[BTreeSet::from([2, 3])], WITHIN), "one that leaves does not count");
    }
}
