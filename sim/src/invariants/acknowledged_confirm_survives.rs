//! `acknowledged-confirm-survives`: a confirm that was acknowledged is in the log. What it confirmed is confirmed in
//! the reference, until a delete, a clear or an eviction of a later revision; and once the world has healed every
//! replica says so.
//!
//! A confirm that fitted no reservation was acknowledged too, and confirmed nothing. That no reservation ends before
//! its time is `one-page-one-key`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_meta::state::hf3fs::{FileId, PageIndex, Presence};
use foreword_proto::{EntryKey, Revision};

use super::page_ledger::{Change, PageLedger};
use super::{Invariant, View, Violation, ensure};
use crate::history::{PageAnswer, PageAsk, PageCall, Shown};
use crate::world::context::SimTime;

const NAME: &str = "acknowledged-confirm-survives";

/// An answer to `exists` after the healing must be what the reference had for so long before the question.
const APPLIED: Duration = Duration::from_millis(300);
/// The whole reference is compared with the ledger once in so many looks.
const LOOKS_PER_COMPARISON: u64 = 50;

/// A page that was confirmed, as a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    file: FileId,
    key: EntryKey,
    page: PageIndex,
    client: u32,
    invoked: SimTime,
    returned: SimTime,
}

/// Follows confirms.
#[derive(Debug, Default)]
pub struct AcknowledgedConfirmSurvives {
    ledger: PageLedger,
    revision: Revision,
    calls: usize,
    looks: u64,
    /// When confirms of a key and page were last seen in the log, whatever came of them.
    in_log: BTreeMap<(FileId, EntryKey, PageIndex), SimTime>,
    /// When a key last got or lost a confirmed page.
    changed: BTreeMap<(FileId, EntryKey), SimTime>,
    waiting: Vec<Told>,
    compared: u64,
}

impl AcknowledgedConfirmSurvives {
    fn follow_entries(&mut self, view: &View<'_>) {
        for entry in view.oracle.entries_after(self.revision) {
            self.revision = entry.revision;
            let term = view.oracle.log_id_at(entry.revision).map_or(0, |log_id| log_id.leader_id.term);
            // What is wrong with a step by itself is another invariant's.
            let changes = self.ledger.follow(entry, term, &view.settings.cluster);
            for changed in changes.unwrap_or_default() {
                match changed.change {
                    Change::Confirmed(key) => {
                        self.in_log.insert((changed.file, key, changed.page), view.now);
                        self.changed.insert((changed.file, key), view.now);
                    }
                    Change::Ignored(key) => {
                        self.in_log.insert((changed.file, key, changed.page), view.now);
                    }
                    Change::Taken { key, .. } => {
                        self.changed.insert((changed.file, key), view.now);
                    }
                    Change::Given(_) | Change::Heard(_) => {}
                }
            }
        }
    }

    fn follow_calls(&mut self, calls: &[PageCall]) {
        while let Some(call) = calls.get(self.calls) {
            self.calls += 1;
            let (PageAsk::Confirm { written, .. }, PageAnswer::Done) = (&call.asked, &call.answer) else { continue };
            let Some(file) = self.ledger.id_of(&call.file) else { continue };
            let told = |(key, page): &(crate::history::PageName, PageIndex)| Told {
                file,
                key: key.entry,
                page: *page,
                client: call.client,
                invoked: call.invoked,
                returned: call.returned,
            };
            self.waiting.extend(written.iter().map(told));
        }
        let in_log = &self.in_log;
        let is_in_log =
            |told: &Told| in_log.get(&(told.file, told.key, told.page)).is_some_and(|at| *at >= told.invoked);
        let waiting = self.waiting.len();
        self.waiting.retain(|told| !is_in_log(told));
        self.compared += (waiting - self.waiting.len()) as u64;
    }

    /// What the ledger has confirmed, the reference has, and nothing else.
    fn reference_has_it(&self, view: &View<'_>) -> Result<(), Violation> {
        for (id, ledger) in self.ledger.files() {
            let file = view.oracle.state().hf3fs().file(id);
            let has = |key: &EntryKey| file.map(|file| file.presence(key));
            let lost = ledger.all_confirmed().find(|(key, page)| has(key) != Some(Presence::Confirmed(*page)));
            ensure(NAME, lost.is_none(), || {
                format!("file {id}: {lost:?} is confirmed, the reference has {:?}", lost.map(|(key, _)| has(&key)))
            })?;
            let (confirmed, counted) =
                (ledger.all_confirmed().count() as u64, file.map(|file| file.counts().confirmed));
            ensure(NAME, counted == Some(confirmed), || {
                format!("file {id}: {confirmed} pages are confirmed, the reference has {counted:?}")
            })?;
        }
        Ok(())
    }

    /// What a replica said after the healing is what the reference has had for a while.
    fn final_exists(&self, call: &PageCall) -> Result<(), Violation> {
        let (PageAsk::Exists { keys }, PageAnswer::Exists(found)) = (&call.asked, &call.answer) else { return Ok(()) };
        let Some((id, ledger)) = self.ledger.id_of(&call.file).and_then(|id| Some((id, self.ledger.file(id)?))) else {
            return Ok(());
        };
        for (key, found) in keys.iter().zip(found) {
            let changed = self.changed.get(&(id, key.entry));
            if changed.is_some_and(|at| *at + APPLIED > call.sent) {
                continue;
            }
            let there = ledger.confirmed(&key.entry).is_some();
            ensure(NAME, there == *found, || {
                format!(
                    "server {} says at {} of {} in {}: {found}; the reference says {there}, unchanged since {changed:?}",
                    call.server,
                    call.returned,
                    key.text,
                    Shown(&call.file)
                )
            })?;
        }
        Ok(())
    }
}

impl Invariant for AcknowledgedConfirmSurvives {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.compared
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.follow_entries(view);
        self.follow_calls(&view.history.page_files.calls);
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_PER_COMPARISON) { self.reference_has_it(view) } else { Ok(()) }
    }

    fn finish(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.reference_has_it(view)?;
        if !view.healed_for(view.settings.liveness_bound) {
            return Ok(());
        }
        ensure(NAME, self.waiting.is_empty(), || {
            format!(
                "{:?} was acknowledged, and {} more; the log has no such confirm",
                self.waiting[0],
                self.waiting.len() - 1
            )
        })?;
        let mut finals = view.history.page_files.calls.iter().filter(|call| call.is_final());
        finals.try_for_each(|call| self.final_exists(call))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::page_ledger::tests::{confirm, log, name, reserve};
    use super::super::testing::view;
    use super::super::tests::settings;
    use super::*;
    use crate::history::{History, PageName};
    use crate::oracle::tests::{Log, key};
    use crate::workload::FINAL_READER;

    fn named(number: u64) -> PageName {
        PageName { text: "k".into(), entry: key(number).entry() }
    }

    fn call(client: u32, at_ms: u64, asked: PageAsk, answer: PageAnswer) -> PageCall {
        PageCall {
            client,
            server: 0,
            file: Arc::new(name()),
            invoked: SimTime::from_millis(at_ms),
            sent: SimTime::from_millis(at_ms),
            returned: SimTime::from_millis(at_ms + 5),
            asked,
            answer,
        }
    }

    /// What is found when the log was seen at 1 s, with these calls.
    fn found(log: &Log, calls: Vec<PageCall>) -> Result<u64, Violation> {
        let (mut history, settings) = (History::default(), settings());
        history.page_files.calls = calls;
        let mut check = AcknowledgedConfirmSurvives::default();
        check.observe(&view(&log.oracle, &history, &settings, 1_000))?;
        check.finish(&view(&log.oracle, &history, &settings, 60_000))?;
        Ok(check.compared())
    }

    #[test]
    fn only_what_the_log_has_may_be_acknowledged() {
        let mut log = log(4);
        reserve(&mut log, &[1, 2], &[]);
        confirm(&mut log, 1, 3);
        confirm(&mut log, 5, 2);
        let told = |number, page| {
            let asked = PageAsk::Confirm { written: vec![(named(number), page)], released: Vec::new() };
            found(&log, vec![call(1, 900, asked, PageAnswer::Done)])
        };
        assert_eq!(told(1, 3), Ok(1));
        assert_eq!(told(5, 2), Ok(1), "in the log, and ignored");
        assert_eq!(told(2, 2).unwrap_err().name, NAME);
        let unknown = PageAsk::Confirm { written: vec![(named(2), 2)], released: Vec::new() };
        assert_eq!(found(&log, vec![call(1, 900, unknown, PageAnswer::Unknown)]), Ok(0));
    }

    #[test]
    fn a_replica_that_lost_a_confirmed_page_is_found() {
        let mut log = log(4);
        reserve(&mut log, &[1, 2], &[]);
        confirm(&mut log, 1, 3);
        let said = |answer: &[bool], client| {
            let asked = PageAsk::Exists { keys: vec![named(1), named(2)] };
            found(&log, vec![call(client, 50_000, asked, PageAnswer::Exists(answer.to_vec()))])
        };
        assert_eq!(said(&[true, false], FINAL_READER), Ok(0));
        assert_eq!(said(&[false, false], FINAL_READER).unwrap_err().name, NAME);
        assert_eq!(said(&[true, true], FINAL_READER).unwrap_err().name, NAME);
        assert_eq!(said(&[false, false], 1), Ok(0), "any replica may be behind before the end");
    }
}
