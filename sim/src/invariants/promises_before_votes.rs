//! `promises-before-votes`: nothing counts as committed, or as matched, that was not on as many disks before; and a
//! replica that lost acknowledged entries is no candidate.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::Revision;
use openraft::ServerState;

use super::{Directory, DiskView, Invariant, View, Violation, ensure};

const NAME: &str = "promises-before-votes";

/// Remembers how far each disk ever was: what is lost later was there when it was promised.
#[derive(Debug, Default)]
pub struct PromisesBeforeVotes {
    durable: BTreeMap<u64, u64>,
    /// The same of each directory.
    held: BTreeMap<(u64, Directory), u64>,
    /// Of each replica's directory, the last committed entry that some leader counted as matched on it.
    promised: BTreeMap<(u64, Directory), u64>,
    committed: Revision,
}

impl PromisesBeforeVotes {
    fn disks(&mut self, disks: &[DiskView]) {
        for disk in disks {
            let Some(last) = disk.durable_last else { continue };
            let ever = self.durable.entry(disk.replica).or_default();
            *ever = last.max(*ever);
            let held = self.held.entry((disk.replica, disk.directory)).or_default();
            *held = last.max(*held);
        }
    }

    /// A leader counts this as matched. What it still counts of a directory that is lost, the next one has not
    /// promised.
    fn promises(&mut self, whose: (u64, Directory), matched: u64) {
        if self.held.get(&whose).is_some_and(|held| *held >= matched) {
            let promised = self.promised.entry(whose).or_default();
            *promised = matched.max(*promised);
        }
    }

    fn is_on_majorities(&self, entry: Revision, configs: &[BTreeSet<u64>]) -> bool {
        let has_it = |member: &&u64| self.durable.get(member).is_some_and(|last| *last >= entry);
        configs.iter().all(|members| members.iter().filter(has_it).count() > members.len() / 2)
    }

    /// `committed` is on a majority of the disks of each of these member sets: two while the membership changes.
    fn is_durable(&mut self, committed: Revision, configs: &[BTreeSet<u64>]) -> Result<(), Violation> {
        if committed <= self.committed {
            return Ok(());
        }
        self.committed = committed;
        ensure(NAME, self.is_on_majorities(committed, configs), || {
            format!("entry {committed} is committed by {configs:?}, and the disks were at {:?}", self.durable)
        })
    }

    /// What a leader counts as matched on a replica is on that replica's disk.
    fn is_matched(&self, leader: u64, replica: u64, matched: u64) -> Result<(), Violation> {
        let durable = self.durable.get(&replica).copied();
        ensure(NAME, durable.unwrap_or(0) >= matched, || {
            format!("replica {replica} acknowledged entry {matched} to {leader}, its disk was at {durable:?} at most")
        })
    }

    /// A committed entry is never taken back: a replica that acknowledged it has it, or knows that it lost it and does
    /// not vote.
    fn keeps_its_promise(
        &self,
        (replica, directory): (u64, Directory),
        may_vote: bool,
        durable_last: Option<u64>,
    ) -> Result<(), Violation> {
        let promised = self.promised.get(&(replica, directory)).copied().unwrap_or(0);
        ensure(NAME, !may_vote || durable_last.unwrap_or(0) >= promised, || {
            format!("replica {replica} votes and acknowledged entry {promised}, its disk ends at {durable_last:?}")
        })
    }
}

impl Invariant for PromisesBeforeVotes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.committed
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        if view.disks.is_empty() {
            return Ok(());
        }
        self.disks(&view.disks);
        let committed = view.oracle.revision();
        // A membership counts from when the leader appends it; nobody need have applied it.
        let by_appended = committed > self.committed
            && view.replicas.iter().any(|replica| {
                let metrics = replica.group.raft.metrics().borrow().clone();
                self.is_on_majorities(committed, metrics.membership_config.membership().get_joint_config())
            });
        if by_appended {
            self.committed = committed;
        }
        self.is_durable(committed, &view.settings.configs)?;
        for replica in &view.replicas {
            let metrics = replica.group.raft.metrics().borrow().clone();
            let stands = matches!(metrics.state, ServerState::Candidate | ServerState::Leader);
            ensure(NAME, replica.may_vote || !stands, || {
                format!(
                    "replica {} lost acknowledged entries and is {:?} of term {}",
                    replica.id, metrics.state, metrics.current_term
                )
            })?;
            for (member, matched) in metrics.replication.iter().flatten() {
                // The leader's own entry stands in the list as soon as it is appended.
                if let Some(matched) = matched.filter(|_| *member != replica.id) {
                    self.is_matched(replica.id, *member, matched.index)?;
                    // A leader that others have replaced matches entries that were never committed.
                    let disk = view.disks.iter().find(|disk| disk.replica == *member);
                    if let Some(disk) = disk.filter(|_| view.oracle.log_id_at(matched.index) == Some(matched)) {
                        self.promises((*member, disk.directory), matched.index);
                    }
                }
            }
            let disk = view.disks.iter().find(|disk| disk.replica == replica.id);
            let whose = (replica.id, replica.directory);
            self.keeps_its_promise(whose, replica.may_vote, disk.and_then(|disk| disk.durable_last))?;
        }
        Ok(())
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::disk;

    #[test]
    fn what_is_committed_was_on_a_majority_of_disks() {
        let mut check = PromisesBeforeVotes::default();
        check.disks(&[disk(1, Some(5)), disk(2, Some(3)), disk(3, None)]);
        assert_eq!(check.is_durable(3, &[BTreeSet::from([1, 2, 3])]), Ok(()));
        assert_eq!(check.is_durable(4, &[BTreeSet::from([1, 2, 3])]).unwrap_err().name, NAME);
        check.disks(&[disk(1, Some(9)), disk(2, Some(9)), disk(3, None)]);
        check.disks(&[disk(1, Some(9)), disk(2, None), disk(3, Some(8))]);
        assert_eq!(check.is_durable(9, &[BTreeSet::from([1, 2, 3])]), Ok(()), "it was there when it was committed");
        assert!(check.is_durable(10, &[BTreeSet::from([1, 2, 3])]).is_err());
        assert!(check.is_matched(1, 3, 8).is_ok() && check.is_matched(1, 3, 9).is_err());
        assert!(check.is_matched(1, 4, 1).is_err() && check.is_matched(1, 4, 0).is_ok());
    }

    #[test]
    fn who_lost_what_it_acknowledged_does_not_vote() {
        let mut check = PromisesBeforeVotes::default();
        check.disks(&[disk(1, Some(5))]);
        let own = disk(1, None).directory;
        check.promises((1, own), 5);
        check.promises((1, (9, 9)), 5);
        assert_eq!(check.keeps_its_promise((1, own), true, Some(5)), Ok(()));
        assert_eq!(check.keeps_its_promise((1, own), true, Some(4)).unwrap_err().name, NAME);
        assert!(check.keeps_its_promise((1, own), true, None).is_err());
        assert_eq!(check.keeps_its_promise((1, own), false, None), Ok(()));
        assert_eq!(check.keeps_its_promise((1, (9, 9)), true, None), Ok(()), "another directory promised nothing");
        assert_eq!(check.keeps_its_promise((2, (2, 1)), true, None), Ok(()), "it promised nothing");
    }
}
