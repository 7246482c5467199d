//! `acknowledged-publish-survives`: what was acknowledged is in the log at that revision, and stays until a retire,
//! delete or clear of a later revision: in the reference, on every replica at the end, and in the clients' last
//! linearizable lookups.

use std::collections::BTreeMap;

use foreword_meta::state::command::Event;
use foreword_proto::{EntryKey, NamespaceId, PageKey, Revision};

use super::{Invariant, View, Violation, ensure};
use crate::history::{Call, Outcome, PutResult, Record};
use crate::oracle::{Change, Oracle};

const NAME: &str = "acknowledged-publish-survives";

/// A publish that a client was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acknowledged {
    namespace: NamespaceId,
    key: PageKey,
    revision: Revision,
    /// The page was there already.
    exists: bool,
}

/// Follows every acknowledgement.
#[derive(Debug, Default)]
pub struct AcknowledgedPublishSurvives {
    /// What the run began with is in `last`.
    begun: bool,
    seen: usize,
    /// Above what the reference has.
    waiting: Vec<Acknowledged>,
    /// The last acknowledgement of each page.
    last: BTreeMap<(NamespaceId, EntryKey), Revision>,
}

fn acknowledged(record: &Record) -> Vec<Acknowledged> {
    let (Call::Publish { namespace, keys, .. }, Outcome::Published { outcomes }) = (&record.call, &record.result)
    else {
        return Vec::new();
    };
    let of_page = |(key, put): (&PageKey, &crate::history::PagePut)| {
        let exists = match put.outcome {
            PutResult::Published => false,
            PutResult::Exists => true,
            PutResult::Taken | PutResult::Refused(_) => return None,
        };
        Some(Acknowledged { namespace: *namespace, key: *key, revision: put.revision, exists })
    };
    keys.iter().zip(outcomes).filter_map(of_page).collect()
}

/// The acknowledged revision published the page; or, of one that exists, the page was present at some moment of that
/// entry.
fn is_true(oracle: &Oracle, told: &Acknowledged) -> Result<(), Violation> {
    let key = told.key.entry();
    let changes = oracle.presence().changes(told.namespace, &key);
    let at_revision =
        |change: fn(&Change) -> bool| changes.iter().any(|(at, what)| *at == told.revision && change(what));
    let holds = at_revision(|change| matches!(change, Change::Published(_)))
        || told.exists
            && (oracle.present_at(told.namespace, &key, told.revision).is_some()
                || at_revision(|change| matches!(change, Change::Retired(..))));
    ensure(NAME, holds, || format!("{told:?} was acknowledged; what happened to the page: {changes:?}"))
}

impl AcknowledgedPublishSurvives {
    /// What the run began with was acknowledged before it.
    fn begin(&mut self, oracle: &Oracle) {
        if std::mem::replace(&mut self.begun, true) || oracle.generated() == 0 {
            return;
        }
        let entries = oracle.entries_after(0).take_while(|entry| entry.revision <= oracle.generated());
        for entry in entries {
            for event in entry.steps.iter().flat_map(|step| &step.events) {
                if let Event::Published { namespace, page } = event {
                    self.last.insert((*namespace, page.key), entry.revision);
                }
            }
        }
    }

    fn look(&mut self, oracle: &Oracle, records: &[Record]) -> Result<(), Violation> {
        self.begin(oracle);
        for record in &records[self.seen.min(records.len())..] {
            self.waiting.extend(acknowledged(record));
        }
        self.seen = records.len();
        let known = |told: &Acknowledged| told.revision <= oracle.revision();
        let ready: Vec<Acknowledged> = self.waiting.iter().copied().filter(known).collect();
        self.waiting.retain(|told| !known(told));
        for told in ready {
            is_true(oracle, &told)?;
            let last = self.last.entry((told.namespace, told.key.entry())).or_default();
            *last = told.revision.max(*last);
        }
        Ok(())
    }

    /// Nothing acknowledged is above what the group has.
    fn nothing_waits(&self, oracle: &Oracle) -> Result<(), Violation> {
        ensure(NAME, self.waiting.is_empty(), || {
            let told = &self.waiting[0];
            format!("{told:?} was acknowledged, the group ends at revision {}", oracle.revision())
        })
    }

    /// A lookup that must see everything: of each acknowledged page it says what the reference says at its revision.
    fn final_read(&self, oracle: &Oracle, record: &Record) -> Result<(), Violation> {
        let (
            Call::Lookup { namespace, keys, linearizable: true, .. },
            Outcome::Found { revision, present: Some(present), .. },
        ) = (&record.call, &record.result)
        else {
            return Ok(());
        };
        for (key, present) in keys.iter().zip(present) {
            let Some(told) = self.last.get(&(*namespace, key.entry())).filter(|told| *told <= revision) else {
                continue;
            };
            let lost = !present && oracle.present_at(*namespace, &key.entry(), *revision).is_some();
            ensure(NAME, !lost, || {
                format!("{key}, acknowledged at {told}, is not found at {revision}: {:?}", record.call)
            })?;
        }
        Ok(())
    }
}

impl Invariant for AcknowledgedPublishSurvives {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.last.len() as u64
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.look(view.oracle, &view.history.records)
    }

    fn finish(&mut self, view: &View<'_>) -> Result<(), Violation> {
        if view.healed_for(view.settings.liveness_bound) {
            self.nothing_waits(view.oracle)?;
        }
        let since = view.healed_since.unwrap_or(view.now);
        for record in view.history.records.iter().filter(|record| record.invoked >= since) {
            self.final_read(view.oracle, record)?;
        }
        for replica in &view.replicas {
            let lost = replica.group.applied.read(|state| {
                let lost = |((namespace, key), told): &(&(NamespaceId, EntryKey), &Revision)| {
                    // A replica that is ahead of the reference is not judged: the world lets the reference catch up
                    // first.
                    let should = state.revision() <= view.oracle.revision()
                        && view.oracle.present_at(*namespace, key, state.revision()).is_some();
                    **told <= state.revision() && should && state.location(*namespace, key).is_none()
                };
                self.last.iter().find(lost).map(|(page, told)| (*page, *told))
            });
            ensure(NAME, lost.is_none(), || {
                format!("replica {} does not have {lost:?} (page, acknowledged at)", replica.id)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foreword_meta::generated::Plan;

    use super::*;
    use crate::invariants::testing::{looked_up, published};
    use crate::oracle::tests::{Log, begun_with};

    fn log() -> (Log, Revision, Revision) {
        let mut log = Log::new(4);
        let slot = log.put(1);
        let first = log.revision();
        log.retire(1, slot);
        let retired = log.revision();
        log.put(2);
        (log, first, retired)
    }

    #[test]
    fn only_what_the_log_has_may_be_acknowledged() {
        let (log, first, retired) = log();
        let told = |number, revision, result| {
            let mut check = AcknowledgedPublishSurvives::default();
            check.look(&log.oracle, &[published(number, revision, result, (1, 2))])
        };
        assert_eq!(told(1, first, PutResult::Published), Ok(()));
        assert_eq!(told(1, first, PutResult::Exists), Ok(()));
        assert_eq!(told(1, retired, PutResult::Exists), Ok(()), "present until within that entry");
        assert_eq!(told(1, retired, PutResult::Published).unwrap_err().name, NAME);
        assert!(told(1, retired + 1, PutResult::Exists).is_err());
        assert!(told(1, first - 1, PutResult::Published).is_err());
        assert!(told(3, first, PutResult::Published).is_err());
        assert_eq!(told(3, first, PutResult::Refused("fenced".into())), Ok(()));
    }

    #[test]
    fn an_acknowledgement_above_the_log_waits_and_is_lost_at_the_end() {
        let (mut log, _, _) = log();
        let mut check = AcknowledgedPublishSurvives::default();
        let record = published(3, log.revision() + 1, PutResult::Published, (1, 2));
        check.look(&log.oracle, &[record]).unwrap();
        assert!(check.nothing_waits(&log.oracle).is_err());
        log.put(3);
        check.look(&log.oracle, &[]).unwrap();
        assert_eq!(check.nothing_waits(&log.oracle), Ok(()));
    }

    #[test]
    fn a_final_read_that_misses_an_acknowledged_page_is_found() {
        let (log, first, _) = log();
        let last = log.revision();
        let mut check = AcknowledgedPublishSurvives::default();
        let told =
            [published(1, first, PutResult::Published, (1, 2)), published(2, last, PutResult::Published, (1, 2))];
        check.look(&log.oracle, &told).unwrap();
        let read = |present: &[bool]| check.final_read(&log.oracle, &looked_up(&[1, 2], last, present, true, (5, 6)));
        assert_eq!(read(&[false, true]), Ok(()), "1 was retired");
        assert_eq!(read(&[false, false]).unwrap_err().name, NAME);
    }

    #[test]
    fn what_the_run_began_with_was_acknowledged() {
        let plan = Plan::pages(1, 100);
        let (oracle, _) = begun_with(&plan);
        let mut check = AcknowledgedPublishSurvives::default();
        check.look(&oracle, &[]).unwrap();
        assert_eq!(check.compared(), 100);
        let mut read = looked_up(&[1], oracle.revision(), &[false], true, (5, 6));
        let Call::Lookup { keys, .. } = &mut read.call else { panic!("it is a lookup") };
        *keys = vec![plan.keys(0).page(7)];
        assert_eq!(check.final_read(&oracle, &read).unwrap_err().name, NAME);
    }
}
