//! `liveness`: within a bounded time after the faults stop, a leader is elected, every replica and mirror has caught up, and lookups,
//! publishes and reads succeed through every agent.

use std::collections::BTreeSet;

use foreword_meta::replica::group::Leader;
use foreword_proto::Revision;

use super::{Invariant, View, Violation, ensure};
use crate::history::{Call, Outcome, PutResult, Record};
use crate::world::context::SimTime;

const NAME: &str = "liveness";

/// What a client succeeded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Publish,
    Lookup,
    Get,
}

/// Waits for each thing that must work again; what was reached once is reached.
#[derive(Debug, Default)]
pub struct Liveness {
    healed: Option<SimTime>,
    /// What the group had when the faults stopped.
    target: Revision,
    seen: usize,
    worked: BTreeSet<(u32, Work)>,
    caught_up: bool,
    reached: Option<SimTime>,
}

/// The work that a call did, if it succeeded: an answer that only gives up is none.
fn work_of(record: &Record) -> Option<Work> {
    match (&record.call, &record.result) {
        (Call::Publish { .. }, Outcome::Published { outcomes }) => {
            let there = |put: &crate::history::PagePut| matches!(put.outcome, PutResult::Published | PutResult::Exists);
            outcomes.iter().any(there).then_some(Work::Publish)
        }
        (Call::Lookup { .. }, Outcome::Found { .. }) => Some(Work::Lookup),
        (Call::Get { .. }, Outcome::Got { pages }) => pages.iter().any(|page| page.hit).then_some(Work::Get),
        _ => None,
    }
}

impl Liveness {
    /// When everything worked again, once it did.
    pub fn reached(&self) -> Option<SimTime> {
        self.reached
    }

    fn heal(&mut self, healed: Option<SimTime>, revision: Revision) {
        if healed != self.healed {
            *self = Self { healed, target: revision, seen: self.seen, ..Self::default() };
        }
    }

    fn follow(&mut self, records: &[Record]) {
        for record in &records[self.seen.min(records.len())..] {
            let after = self.healed.is_some_and(|healed| record.invoked >= healed);
            if let (true, Some(agent), Some(work)) = (after, record.agent, work_of(record)) {
                self.worked.insert((agent, work));
            }
        }
        self.seen = records.len();
    }

    /// Work that no client succeeded with yet.
    fn missing_work(&self, agents: &BTreeSet<u32>) -> Vec<(u32, Work)> {
        let all = agents.iter().flat_map(|agent| [Work::Publish, Work::Lookup, Work::Get].map(|work| (*agent, work)));
        all.filter(|work| !self.worked.contains(work)).collect()
    }

    fn judge(&mut self, missing: &[String], now: SimTime, bound: std::time::Duration) -> Result<(), Violation> {
        let Some(healed) = self.healed else { return Ok(()) };
        if self.reached.is_some() {
            return Ok(());
        }
        if missing.is_empty() {
            self.reached = Some(now);
            return Ok(());
        }
        ensure(NAME, now < healed + bound, || {
            format!("faults stopped at {healed}, at {now} still: {}", missing.join("; "))
        })
    }
}

/// What of the group and the mirrors is not as it should be.
fn not_caught_up(view: &View<'_>, target: Revision) -> Vec<String> {
    let mut missing = Vec::new();
    let mut leaders = BTreeSet::new();
    for member in &view.settings.members {
        let Some(replica) = view.replicas.iter().find(|replica| replica.id == *member) else {
            missing.push(format!("replica {member} is down"));
            continue;
        };
        leaders.insert(match replica.group.leader() {
            Leader::Here => Some(replica.id),
            Leader::There(peer) => Some(peer.address.replica_id),
            Leader::Unknown => None,
        });
        let applied = replica.group.applied.revision();
        if applied < target || !replica.ready || !replica.may_vote {
            let (ready, may_vote) = (replica.ready, replica.may_vote);
            missing.push(format!("replica {member} is at {applied} of {target}, ready={ready}, may_vote={may_vote}"));
        }
    }
    if leaders.len() != 1 || leaders.contains(&None) {
        missing.push(format!("the replicas follow {leaders:?}"));
    }
    for number in &view.settings.agents {
        let Some(agent) = view.agents.iter().find(|agent| agent.number == *number) else {
            missing.push(format!("agent {number} is down"));
            continue;
        };
        if !agent.api.is_ready() || agent.api.session().is_none() {
            missing.push(format!("agent {number} has no session, or is not ready"));
        }
        agent.api.visit_mirrors(|namespace, mirror| {
            if !mirror.synced() || mirror.revision() < target {
                missing.push(format!("agent {number}, namespace {namespace}: at {} of {target}", mirror.revision()));
            }
        });
    }
    missing
}

impl Invariant for Liveness {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        u64::from(self.reached.is_some())
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.heal(view.healed_since, view.oracle.revision());
        self.follow(&view.history.records);
        if self.healed.is_none() || self.reached.is_some() {
            return Ok(());
        }
        let mut missing = if self.caught_up { Vec::new() } else { not_caught_up(view, self.target) };
        self.caught_up = missing.is_empty();
        missing.extend(
            self.missing_work(&view.settings.agents).iter().map(|work| format!("nobody succeeded with {work:?}")),
        );
        self.judge(&missing, view.now, view.settings.liveness_bound)
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::invariants::testing::{got, looked_up, published};

    const BOUND: Duration = Duration::from_secs(10);

    #[test]
    fn work_counts_when_it_succeeded_after_the_heal() {
        let mut check = Liveness::default();
        check.heal(Some(SimTime::from_millis(100)), 7);
        let mut lookup = looked_up(&[1], 1, &[false], false, (100, 101));
        lookup.agent = Some(1);
        let mut miss = got(1, vec![(1, Ok(vec![1]))]);
        miss.invoked = SimTime::from_millis(100);
        if let Outcome::Got { pages } = &mut miss.result {
            pages[0].hit = false;
        }
        check.follow(&[
            published(1, 3, PutResult::Published, (99, 200)),
            published(1, 3, PutResult::Refused("fenced".into()), (100, 200)),
            lookup,
            miss,
        ]);
        let agents = BTreeSet::from([1, 2]);
        let missing = check.missing_work(&agents);
        assert_eq!(missing.len(), 5, "{missing:?}");
        assert!(!missing.contains(&(1, Work::Lookup)));
        check.heal(Some(SimTime::from_millis(100)), 9);
        assert_eq!(check.target, 7);
        check.heal(None, 9);
        check.heal(Some(SimTime::from_millis(300)), 9);
        assert_eq!((check.missing_work(&agents).len(), check.target), (6, 9), "faults began again");
    }

    #[test]
    fn what_is_late_is_found_and_what_was_in_time_stays() {
        let at = |s| SimTime::default() + Duration::from_secs(s);
        let missing = ["a leader".to_owned()];
        let mut check = Liveness::default();
        assert_eq!(check.judge(&missing, at(100), BOUND), Ok(()), "faults go on");
        check.heal(Some(at(5)), 0);
        assert_eq!(check.judge(&missing, at(14), BOUND), Ok(()));
        assert_eq!(check.judge(&missing, at(15), BOUND).unwrap_err().name, NAME);
        assert_eq!(check.judge(&[], at(14), BOUND), Ok(()));
        assert_eq!(check.judge(&missing, at(20), BOUND), Ok(()));
        assert_eq!(check.reached(), Some(at(14)));
    }
}
