//! `no-voter-unproven`: a replica is a voter only with a directory that held what was committed when it was asked to be
//! one; that directory is its own for ever, and another one under its id neither votes nor leads.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::Revision;
use openraft::ServerState;

use super::{Directory, DiskView, Invariant, ReplicaView, View, Violation, ensure};
use crate::world::context::SimTime;

const NAME: &str = "no-voter-unproven";

/// Remembers who was asked to be a member when, and by which directory each voter became one.
#[derive(Debug, Default)]
pub struct NoVoterUnproven {
    committed: Revision,
    /// What was committed when an id was asked to be a member first.
    asked: BTreeMap<u64, Revision>,
    /// How far each directory ever was.
    held: BTreeMap<(u64, Directory), Option<u64>>,
    proven: BTreeMap<u64, Directory>,
    compared: u64,
}

impl NoVoterUnproven {
    fn note(&mut self, disks: &[DiskView], asked: &BTreeMap<u64, SimTime>, committed: Revision) {
        for disk in disks {
            let held = self.held.entry((disk.replica, disk.directory)).or_default();
            *held = disk.durable_last.max(*held);
        }
        for id in asked.keys() {
            // At least so much was committed: it is what was seen before the question.
            self.asked.entry(*id).or_insert(self.committed);
        }
        self.committed = committed;
    }

    /// Every voter is some directory's that held what it had to.
    fn are_proven(&mut self, voters: &BTreeSet<u64>) -> Result<(), Violation> {
        for voter in voters {
            if self.proven.contains_key(voter) {
                continue;
            }
            let needed = self.asked.get(voter).copied();
            let mine = || self.held.range((*voter, (0, 0))..=(*voter, (u32::MAX, u32::MAX)));
            let proof = mine().rev().find(|(_, held)| **held >= needed).map(|((_, directory), _)| *directory);
            ensure(NAME, proof.is_some(), || {
                let held: Vec<_> = mine().map(|((_, directory), held)| (directory, held)).collect();
                format!("{voter} is a voter of {voters:?} and should hold entry {needed:?}; its directories: {held:?}")
            })?;
            self.compared += 1;
            self.proven.extend(proof.map(|directory| (*voter, directory)));
        }
        Ok(())
    }

    /// A directory that is not its voter's promises nothing and leads nobody.
    fn is_no_impostor(&self, id: u64, directory: Directory, term: u64, state: ServerState) -> Result<(), Violation> {
        let Some(proven) = self.proven.get(&id).filter(|proven| **proven != directory) else { return Ok(()) };
        let stands = matches!(state, ServerState::Candidate | ServerState::Leader);
        ensure(NAME, term == 0 && !stands, || {
            format!("directory {directory:?} is {state:?} of term {term} as {id}, whose directory is {proven:?}")
        })
    }

    fn look(&mut self, replica: &ReplicaView) -> Result<(), Violation> {
        let metrics = replica.group.raft.metrics().borrow().clone();
        self.is_no_impostor(replica.id, replica.directory, metrics.vote.leader_id.term, metrics.state)?;
        // What an impostor was initialised with says nothing about the group.
        if self.proven.get(&replica.id).is_some_and(|proven| *proven != replica.directory) {
            return Ok(());
        }
        self.are_proven(&metrics.membership_config.membership().voter_ids().collect())
    }
}

impl Invariant for NoVoterUnproven {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.compared
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.note(&view.disks, &view.orders.asked, view.oracle.revision());
        view.replicas.iter().chain(&view.strays).try_for_each(|replica| self.look(replica))
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
    fn a_voter_held_what_was_committed_when_it_was_asked_for() {
        let mut check = NoVoterUnproven::default();
        let voters = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        check.note(&[disk(1, None), disk(2, None)], &BTreeMap::new(), 0);
        assert_eq!(check.are_proven(&voters(&[1, 2])), Ok(()), "the first members prove nothing");
        assert_eq!(check.are_proven(&voters(&[1, 9])).unwrap_err().name, NAME, "nobody is 9");
        check.note(&[disk(1, Some(7)), disk(2, Some(7))], &BTreeMap::new(), 7);
        let asked = BTreeMap::from([(3, SimTime::default())]);
        check.note(&[disk(1, Some(8)), disk(3, Some(6))], &asked, 8);
        assert!(check.are_proven(&voters(&[1, 2, 3])).is_err(), "entry 7 was committed when it was asked for");
        check.note(&[disk(3, Some(7))], &asked, 9);
        assert_eq!(check.are_proven(&voters(&[1, 2, 3])), Ok(()));
        assert_eq!(check.compared, 3);
    }

    #[test]
    fn another_directory_of_a_voter_neither_votes_nor_leads() {
        let mut check = NoVoterUnproven::default();
        check.note(&[disk(1, Some(1))], &BTreeMap::new(), 1);
        check.are_proven(&BTreeSet::from([1])).unwrap();
        let (own, other) = (disk(1, None).directory, (7, 1));
        assert_eq!(check.is_no_impostor(1, own, 5, ServerState::Leader), Ok(()));
        assert_eq!(check.is_no_impostor(1, other, 0, ServerState::Learner), Ok(()));
        assert_eq!(check.is_no_impostor(1, other, 5, ServerState::Follower).unwrap_err().name, NAME);
        assert!(check.is_no_impostor(1, other, 0, ServerState::Candidate).is_err());
        assert_eq!(check.is_no_impostor(2, other, 5, ServerState::Follower), Ok(()), "2 is no voter");
    }
}
