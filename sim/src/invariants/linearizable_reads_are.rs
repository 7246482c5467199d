//! `linearizable-reads-are`: a lookup that asks for it sees everything acknowledged before it was called.
//!
//! Two opinions. By revisions: its revision is at or above every revision that any client had seen by then, and what it
//! found is what the reference has at its revision. By intervals, at the end: for each page there is an order of
//! publishes, removals and such lookups that fits when each of them happened ([`crate::linearizable`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foreword_proto::{EntryKey, NamespaceId, Revision, SlotRef};

use super::entries_are_whole::wrong_presence;
use super::revisions_never_go_back::may_be_late;
use super::{Invariant, View, Violation, ensure};
use crate::history::{Call, Outcome, PutResult, Record};
use crate::linearizable::{Action, Operation, Place, Verdict, check};
use crate::oracle::{Change, Oracle};
use crate::world::context::SimTime;

const NAME: &str = "linearizable-reads-are";
/// Operations of one page that are searched; of a page with more, the first ones in time.
const OPERATIONS_PER_PAGE_MAX: usize = 400;

/// When an entry can have been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interval {
    from: SimTime,
    to: SimTime,
}

/// Follows lookups and acknowledgements.
#[derive(Debug, Default)]
pub struct LinearizableReadsAre {
    seen: usize,
    /// The greatest revision any client had seen, by the time it came to be known.
    known: Vec<(SimTime, Revision)>,
    /// When the reference had come to each revision, where that changed: committed by then.
    observed: Vec<(Revision, SimTime)>,
    decided: u64,
    undecided: u64,
}

/// Revisions that the caller of this record has seen when it returned.
fn revision_seen(record: &Record) -> Option<Revision> {
    match &record.result {
        Outcome::Published { outcomes } => {
            let there = outcomes.iter().filter(|put| matches!(put.outcome, PutResult::Published | PutResult::Exists));
            there.map(|put| put.revision).max()
        }
        Outcome::Found { revision, .. } | Outcome::Cleared { revision, .. } | Outcome::Deleted { revision } => {
            Some(*revision)
        }
        Outcome::Got { pages } => pages.iter().map(|page| page.revision).max(),
        Outcome::Opened { revision, .. } => Some(*revision),
        Outcome::Renewed | Outcome::Unknown | Outcome::Failed(_) => None,
    }
}

fn is_linearizable(record: &Record) -> bool {
    matches!(record.call, Call::Lookup { linearizable: true, .. })
}

impl LinearizableReadsAre {
    /// Pages whose history had an order, and pages whose search was given up.
    pub fn searched(&self) -> (u64, u64) {
        (self.decided, self.undecided)
    }

    fn look(&mut self, oracle: &Oracle, records: &[Record], deadline: Duration) -> Result<(), Violation> {
        while let Some(record) = records.get(self.seen) {
            let Some(returned) = record.returned else {
                self.seen += 1;
                continue;
            };
            if is_linearizable(record)
                && matches!(record.result, Outcome::Found { revision, .. } if revision > oracle.revision())
            {
                return Ok(());
            }
            self.seen += 1;
            if let Some(revision) = revision_seen(record) {
                let highest = self.known.last().map_or(0, |(_, known)| *known).max(revision);
                self.known.push((returned, highest));
            }
            self.sees_what_was_known(oracle, record, deadline)?;
        }
        Ok(())
    }

    fn sees_what_was_known(&self, oracle: &Oracle, record: &Record, deadline: Duration) -> Result<(), Violation> {
        let Outcome::Found { revision, .. } = record.result else { return Ok(()) };
        if !is_linearizable(record) {
            return Ok(());
        }
        // An acknowledgement has travelled: its entry was committed before it came, so one that came at this very
        // moment counts.
        let before = self.known.partition_point(|(at, _)| *at <= record.invoked);
        let known = before.checked_sub(1).map_or(0, |last| self.known[last].1);
        ensure(NAME, revision >= known || may_be_late(record, deadline), || {
            format!(
                "invoked at {}, when revision {known} was known, and answered at {revision}: {:?}",
                record.invoked, record.call
            )
        })?;
        let wrong = wrong_presence(oracle, record);
        ensure(NAME, wrong.is_none(), || format!("{:?} has {wrong:?} (key, present) wrong", record.result))
    }

    fn advance(&mut self, revision: Revision, now: SimTime) {
        if self.observed.last().is_none_or(|(last, _)| *last < revision) {
            self.observed.push((revision, now));
        }
    }

    /// Entries are committed in order: one was not before what an earlier one waited for, and not after what a later
    /// one was seen by.
    fn interval(&self, bounds: &Bounds, revision: Revision) -> Interval {
        let from = bounds.from.range(..=revision).next_back().map_or(SimTime::default(), |(_, from)| *from);
        let index = self.observed.partition_point(|(at, _)| *at < revision);
        let observed = self.observed.get(index).map_or(SimTime(u64::MAX), |(_, at)| *at);
        let to = bounds.to.range(revision..).next().map_or(observed, |(_, to)| observed.min(*to));
        Interval { from, to: to.max(from) }
    }

    fn search(&mut self, oracle: &Oracle, records: &[Record]) -> Result<(), Violation> {
        let bounds = Bounds::of(oracle, records);
        for ((namespace, key), reads) in reads_of(records) {
            let mut operations = reads;
            for (revision, change) in oracle.presence().changes(namespace, &key) {
                let Interval { from, to } = self.interval(&bounds, *revision);
                let action = match change {
                    Change::Published(location) => Action::Publish(place(location.slot)),
                    Change::Retired(slot, _) => Action::Retire(place(*slot)),
                };
                operations.push(Operation { invoked: from.nanos(), returned: Some(to.nanos()), action });
            }
            match check(&first_in_time(operations)) {
                Verdict::Linearizable => self.decided += 1,
                Verdict::Undecided => self.undecided += 1,
                Verdict::Broken => {
                    let detail = format!("no order explains what was seen of {key:?} in namespace {namespace}");
                    return Err(Violation { name: NAME, detail });
                }
            }
        }
        Ok(())
    }
}

/// What clients' calls say about when entries were committed.
#[derive(Debug, Default)]
struct Bounds {
    /// Not before: the page's put was called then. Rising.
    from: BTreeMap<Revision, SimTime>,
    /// Not after: a client had the revision then. Rising.
    to: BTreeMap<Revision, SimTime>,
}

impl Bounds {
    fn of(oracle: &Oracle, records: &[Record]) -> Self {
        let mut bounds = Self::default();
        let began = began(records);
        for record in records {
            if let (Call::Publish { namespace, keys, .. }, Outcome::Published { outcomes }) =
                (&record.call, &record.result)
            {
                let told = keys.iter().zip(outcomes).filter(|(_, put)| put.outcome == PutResult::Published);
                for (key, put) in told {
                    // An acknowledgement that the log does not bear out is another invariant's, and bounds nothing.
                    let borne_out = |(at, change): &(Revision, Change)| {
                        *at == put.revision && matches!(change, Change::Published(_))
                    };
                    if !oracle.presence().changes(*namespace, &key.entry()).iter().any(borne_out) {
                        continue;
                    }
                    let unsettled = began.get(&(*namespace, key.entry())).copied().unwrap_or(record.invoked);
                    let from = bounds.from.entry(put.revision).or_insert(record.invoked);
                    *from = record.invoked.min(*from).min(unsettled);
                }
            }
            if let (Some(revision), Some(returned)) = (revision_seen(record), record.returned) {
                let to = bounds.to.entry(revision).or_insert(returned);
                *to = returned.min(*to);
            }
        }
        let mut highest = SimTime::default();
        for from in bounds.from.values_mut() {
            highest = highest.max(*from);
            *from = highest;
        }
        let mut lowest = SimTime(u64::MAX);
        for to in bounds.to.values_mut().rev() {
            lowest = lowest.min(*to);
            *to = lowest;
        }
        bounds
    }
}

/// When each page's first publish without a revision was called: an agent may go on with such a page by itself, and
/// others that put the page later are told of that publish.
fn began(records: &[Record]) -> BTreeMap<(NamespaceId, EntryKey), SimTime> {
    let mut began = BTreeMap::new();
    for record in records {
        let Call::Publish { namespace, keys, .. } = &record.call else { continue };
        for (index, key) in keys.iter().enumerate() {
            let settled = match &record.result {
                Outcome::Published { outcomes } => outcomes
                    .get(index)
                    .is_some_and(|put| matches!(put.outcome, PutResult::Published | PutResult::Exists)),
                _ => false,
            };
            if !settled {
                let first = began.entry((*namespace, key.entry())).or_insert(record.invoked);
                *first = record.invoked.min(*first);
            }
        }
    }
    began
}

fn place(slot: SlotRef) -> Place {
    // Slabs and slots of a simulation are few.
    u64::from(slot.slab) << 48 ^ u64::from(slot.slot) << 24 ^ u64::from(slot.generation)
}

/// Linearizable lookups of each page that replicas answered, as operations.
fn reads_of(records: &[Record]) -> BTreeMap<(NamespaceId, EntryKey), Vec<Operation>> {
    let mut reads: BTreeMap<(NamespaceId, EntryKey), Vec<Operation>> = BTreeMap::new();
    for record in records.iter().filter(|record| is_linearizable(record)) {
        let (Call::Lookup { namespace, keys, .. }, Outcome::Found { present: Some(present), .. }, Some(returned)) =
            (&record.call, &record.result, record.returned)
        else {
            continue;
        };
        let mut once = BTreeSet::new();
        for (key, present) in keys.iter().zip(present).filter(|(key, _)| once.insert(**key)) {
            let action = if *present { Action::ReadPresent } else { Action::ReadAbsent };
            let operation = Operation { invoked: record.invoked.nanos(), returned: Some(returned.nanos()), action };
            reads.entry((*namespace, key.entry())).or_default().push(operation);
        }
    }
    reads
}

/// The part of a history that a search can take: what was invoked first. What is cut off ends after all of what stays
/// begins, so that whatever order explains the whole explains the part, if those that reach into the rest may be left
/// out.
fn first_in_time(mut operations: Vec<Operation>) -> Vec<Operation> {
    operations.sort_by_key(|operation| (operation.invoked, operation.returned));
    if operations.len() > OPERATIONS_PER_PAGE_MAX {
        let end = operations[OPERATIONS_PER_PAGE_MAX].invoked;
        operations.truncate(OPERATIONS_PER_PAGE_MAX);
        operations.retain(|operation| {
            let reads = matches!(operation.action, Action::ReadAbsent | Action::ReadPresent | Action::ReadAt(_));
            !reads || operation.returned.is_some_and(|returned| returned < end)
        });
        for operation in operations.iter_mut().filter(|operation| operation.returned.is_some_and(|at| at >= end)) {
            operation.returned = None;
        }
    }
    operations
}

impl Invariant for LinearizableReadsAre {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.decided
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.advance(view.oracle.revision(), view.now);
        self.look(view.oracle, &view.history.records, view.settings.lookup_deadline)
    }

    fn finish(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.search(view.oracle, &view.history.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{looked_up, published};
    use crate::oracle::tests::Log;

    const DEADLINE: Duration = Duration::from_millis(100);

    fn both(log: &Log, records: &[Record]) -> (bool, bool) {
        let mut check = LinearizableReadsAre::default();
        check.advance(log.revision(), SimTime::from_millis(1000));
        let by_revision = check.look(&log.oracle, records, DEADLINE).is_ok();
        (by_revision, check.search(&log.oracle, records).is_ok())
    }

    #[test]
    fn a_stale_read_is_found_both_ways() {
        let mut log = Log::new(4);
        let before = log.revision();
        log.put(1);
        let revision = log.revision();
        let told = || published(1, revision, PutResult::Published, (10, 20));
        let read = |present: bool, at| looked_up(&[1], if present { revision } else { before }, &[present], true, at);
        assert_eq!(both(&log, &[told(), read(true, (30, 40))]), (true, true));
        assert_eq!(both(&log, &[told(), read(false, (30, 40))]), (false, false));
        assert_eq!(both(&log, &[told(), read(false, (15, 40))]), (true, true), "at the same time");
        assert_eq!(both(&log, &[read(true, (11, 12)), read(false, (13, 14)), told()]), (false, false), "new, then old");
        assert_eq!(both(&log, &[read(true, (1, 2)), told()]), (true, false), "before the publish was invoked");
        let mut earlier = published(1, 0, PutResult::Taken, (0, 1));
        assert_eq!(both(&log, &[earlier.clone(), read(true, (1, 2)), told()]), (true, true), "an earlier put went on");
        (earlier.returned, earlier.result) = (None, Outcome::Unknown);
        assert_eq!(both(&log, &[read(true, (1, 2)), told(), earlier]), (true, true), "one without an answer");
        let ordinary = looked_up(&[1], before, &[false], false, (30, 40));
        assert_eq!(both(&log, &[told(), ordinary]), (true, true), "it asked for less");
    }

    #[test]
    fn a_removal_is_seen_from_its_revision_on() {
        let mut log = Log::new(4);
        log.put(1);
        let published_at = log.revision();
        log.delete(1);
        let deleted = log.revision();
        let told = published(1, published_at, PutResult::Published, (10, 20));
        let call = Call::Delete { namespace: 1, keys: vec![crate::oracle::tests::key(1)] };
        let removed = crate::invariants::testing::record(3, (30, 40), call, Outcome::Deleted { revision: deleted });
        let stale = looked_up(&[1], published_at, &[true], true, (50, 60));
        let fresh = looked_up(&[1], deleted, &[false], true, (50, 60));
        let between = looked_up(&[1], published_at, &[true], true, (35, 60));
        assert_eq!(both(&log, &[told.clone(), removed.clone(), fresh]), (true, true));
        assert_eq!(both(&log, &[told.clone(), removed.clone(), stale]), (false, false));
        assert_eq!(both(&log, &[told, removed, between]), (true, true));
        let lying = looked_up(&[1], deleted, &[true], true, (50, 60));
        assert!(!both(&log, &[lying]).0, "its revision has it otherwise");
    }

    #[test]
    fn a_long_history_is_cut_where_it_can_be() {
        let read = |at: u64, action| Operation { invoked: at * 10, returned: Some(at * 10 + 5), action };
        let mut long: Vec<Operation> = (1..1000).map(|at| read(at, Action::ReadPresent)).collect();
        long.push(Operation { invoked: 0, returned: Some(5), action: Action::Publish(1) });
        long.push(Operation { invoked: 0, returned: Some(100_000), action: Action::Retire(1) });
        assert_eq!(check(&first_in_time(long.clone())), Verdict::Linearizable);
        long[100].action = Action::ReadAbsent;
        assert_eq!(check(&first_in_time(long)), Verdict::Broken);
    }
}
