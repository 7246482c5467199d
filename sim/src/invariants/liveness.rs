//! `liveness`: within a bounded time after the faults stop, a leader is elected, every replica and mirror has caught
//! up, and lookups, publishes and reads succeed through every agent. While two agents of one name fight, or after more
//! was asked than the group takes, and nothing else is wrong, the other agents publish.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foreword_meta::replica::group::Leader;
use foreword_proto::Revision;

use super::{Invariant, View, Violation, ensure};
use crate::cluster::Trial;
use crate::history::{Call, History, Outcome, PagePut, PutResult, Record};
use crate::workload::CALL_DEADLINE;
use crate::world::context::SimTime;

const NAME: &str = "liveness";
/// In any so long part of a trial in which an agent tried to publish, it succeeded once.
const TRIAL_BOUND: Duration = Duration::from_secs(5);
/// Puts that failed, and none that did not, before that says anything.
const FAILURES_MIN: u64 = 5;

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
    bystanders: Bystanders,
}

/// Agents whose names are their own, while the group has something to bear.
#[derive(Debug, Default)]
struct Bystanders {
    trial: Option<Trial>,
    seen: usize,
    /// Of each: since when no publish succeeded, and how many failed.
    failed: BTreeMap<u32, (SimTime, u64)>,
}

/// A put whose publish was waited for: it succeeded, or it failed.
fn tells_of_publishing(record: &Record) -> bool {
    let went_on = |put: &PagePut| put.outcome == PutResult::Taken;
    let taken = matches!(&record.result, Outcome::Published { outcomes } if outcomes.iter().any(went_on));
    matches!(record.call, Call::Publish { .. }) && !taken
}

impl Bystanders {
    fn follow(&mut self, history: &History, trial: Option<Trial>, agents: &BTreeSet<u32>) {
        if self.trial != trial {
            let failed = agents.iter().filter(|agent| trial.is_some_and(|trial| trial.twin_of != Some(**agent)));
            let since = trial.map_or(SimTime::default(), |trial| trial.since);
            let failed = failed.map(|agent| (*agent, (since, 0))).collect();
            *self = Self { trial, seen: self.seen, failed };
        }
        let new = &history.records[self.seen.min(history.records.len())..];
        self.seen = history.records.len();
        for record in new.iter().filter(|record| tells_of_publishing(record)) {
            let tried = record.agent.and_then(|agent| self.failed.get_mut(&agent));
            let (Some((since, failures)), Some(returned)) = (tried, record.returned) else { continue };
            if work_of(record).is_some() {
                (*since, *failures) = (returned.max(*since), 0);
            } else {
                *failures += u64::from(record.invoked >= *since);
            }
        }
    }

    /// Puts that were given up, or never answered, have failed too.
    fn judge(&self, history: &History, now: SimTime) -> Result<(), Violation> {
        for (agent, (since, refused)) in &self.failed {
            if now < *since + TRIAL_BOUND {
                continue;
            }
            let given_up = |record: &&Record| {
                let put = record.agent == Some(*agent) && tells_of_publishing(record);
                put && record.invoked >= *since && record.invoked + CALL_DEADLINE < now
            };
            let failures = *refused + history.unanswered().filter(given_up).count() as u64;
            ensure(NAME, failures < FAILURES_MIN, || {
                format!("{:?}, and since {since} {failures} puts of agent {agent} failed and none did not", self.trial)
            })?;
        }
        Ok(())
    }
}

/// The work that a call did, if it succeeded: an answer that only gives up is none.
fn work_of(record: &Record) -> Option<Work> {
    match (&record.call, &record.result) {
        (Call::Publish { .. }, Outcome::Published { outcomes }) => {
            let there = |put: &PagePut| matches!(put.outcome, PutResult::Published | PutResult::Exists);
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
            let bystanders = std::mem::take(&mut self.bystanders);
            *self = Self { healed, target: revision, seen: self.seen, bystanders, ..Self::default() };
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
        let metrics = replica.group.raft.metrics().borrow().clone();
        let learners: Vec<u64> = metrics.membership_config.membership().learner_ids().collect();
        if !learners.is_empty() {
            missing.push(format!("{learners:?} are learners still, as replica {member} has it"));
        }
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
        self.bystanders.follow(view.history, view.trial, &view.settings.agents);
        self.bystanders.judge(view.history, view.now)?;
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
    use super::*;
    use crate::invariants::testing::{got, history, looked_up, published};
    use crate::world::context;

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
    fn others_publish_while_two_fight_for_a_name() {
        context::begin(1, false);
        let at = SimTime::from_millis;
        let trial = Some(Trial { twin_of: Some(2), since: at(1_000) });
        let refused = |at| published(1, 0, PutResult::Refused("l3_full".into()), (at, at + 1));
        let (mut check, agents) = (Bystanders::default(), BTreeSet::from([1, 2]));
        let mut history = history((0..5).map(|n| refused(1_000 + n * 100)).collect());
        let mut judge = |history: &History, trial, now| {
            check.follow(history, trial, &agents);
            check.judge(history, at(now))
        };
        assert_eq!(judge(&history, trial, 5_999), Ok(()), "it has time");
        assert_eq!(judge(&history, trial, 6_000).unwrap_err().name, NAME);
        history.records.push(published(1, 3, PutResult::Published, (2_000, 6_000)));
        history.records.extend((0..4).map(|n| refused(8_000 + n)));
        history.records.push(Record { agent: Some(2), ..refused(9_000) });
        assert_eq!(judge(&history, trial, 11_000), Ok(()), "too few, and one of an agent that has a twin");
        let put = refused(9_000).call;
        context::set_now(at(7_000));
        history.begin(3, Some((1, 1)), put, "");
        assert_eq!(judge(&history, trial, 11_000).unwrap_err().name, NAME, "one without an answer");
        assert_eq!(judge(&history, None, 11_000), Ok(()));
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
