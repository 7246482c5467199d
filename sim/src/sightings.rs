//! What became of leaders that were cut off with entries under way: so that a swarm shows that it saw them come back.

use std::collections::BTreeMap;

use openraft::ServerState;

use crate::invariants::ReplicaView;

/// What is remembered of one process.
#[derive(Debug, Default)]
struct Seen {
    incarnation: u64,
    applied: u64,
    /// The end of its log when it led last, with entries that were not committed.
    left: Option<u64>,
    /// A snapshot has replaced those entries.
    back: bool,
}

/// Counts how leaders came back.
#[derive(Debug, Default)]
pub struct Sightings {
    seen: BTreeMap<u64, Seen>,
    back_by_snapshot: u64,
    leading_again: u64,
}

impl Sightings {
    /// Looks between two quanta.
    pub fn look(&mut self, replicas: &[ReplicaView]) {
        for replica in replicas {
            let metrics = replica.group.raft.metrics().borrow().clone();
            let (log_end, snapshot) = (metrics.last_log_index.unwrap_or(0), metrics.snapshot.map_or(0, |id| id.index));
            let applied = metrics.last_applied.map_or(0, |id| id.index);
            self.note(
                replica.id,
                replica.incarnation,
                metrics.state == ServerState::Leader,
                [log_end, snapshot, applied],
            );
        }
    }

    fn note(&mut self, id: u64, incarnation: u64, leads: bool, [log_end, snapshot, applied]: [u64; 3]) {
        let seen = self.seen.entry(id).or_default();
        if seen.incarnation != incarnation {
            *seen = Seen { incarnation, ..Seen::default() };
        }
        if leads {
            self.leading_again += u64::from(std::mem::take(&mut seen.back));
            seen.left = (log_end > applied).then_some(log_end);
        } else if let Some(left) = seen.left
            && seen.applied < left
            && snapshot > left
            && applied >= snapshot
        {
            self.back_by_snapshot += 1;
            (seen.left, seen.back) = (None, true);
        }
        seen.applied = applied;
    }

    /// How often, by name: the simulator's own markers.
    pub fn effects(&self) -> [(&'static str, u64); 2] {
        [("leader-back-by-snapshot", self.back_by_snapshot), ("leader-back-leads-again", self.leading_again)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_comes_back_by_a_snapshot_over_what_it_left_and_leads_again() {
        let counts = |sightings: &Sightings| sightings.effects().map(|(_, count)| count);
        let mut sightings = Sightings::default();
        sightings.note(1, 1, true, [10, 0, 8]);
        sightings.note(1, 1, false, [10, 0, 8]);
        assert_eq!(counts(&sightings), [0, 0]);
        sightings.note(1, 1, false, [40, 40, 40]);
        assert_eq!(counts(&sightings), [1, 0]);
        sightings.note(1, 1, true, [41, 40, 41]);
        assert_eq!(counts(&sightings), [1, 1]);
        for (process, log_end) in [(2, 12), (2, 12)] {
            sightings.note(2, process, true, [log_end, 0, 12]);
        }
        sightings.note(2, 2, false, [40, 40, 40]);
        assert_eq!(counts(&sightings), [1, 1], "it left nothing behind");
        sightings.note(3, 1, true, [10, 0, 8]);
        sightings.note(3, 2, false, [40, 40, 40]);
        assert_eq!(counts(&sightings), [1, 1], "another process has nothing under way");
    }
}
