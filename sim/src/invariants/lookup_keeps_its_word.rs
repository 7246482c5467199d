//! `lookup-keeps-its-word`: what an agent counted is what the same engine's get right after it delivers, or something
//! that happened explains why not. And what L3 would not give once is not counted again right away.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_proto::{NamespaceId, PageKey, Revision};

use super::{Invariant, View, Violation, ensure};
use crate::history::{Call, GotPage, Outcome, Record, Target};
use crate::oracle::{Change, Oracle};
use crate::world::context::SimTime;
use crate::world::l3::L3Counts;

const NAME: &str = "lookup-keeps-its-word";
/// What is got within this of a lookup was promised by it.
const WORD: Duration = Duration::from_secs(1);
/// What happened so long before a lookup may show in the get behind it: a read that began then has a deadline of 2.9 s
/// at most.
const BEFORE: Duration = Duration::from_secs(4);
/// A page that L3 would not give is tried by the agent itself after a second, and its breaker asks again after half of
/// one.
const AGAIN: Duration = Duration::from_millis(450);

/// A page at one life of an agent.
type Asked = ((Option<u32>, u64), NamespaceId, PageKey);

/// What an agent counted for an engine.
#[derive(Debug, Clone)]
struct Promise {
    agent: (Option<u32>, u64),
    namespace: NamespaceId,
    pages: Vec<PageKey>,
    revision: Revision,
    invoked: SimTime,
    returned: SimTime,
}

/// What can keep an agent from what it promised.
#[derive(Debug, Default)]
struct Troubles {
    /// Reads so far to which something happened.
    reads: u64,
    /// Writes so far that did not put on L3 what they should have.
    bad_writes: u64,
    /// When a read was in trouble last, or an agent stood still, whose deadlines then pass at once.
    last: Option<SimTime>,
}

impl Troubles {
    fn note(&mut self, now: SimTime, counts: &L3Counts, stands_still: bool) {
        let L3Counts { flipped_reads, short_reads, errors, dropped, stalls, outages, .. } = *counts;
        let reads = flipped_reads + short_reads + errors + dropped + stalls + outages;
        if reads != self.reads || stands_still {
            self.last = Some(now);
        }
        self.reads = reads;
        self.bad_writes = counts.torn + counts.flipped_writes + counts.late_landed + counts.dropped;
    }
}

/// Holds gets against the lookups before them.
#[derive(Debug, Default)]
pub struct LookupKeepsItsWord {
    seen: usize,
    /// The last one of each client.
    promises: BTreeMap<u32, Promise>,
    /// When L3 would not give a page to a get of what was promised.
    refused: BTreeMap<Asked, SimTime>,
    troubles: Troubles,
    compared: u64,
}

/// Whether the page left the index after this revision, or was not in it.
fn gone(oracle: &Oracle, namespace: NamespaceId, key: &PageKey, revision: Revision) -> bool {
    let presence = oracle.presence();
    let there = presence.last_change(namespace, &key.entry(), revision);
    let was_there = matches!(there, Some((_, Change::Published(_))));
    let left = |(at, change): &(Revision, Change)| *at > revision && matches!(change, Change::Retired(..));
    !was_there || presence.changes(namespace, &key.entry()).iter().any(left)
}

/// Whether a miss was for what L3 would not do.
fn of_l3(page: &GotPage) -> bool {
    matches!(page.reason.as_str(), "read_failed" | "breaker_open")
}

impl LookupKeepsItsWord {
    fn promise(&mut self, record: &Record) {
        let Call::Lookup { namespace, keys, at: Target::Agent, .. } = &record.call else { return };
        let (Outcome::Found { pages, revision, .. }, Some(returned)) = (&record.result, record.returned) else {
            return;
        };
        let pages = keys.iter().take(*pages as usize).copied().collect();
        let agent = (record.agent, record.agent_incarnation);
        let (namespace, revision, invoked) = (*namespace, *revision, record.invoked);
        self.promises.insert(record.client, Promise { agent, namespace, pages, revision, invoked, returned });
    }

    /// The promise that this get takes up.
    fn promised(&self, record: &Record) -> Option<Promise> {
        let Call::Get { namespace, keys, bypass_cache: false } = &record.call else { return None };
        let promise = self.promises.get(&record.client)?;
        let same = promise.agent == (record.agent, record.agent_incarnation) && promise.namespace == *namespace;
        let soon = record.invoked >= promise.returned && record.invoked <= promise.returned + WORD;
        (same && soon && promise.pages == *keys).then(|| promise.clone())
    }

    fn look(&mut self, record: &Record, oracle: &Oracle) -> Result<(), Violation> {
        self.promise(record);
        let Outcome::Got { pages } = &record.result else { return Ok(()) };
        let Some(promise) = self.promised(record) else { return Ok(()) };
        for page in pages {
            self.compared += 1;
            let asked = (promise.agent, promise.namespace, page.key);
            if page.hit {
                self.refused.remove(&asked);
                continue;
            }
            let gone = gone(oracle, promise.namespace, &page.key, promise.revision);
            let again = if gone { None } else { self.again(&asked, page, &promise) };
            ensure(NAME, gone || (again.is_none() && self.explains(page, &promise)), || {
                let (client, returned, revision) = (record.client, promise.returned, promise.revision);
                let (key, reason) = (page.key, &page.reason);
                let changes = oracle.presence().changes(promise.namespace, &key.entry());
                let before = again.map_or(String::new(), |at| format!(", as at {at}"));
                format!(
                    "agent {:?} counted {key} for client {client} at {returned}, revision {revision}, and did not have it \
                     ({reason}{before}); what happened to it: {changes:?}",
                    record.agent
                )
            })?;
            if let (true, Some(returned)) = (of_l3(page), record.returned) {
                self.refused.insert(asked, returned);
            }
        }
        Ok(())
    }

    /// Whether what happened to L3 and to agents explains the miss of a page that is in the index.
    fn explains(&self, page: &GotPage, promise: &Promise) -> bool {
        let of_bytes = matches!(page.reason.as_str(), "absent" | "checksum") && self.troubles.bad_writes > 0;
        of_bytes || self.troubles.last.is_some_and(|at| at + BEFORE >= promise.invoked)
    }

    /// When L3 would not give this page before, if the agent counted it too soon after that.
    fn again(&self, asked: &Asked, page: &GotPage, promise: &Promise) -> Option<SimTime> {
        let at = self.refused.get(asked).copied().filter(|_| of_l3(page))?;
        (promise.invoked > at && promise.invoked < at + AGAIN).then_some(at)
    }
}

impl Invariant for LookupKeepsItsWord {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.compared
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.troubles.note(view.now, &view.l3, view.agents_stand_still);
        // What an agent knew may be above what the reference has: it is looked at when the reference is there.
        while let Some(record) = view.history.records.get(self.seen) {
            if newest_revision(record) > view.oracle.revision() {
                return Ok(());
            }
            self.seen += 1;
            self.look(record, view.oracle)?;
        }
        Ok(())
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

/// The newest revision that an agent's answer names.
fn newest_revision(record: &Record) -> Revision {
    match &record.result {
        Outcome::Found { revision, .. } => *revision,
        Outcome::Got { pages } => pages.iter().map(|page| page.revision).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{looked_up, record};
    use crate::oracle::tests::{Log, key};

    /// A client's lookup that found the pages, and its get of them that missed the last one.
    fn word(numbers: &[u64], revision: Revision, from_ms: u64, reason: &str) -> [Record; 2] {
        let present = vec![true; numbers.len()];
        let mut lookup = looked_up(numbers, revision, &present, false, (from_ms, from_ms + 1));
        if let Call::Lookup { at, .. } = &mut lookup.call {
            *at = Target::Agent;
        }
        let keys: Vec<PageKey> = numbers.iter().map(|number| key(*number)).collect();
        let page = |(index, key): (usize, &PageKey)| {
            let hit = index + 1 < keys.len();
            let reason = if hit { String::new() } else { reason.to_owned() };
            GotPage { key: *key, hit, tier: 3, revision, reason, shards: Ok(vec![1]) }
        };
        let pages = keys.iter().enumerate().map(page).collect();
        let call = Call::Get { namespace: 1, keys: keys.clone(), bypass_cache: false };
        let mut get = record(2, (from_ms + 2, from_ms + 3), call, Outcome::Got { pages });
        (lookup.agent, lookup.agent_incarnation, get.agent) = (Some(1), 1, Some(1));
        [lookup, get]
    }

    fn looks(checks: &mut LookupKeepsItsWord, log: &Log, records: &[Record]) -> Result<(), Violation> {
        records.iter().try_for_each(|record| checks.look(record, &log.oracle))
    }

    #[test]
    fn a_page_that_was_counted_and_not_given_needs_a_reason() {
        let mut log = Log::new(4);
        let slot = log.put(1);
        log.put(2);
        let revision = log.revision();
        let broken = |log: &Log, reason: &str| {
            let mut checks = LookupKeepsItsWord::default();
            looks(&mut checks, log, &word(&[2, 1], revision, 10_000, reason)).is_err()
        };
        assert!(["absent", "checksum", "read_failed", "breaker_open", "no_room"].iter().all(|why| broken(&log, why)));
        assert!(looks(&mut LookupKeepsItsWord::default(), &log, &word(&[2, 1], revision, 1, "absent")[1..]).is_ok());
        log.retire(1, slot);
        assert!(!broken(&log, "absent"), "it left the index");
    }

    #[test]
    fn what_happened_to_l3_explains_a_miss_for_a_while() {
        let mut log = Log::new(4);
        log.put(1);
        let broken = |counts: L3Counts, at_ms: u64, reason: &str| {
            let mut checks = LookupKeepsItsWord::default();
            checks.troubles.note(SimTime::from_millis(at_ms), &counts, false);
            looks(&mut checks, &log, &word(&[1], log.revision(), 10_000, reason)).is_err()
        };
        let (torn, errors) =
            (L3Counts { torn: 1, ..L3Counts::default() }, L3Counts { errors: 1, ..L3Counts::default() });
        assert!(!broken(errors, 9_000, "read_failed") && broken(errors, 5_000, "read_failed"));
        assert!(!broken(torn, 1, "checksum") && broken(torn, 9_000, "read_failed"));
        let mut checks = LookupKeepsItsWord::default();
        checks.troubles.note(SimTime::from_millis(9_000), &L3Counts::default(), true);
        assert!(looks(&mut checks, &log, &word(&[1], log.revision(), 10_000, "deadline")).is_ok());
    }

    #[test]
    fn what_l3_would_not_give_is_not_counted_again_at_once() {
        let mut log = Log::new(4);
        log.put(1);
        let errors = L3Counts { errors: 1, ..L3Counts::default() };
        let broken = |later_ms: u64, reason: &str| {
            let mut checks = LookupKeepsItsWord::default();
            checks.troubles.note(SimTime::from_millis(10_000), &errors, false);
            looks(&mut checks, &log, &word(&[1], log.revision(), 10_000, "read_failed")).expect("the first time");
            looks(&mut checks, &log, &word(&[1], log.revision(), 10_000 + later_ms, reason)).is_err()
        };
        assert!(broken(100, "read_failed") && broken(100, "breaker_open"));
        assert!(!broken(100, "deadline") && !broken(1_000, "read_failed"));
    }
}
