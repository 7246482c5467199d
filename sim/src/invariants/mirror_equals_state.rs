//! `mirror-equals-state`: a mirror at revision r holds exactly the entries that the state has at r; and what an agent
//! says it found can be explained by them.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_node::mirror::View as Mirror;
use foreword_proto::{NamespaceId, PageKey, RetireReason, Revision};

use super::{Invariant, View, Violation, ensure};
use crate::history::{Call, Outcome, Record, Target};
use crate::oracle::{Change, NamespaceSum, Oracle, hash_of_page};
use crate::world::context::SimTime;

const NAME: &str = "mirror-equals-state";
/// A mirror is compared this often at most, and less often the more pages it has: a wrong page stays wrong.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_EVERY_PER_PAGE: Duration = Duration::from_micros(20);
/// Differences that a message names.
const DIFFERENCES_MAX: usize = 3;

/// What is known of one mirror.
#[derive(Debug, Clone, Copy, Default)]
struct Looked {
    next: SimTime,
    incarnation: u64,
    compared: Revision,
}

/// Compares mirrors.
#[derive(Debug, Default)]
pub struct MirrorEqualsState {
    looked: BTreeMap<(u32, NamespaceId), Looked>,
    records_seen: usize,
    compared: u64,
}

/// What a mirror's table adds up to.
fn sum_of(mirror: &Mirror) -> NamespaceSum {
    let sum = mirror.table().iter().map(|(key, location)| hash_of_page(&key, &location)).fold(0, u64::wrapping_add);
    NamespaceSum { epoch: mirror.epoch(), pages: mirror.pages() as u64, sum }
}

/// True if there is something to compare: the mirror was synced once, is not in a resync, and the reference is as far.
fn comparable(oracle: &Oracle, mirror: &Mirror) -> bool {
    mirror.synced() && mirror.exact() && mirror.revision() <= oracle.revision()
}

pub(super) fn compare(oracle: &Oracle, namespace: NamespaceId, mirror: &Mirror) -> Result<(), String> {
    let revision = mirror.revision();
    let Some(expected) = oracle.presence().sum_at(namespace, revision) else { return Ok(()) };
    // It has heard of a clear that is above its revision: it hides everything until the snapshot is here.
    if mirror.epoch() > expected.epoch && mirror.pages() == 0 {
        return Ok(());
    }
    let found = sum_of(mirror);
    if found == expected { Ok(()) } else { Err(difference(oracle, namespace, mirror, found, expected)) }
}

fn difference(
    oracle: &Oracle,
    namespace: NamespaceId,
    mirror: &Mirror,
    found: NamespaceSum,
    expected: NamespaceSum,
) -> String {
    let revision = mirror.revision();
    let there: BTreeMap<_, _> = mirror.table().iter().collect();
    let wanted = oracle.presence().pages_at(namespace, revision);
    let more = there.iter().filter(|(key, location)| wanted.get(key) != Some(location));
    let more: Vec<_> =
        more.map(|(key, location)| format!("has {key:?} at {:?}", location.slot)).take(DIFFERENCES_MAX).collect();
    let less = wanted.iter().filter(|(key, location)| there.get(key) != Some(location));
    let less: Vec<_> =
        less.map(|(key, location)| format!("lacks {key:?} at {:?}", location.slot)).take(DIFFERENCES_MAX).collect();
    format!(
        "namespace {namespace} at revision {revision}: {found:?}, expected {expected:?}; it {}",
        [more, less].concat().join(", ")
    )
}

/// Why a page that an agent found at a revision may be found: None if it may not.
///
/// Besides what the table has: a page that was published above the revision (an own publish, ahead of the table), and
/// one that left the index without its bytes being unwanted (a copy in L1).
fn explained(oracle: &Oracle, namespace: NamespaceId, key: &PageKey, revision: Revision) -> bool {
    let presence = oracle.presence();
    let now = match presence.last_change(namespace, &key.entry(), revision) {
        Some((_, Change::Published(_))) => true,
        Some((_, Change::Retired(_, reason))) => !matches!(reason, RetireReason::Deleted | RetireReason::Cleared),
        None => false,
    };
    let ahead = |(at, change): &(Revision, Change)| *at > revision && matches!(change, Change::Published(_));
    now || presence.changes(namespace, &key.entry()).iter().any(ahead)
}

fn explain(oracle: &Oracle, record: &Record) -> Result<(), Violation> {
    let Call::Lookup { namespace, keys, at: Target::Agent, .. } = &record.call else { return Ok(()) };
    let Outcome::Found { pages, revision, .. } = &record.result else { return Ok(()) };
    for key in keys.iter().take(*pages as usize) {
        ensure(NAME, explained(oracle, *namespace, key, *revision), || {
            let changes = oracle.presence().changes(*namespace, &key.entry());
            format!("agent {:?} found {key} at revision {revision}; what happened to it: {changes:?}", record.agent)
        })?;
    }
    Ok(())
}

impl MirrorEqualsState {
    fn look(&mut self, view: &View<'_>, whatever: bool) -> Result<(), Violation> {
        let mut result = Ok(());
        for agent in &view.agents {
            agent.api.visit_mirrors(|namespace, mirror| {
                let looked = self.looked.entry((agent.number, namespace)).or_default();
                let same = looked.incarnation == agent.incarnation && looked.compared == mirror.revision();
                let skip = !whatever && (same || view.now < looked.next);
                if skip || result.is_err() || !comparable(view.oracle, mirror) {
                    return;
                }
                let next = view.now + LOOK_EVERY + LOOK_EVERY_PER_PAGE * mirror.pages() as u32;
                *looked = Looked { next, incarnation: agent.incarnation, compared: mirror.revision() };
                self.compared += 1;
                result = compare(view.oracle, namespace, mirror)
                    .map_err(|detail| Violation { name: NAME, detail: format!("agent {}: {detail}", agent.name) });
            });
        }
        result
    }
}

impl Invariant for MirrorEqualsState {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.compared
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.look(view, false)?;
        // What an agent found may be above what the reference has: it is looked at when the reference is there.
        while let Some(record) = view.history.records.get(self.records_seen) {
            if matches!(record.result, Outcome::Found { revision, .. } if revision > view.oracle.revision()) {
                return Ok(());
            }
            self.records_seen += 1;
            explain(view.oracle, record)?;
        }
        Ok(())
    }

    fn finish(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.look(view, true)
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::records::{EntryEvents, NamespaceEvent, PageRecord};

    use super::*;
    use crate::invariants::testing::looked_up;
    use crate::oracle::tests::{Log, key};

    fn mirror(epoch: u32, revision: Revision, pages: &[PageRecord]) -> Mirror {
        let mut mirror = Mirror::new(1, epoch);
        mirror.begin_resync(epoch, revision, 0).unwrap();
        let pages: Vec<_> = pages.iter().map(|page| (page.key, page.location.clone())).collect();
        mirror.resync_bucket(0, 0, &pages).unwrap();
        mirror.end_resync(revision).unwrap();
        mirror
    }

    #[test]
    fn a_page_too_many_too_few_or_elsewhere_is_found() {
        let mut log = Log::new(4);
        let (one, two) = (log.put(1), log.put(2));
        let revision = log.revision();
        let pages = [log.record(1, one), log.record(2, two)];
        let same = mirror(1, revision, &pages);
        assert_eq!(compare(&log.oracle, 1, &same), Ok(()));
        assert!(compare(&log.oracle, 1, &mirror(1, revision - 1, &pages)).unwrap_err().contains("has"));
        assert!(compare(&log.oracle, 1, &mirror(1, revision, &pages[..1])).unwrap_err().contains("lacks"));
        let swapped = [log.record(1, two), log.record(2, one)];
        assert!(compare(&log.oracle, 1, &mirror(1, revision, &swapped)).is_err());
        let mut other = log.record(2, two);
        other.location.checksums = foreword_proto::location::Checksums::One([9]);
        assert!(compare(&log.oracle, 1, &mirror(1, revision, &[log.record(1, one), other])).is_err());
        assert!(!comparable(&log.oracle, &mirror(1, revision + 1, &pages)) && comparable(&log.oracle, &same));
    }

    #[test]
    fn a_mirror_between_two_epochs_shows_nothing() {
        let mut log = Log::new(4);
        let slot = log.put(1);
        let mut view = mirror(1, log.revision(), &[log.record(1, slot)]);
        log.clear();
        view.begin_resync(2, log.revision(), 0).unwrap();
        assert_eq!(compare(&log.oracle, 1, &view), Ok(()));
        let stale = mirror(1, log.revision(), &[log.record(1, slot)]);
        assert!(compare(&log.oracle, 1, &stale).is_err());
    }

    #[test]
    fn a_lost_retire_is_found() {
        let mut log = Log::new(4);
        let slot = log.put(1);
        let mut view = mirror(1, log.revision(), &[log.record(1, slot)]);
        log.retire(1, slot);
        let retired = NamespaceEvent::Retired { key: key(1).entry(), slot, reason: RetireReason::Evicted };
        let entry = EntryEvents { revision: log.revision(), events: vec![retired] };
        let mut lost = mirror(1, log.revision() - 1, &[log.record(1, slot)]);
        view.apply(log.revision(), &[entry]).unwrap();
        lost.apply(log.revision(), &[]).unwrap();
        assert_eq!(compare(&log.oracle, 1, &view), Ok(()));
        assert!(compare(&log.oracle, 1, &lost).is_err());
    }

    #[test]
    fn only_what_can_be_there_may_be_found() {
        let mut log = Log::new(4);
        let slot = log.put(1);
        log.put(2);
        let published = log.revision();
        log.retire(1, slot);
        log.delete(2);
        let last = log.revision();
        let found = |number, revision| {
            let mut record = looked_up(&[number], revision, &[true], false, (1, 2));
            if let Call::Lookup { at, .. } = &mut record.call {
                *at = Target::Agent;
            }
            explain(&log.oracle, &record)
        };
        assert_eq!(found(1, published), Ok(()));
        assert_eq!(found(1, last), Ok(()), "evicted, and a copy in L1");
        assert_eq!(found(2, 1), Ok(()), "an own publish, ahead of the table");
        assert!(found(2, last).is_err(), "deleted");
        assert!(found(3, last).is_err(), "never published");
    }
}
