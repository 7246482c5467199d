//! `revisions-never-go-back`: the revisions that one client sees from one life of an agent never fall, and an answer
//! that demanded a revision has seen it.
//!
//! Each namespace has its mirror, so each has revisions of its own. A publish answers with the group's revision, which
//! may be ahead of the mirror: only reads are compared.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_proto::{NamespaceId, Revision};

use super::{Invariant, View, Violation, ensure};
use crate::history::{Call, Outcome, Record};
use crate::world::context::SimTime;

const NAME: &str = "revisions-never-go-back";
/// An agent answers at its deadline with what it knows. A call that took at least this part of it may have come to
/// that: clocks drift.
const DEADLINE_PART: (u32, u32) = (9, 10);

/// (client, agent, incarnation, namespace)
type Reader = (u32, u32, u64, NamespaceId);

/// Follows every reader.
#[derive(Debug, Default)]
pub struct RevisionsNeverGoBack {
    seen: usize,
    /// The highest revision seen up to each return, by the time of the return.
    readers: BTreeMap<Reader, Vec<(SimTime, Revision)>>,
}

/// The smallest and the largest revision of a read's answer.
fn revisions(record: &Record) -> Option<(NamespaceId, Revision, Revision)> {
    match (&record.call, &record.result) {
        (Call::Lookup { namespace, .. }, Outcome::Found { revision, .. }) => Some((*namespace, *revision, *revision)),
        (Call::Get { namespace, .. }, Outcome::Got { pages }) => {
            let revisions = pages.iter().map(|page| page.revision);
            Some((*namespace, revisions.clone().min()?, revisions.max()?))
        }
        _ => None,
    }
}

/// True if the call may have been answered because its deadline had come.
pub(super) fn may_be_late(record: &Record, deadline: Duration) -> bool {
    let part = deadline * DEADLINE_PART.0 / DEADLINE_PART.1;
    record.agent.is_some() && record.returned.is_none_or(|returned| record.invoked + part <= returned)
}

impl RevisionsNeverGoBack {
    fn look(&mut self, records: &[Record], deadline: Duration) -> Result<(), Violation> {
        for record in &records[self.seen.min(records.len())..] {
            self.seen += 1;
            demanded_is_seen(record, deadline)?;
            self.follow(record)?;
        }
        Ok(())
    }

    fn follow(&mut self, record: &Record) -> Result<(), Violation> {
        let (Some((namespace, least, most)), Some(agent), Some(returned)) =
            (revisions(record), record.agent, record.returned)
        else {
            return Ok(());
        };
        let reader = (record.client, agent, record.agent_incarnation, namespace);
        let seen = self.readers.entry(reader).or_default();
        let before = seen.partition_point(|(at, _)| *at < record.invoked);
        let before = before.checked_sub(1).map_or(0, |last| seen[last].1);
        let highest = seen.last().map_or(0, |(_, revision)| *revision).max(most);
        seen.push((returned, highest));
        ensure(NAME, least >= before, || {
            format!("{reader:?} saw revision {before}, and then {least}: {:?}", record.result)
        })
    }
}

fn demanded_is_seen(record: &Record, deadline: Duration) -> Result<(), Violation> {
    let (Call::Lookup { min_revision, .. }, Outcome::Found { revision, .. }) = (&record.call, &record.result) else {
        return Ok(());
    };
    ensure(NAME, revision >= min_revision || may_be_late(record, deadline), || {
        format!("revision {min_revision} was demanded, the answer is of {revision}: {:?}", record.call)
    })
}

impl Invariant for RevisionsNeverGoBack {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.readers.values().map(|seen| seen.len() as u64).sum()
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.look(&view.history.records, view.settings.lookup_deadline)
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Target;
    use crate::oracle::tests::key;

    const DEADLINE: Duration = Duration::from_millis(100);

    fn lookup(min_revision: Revision, revision: Revision, (invoked, returned): (u64, u64)) -> Record {
        let call =
            Call::Lookup { namespace: 1, keys: vec![key(1)], min_revision, linearizable: false, at: Target::Agent };
        let found = Outcome::Found { pages: 0, revision, present: None, locations: None };
        crate::invariants::testing::record(1, (invoked, returned), call, found)
    }

    fn look(records: &[Record]) -> Result<(), Violation> {
        RevisionsNeverGoBack::default().look(records, DEADLINE)
    }

    #[test]
    fn a_revision_that_falls_is_found() {
        assert_eq!(look(&[lookup(0, 5, (1, 2)), lookup(0, 5, (3, 4)), lookup(0, 6, (5, 6))]), Ok(()));
        assert_eq!(look(&[lookup(0, 5, (1, 3)), lookup(0, 4, (2, 4))]), Ok(()), "at the same time");
        assert_eq!(look(&[lookup(0, 5, (1, 2)), lookup(0, 4, (3, 4))]).unwrap_err().name, NAME);
        let across = [lookup(0, 5, (1, 2)), lookup(0, 4, (1, 6)), lookup(0, 4, (7, 8))];
        assert!(look(&across).is_err(), "the highest counts, not the last");
        let mut restarted = lookup(0, 4, (3, 4));
        restarted.agent_incarnation = 2;
        assert_eq!(look(&[lookup(0, 5, (1, 2)), restarted]), Ok(()));
    }

    #[test]
    fn a_demand_that_was_not_met_is_found() {
        assert_eq!(look(&[lookup(5, 5, (1, 2))]), Ok(()));
        assert!(look(&[lookup(6, 5, (1, 2))]).is_err());
        assert_eq!(look(&[lookup(6, 5, (0, 95))]), Ok(()), "the deadline came");
        let mut at_replica = lookup(6, 5, (0, 95));
        at_replica.agent = None;
        assert!(look(&[at_replica]).is_err(), "a replica fails rather than answer with less");
    }
}
