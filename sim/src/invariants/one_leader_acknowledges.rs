//! `one-leader-acknowledges`: what a leader acknowledges is on a majority of the proven voters, and one that could hear
//! no quorum for an election timeout gives no lease and no linearizable read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foreword_meta::consensus::types::LogId;
use openraft::ServerState;

use super::{Directory, DiskView, Invariant, ReplicaView, View, Violation, ensure};
use crate::history::{Call, Outcome, Record, Target};
use crate::world::context::SimTime;

const NAME: &str = "one-leader-acknowledges";
/// The longest election timeout (600 ms), on a clock that is 2% slow, and a moment for the call and between two looks.
const QUORUM_HEARD_BOUND: Duration = Duration::from_millis(700);

/// The sets of voters that must each agree.
type Configs = Vec<BTreeSet<u64>>;

/// What is known of a leader.
#[derive(Debug, Clone, Default)]
struct Led {
    term: u64,
    /// The last entry that it acknowledged.
    acknowledged: Option<LogId>,
    /// The membership that it goes by, and the one before.
    configs: [Configs; 2],
}

/// Remembers who led, and what each could hear.
#[derive(Debug, Default)]
pub struct OneLeaderAcknowledges {
    /// Who leads, as it believes itself.
    leaders: BTreeMap<u64, Led>,
    /// The directory by which each voter was one first.
    proven: BTreeMap<u64, Directory>,
    /// The last entry that each directory ever held, with all that its leader had logged before it. What a disk loses
    /// later was there when it was acknowledged, though its leader may hear of that, or be done with its own flush,
    /// only now.
    held: BTreeMap<(u64, Directory), LogId>,
    /// When each replica could have heard a quorum last.
    heard: BTreeMap<u64, SimTime>,
    records_seen: usize,
    compared: u64,
}

/// True if so many of each set are among these.
fn are_majorities(configs: &[BTreeSet<u64>], these: impl Fn(&u64) -> bool) -> bool {
    configs.iter().all(|voters| voters.iter().filter(|voter| these(voter)).count() > voters.len() / 2)
}

impl OneLeaderAcknowledges {
    fn prove(&mut self, voters: &BTreeSet<u64>, disks: &[DiskView]) {
        for disk in disks.iter().filter(|disk| voters.contains(&disk.replica)) {
            self.proven.entry(disk.replica).or_insert(disk.directory);
        }
    }

    fn note(&mut self, disks: &[DiskView]) {
        for disk in disks {
            let Some(last) = disk.last_entry() else { continue };
            let ever = self.held.entry((disk.replica, disk.directory)).or_insert(last);
            *ever = last.max(*ever);
        }
    }

    fn held_once(&self, replica: u64, directory: Directory, entry: LogId) -> bool {
        let last = self.held.get(&(replica, directory));
        last.is_some_and(|last| last.leader_id == entry.leader_id && last.index >= entry.index)
    }

    /// An entry that was acknowledged is, or was, on a majority of one of these memberships.
    fn is_held(&self, leader: u64, entry: LogId, configs: &[Configs], disks: &[DiskView]) -> Result<(), Violation> {
        let holds = |voter: &u64| {
            let Some(proven) = self.proven.get(voter) else { return false };
            let own = |disk: &&DiskView| disk.replica == *voter && disk.directory == *proven;
            disks.iter().find(own).is_some_and(|disk| disk.holds(entry)) || self.held_once(*voter, *proven, entry)
        };
        let enough = configs.iter().any(|configs| !configs.is_empty() && are_majorities(configs, holds));
        ensure(NAME, enough, || {
            let holders: Vec<u64> = disks.iter().filter(|disk| disk.holds(entry)).map(|disk| disk.replica).collect();
            format!("replica {leader} acknowledged {entry} for {:?}, and {holders:?} have it", configs[0])
        })
    }

    fn follow(&mut self, replica: &ReplicaView, disks: &[DiskView]) -> Result<(), Violation> {
        let metrics = replica.group.raft.metrics().borrow().clone();
        if metrics.state != ServerState::Leader {
            self.leaders.remove(&replica.id);
            return Ok(());
        }
        let membership = metrics.membership_config.membership();
        self.prove(&membership.voter_ids().collect(), disks);
        let mut led =
            self.leaders.remove(&replica.id).filter(|led| led.term == metrics.current_term).unwrap_or_default();
        led.term = metrics.current_term;
        if led.configs[0] != *membership.get_joint_config() {
            led.configs = [membership.get_joint_config().clone(), std::mem::take(&mut led.configs[0])];
        }
        let mut held = Ok(());
        // What was applied of earlier terms was acknowledged by whoever led then; some of it is proven by an entry of
        // this one.
        let own = |entry: &LogId| entry.leader_id.term == metrics.current_term && Some(*entry) != led.acknowledged;
        if let Some(entry) = metrics.last_applied.filter(own) {
            self.compared += 1;
            led.acknowledged = Some(entry);
            held = self.is_held(replica.id, entry, &led.configs, disks);
        }
        self.leaders.insert(replica.id, led);
        held
    }

    fn hear(&mut self, earshot: &BTreeMap<u64, BTreeSet<u64>>, now: SimTime) {
        for (leader, led) in &self.leaders {
            let heard =
                earshot.get(leader).is_some_and(|those| are_majorities(&led.configs[0], |id| those.contains(id)));
            let last = self.heard.entry(*leader).or_insert(now);
            if heard {
                *last = now;
            }
        }
        self.heard.retain(|replica, _| self.leaders.contains_key(replica));
    }

    /// `led_before`: the terms of the leaders when it was looked before; an answer of one that led all the while is its
    /// own.
    fn answered(&self, record: &Record, led_before: &BTreeMap<u64, u64>) -> Result<(), Violation> {
        let replica = match (&record.call, &record.result) {
            (Call::Renew { at: Target::Replica(id) }, Outcome::Renewed) => *id,
            (Call::Lookup { at: Target::Replica(id), linearizable: true, .. }, Outcome::Found { .. }) => *id,
            _ => return Ok(()),
        };
        let term = self.leaders.get(&replica).map(|led| led.term);
        let Some(heard) = self.heard.get(&replica).filter(|_| term == led_before.get(&replica).copied()) else {
            return Ok(());
        };
        ensure(NAME, record.invoked <= *heard + QUORUM_HEARD_BOUND, || {
            format!(
                "replica {replica} answered {} of {}, and could hear no quorum since {heard}",
                record.call, record.invoked
            )
        })
    }
}

impl Invariant for OneLeaderAcknowledges {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.compared
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        let led_before = self.leaders.iter().map(|(id, led)| (*id, led.term)).collect();
        self.note(&view.disks);
        self.leaders.retain(|id, _| view.replicas.iter().any(|replica| replica.id == *id));
        for replica in &view.replicas {
            self.follow(replica, &view.disks)?;
        }
        self.hear(&view.earshot, view.now);
        for record in &view.history.records[self.records_seen.min(view.history.records.len())..] {
            self.answered(record, &led_before)?;
        }
        self.records_seen = view.history.records.len();
        Ok(())
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::invariants::testing::{disk, record};

    fn entry(index: u64) -> LogId {
        LogId { leader_id: CommittedLeaderId::new(1, 1), index }
    }

    #[test]
    fn what_is_acknowledged_is_on_a_majority_of_proven_voters() {
        let mut check = OneLeaderAcknowledges::default();
        let voters = BTreeSet::from([1, 2, 3]);
        let now = [vec![voters.clone()]];
        let covering = |replica, covered| DiskView { covered, ..disk(replica, covered) };
        let disks = [covering(1, Some(5)), covering(2, Some(4)), covering(3, None)];
        check.prove(&voters, &disks);
        assert_eq!(check.is_held(1, entry(4), &now, &disks), Ok(()));
        assert_eq!(check.is_held(1, entry(5), &now, &disks).unwrap_err().name, NAME);
        let grown = [vec![BTreeSet::from([1, 4])], vec![BTreeSet::from([1])]];
        assert_eq!(check.is_held(1, entry(5), &grown, &disks), Ok(()), "by the membership before");
        assert!(check.is_held(1, entry(5), &grown[..1], &disks).is_err());
        let other = [covering(1, Some(5)), DiskView { directory: (2, 2), ..covering(2, Some(9)) }];
        assert!(check.is_held(1, entry(5), &now, &other).is_err(), "another directory is not the voter's");
        let of_term_2 = LogId { leader_id: CommittedLeaderId::new(2, 1), index: 9 };
        check.held.insert((3, disk(3, None).directory), of_term_2);
        assert!(check.is_held(1, entry(5), &now, &disks).is_err(), "it held what another leader logged");
        check.held.insert((3, disk(3, None).directory), entry(6));
        assert_eq!(check.is_held(1, entry(5), &now, &disks), Ok(()), "it was there before it was lost");
    }

    #[test]
    fn a_leader_that_hears_nobody_gives_no_lease_after_an_election_timeout() {
        let at = SimTime::from_millis;
        let led = Led { term: 3, configs: [vec![BTreeSet::from([1, 2, 3])], Vec::new()], ..Led::default() };
        let mut check = OneLeaderAcknowledges { leaders: BTreeMap::from([(1, led)]), ..Default::default() };
        let (all, alone) = (BTreeMap::from([(1, BTreeSet::from([1, 2]))]), BTreeMap::from([(1, BTreeSet::from([1]))]));
        check.hear(&all, at(1_000));
        check.hear(&alone, at(1_500));
        let led_before = BTreeMap::from([(1, 3)]);
        let renewed = |replica, invoked| {
            record(9, (invoked, invoked + 5), Call::Renew { at: Target::Replica(replica) }, Outcome::Renewed)
        };
        assert_eq!(check.answered(&renewed(1, 1_600), &led_before), Ok(()));
        assert_eq!(check.answered(&renewed(1, 1_701), &led_before).unwrap_err().name, NAME);
        assert_eq!(check.answered(&renewed(2, 1_701), &led_before), Ok(()), "it asked another");
        assert_eq!(check.answered(&renewed(1, 1_701), &BTreeMap::new()), Ok(()), "another may have led");
        check.hear(&all, at(1_710));
        assert_eq!(check.answered(&renewed(1, 1_711), &led_before), Ok(()));
    }
}
