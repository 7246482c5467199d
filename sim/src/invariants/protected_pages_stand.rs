//! `protected-pages-stand`: a page that a reader was told of is its key's, and stays so for the protection from the
//! moment at which the reader asked. So what it reads in that time is that key's, and whole.
//!
//! From the clients' history and from when entries were seen to be committed, which is never before they were.
//! Replicas' clocks drift, so that a little less than the protection is demanded.

use std::collections::BTreeMap;

use foreword_meta::state::hf3fs::{FileId, PageIndex};
use foreword_proto::{EntryKey, Revision};

use super::page_ledger::{Change, PageLedger};
use super::{Invariant, View, Violation, ensure};
use crate::history::{PageAnswer, PageAsk, PageCall, PageHistory, Shown};
use crate::workload::page_files::surely_until;
use crate::world::context::SimTime;

const NAME: &str = "protected-pages-stand";

/// Whose a page was, from when on: every change that was seen.
type Owners = Vec<(SimTime, Option<EntryKey>)>;

/// A reader's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Protected {
    key: EntryKey,
    client: u32,
    sent: SimTime,
    until: SimTime,
}

/// Follows gets and entries.
#[derive(Debug, Default)]
pub struct ProtectedPagesStand {
    ledger: PageLedger,
    revision: Revision,
    calls: usize,
    owners: BTreeMap<(FileId, PageIndex), Owners>,
    protected: BTreeMap<(FileId, PageIndex), Vec<Protected>>,
    wrong: usize,
    compared: u64,
}

impl ProtectedPagesStand {
    fn follow_entries(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for entry in view.oracle.entries_after(self.revision) {
            self.revision = entry.revision;
            let term = view.oracle.log_id_at(entry.revision).map_or(0, |log_id| log_id.leader_id.term);
            // What is wrong with a step by itself is another invariant's.
            let changes = self.ledger.follow(entry, term, &view.settings.cluster);
            for changed in changes.unwrap_or_default() {
                let owner = match changed.change {
                    Change::Given(key) => Some(key),
                    Change::Taken { .. } => None,
                    Change::Confirmed(_) | Change::Ignored(_) | Change::Heard(_) => continue,
                };
                self.owner_is(changed.file, changed.page, owner, view.now, entry.revision)?;
            }
        }
        Ok(())
    }

    /// A page has another owner, as seen now.
    fn owner_is(
        &mut self,
        file: FileId,
        page: PageIndex,
        owner: Option<EntryKey>,
        now: SimTime,
        revision: Revision,
    ) -> Result<(), Violation> {
        self.owners.entry((file, page)).or_default().push((now, owner));
        let (Some(owner), Some(protected)) = (owner, self.protected.get_mut(&(file, page))) else { return Ok(()) };
        protected.retain(|protected| now <= protected.until);
        let broken = protected.iter().find(|protected| protected.key != owner);
        ensure(NAME, broken.is_none(), || {
            format!(
                "revision {revision} at {now} gives page {page} of file {file} to {owner:?}; it is protected: {broken:?}"
            )
        })
    }

    fn follow_gets(&mut self, history: &PageHistory, protection_ms: u64) -> Result<(), Violation> {
        while let Some(call) = history.calls.get(self.calls) {
            self.calls += 1;
            let (PageAsk::Get { keys }, PageAnswer::Indices(pages)) = (&call.asked, &call.answer) else { continue };
            let Some(file) = self.ledger.id_of(&call.file) else { continue };
            for (key, page) in keys.iter().zip(pages) {
                if let Some(page) = page {
                    self.told(call, file, *page, key.entry, protection_ms)?;
                }
            }
        }
        Ok(())
    }

    /// A reader was told that a key has a page.
    fn told(
        &mut self,
        call: &PageCall,
        file: FileId,
        page: PageIndex,
        key: EntryKey,
        protection_ms: u64,
    ) -> Result<(), Violation> {
        self.compared += 1;
        let until = surely_until(call.sent, protection_ms);
        let protected = Protected { key, client: call.client, sent: call.sent, until };
        let owners = self.owners.get(&(file, page)).map_or(&[][..], |owners| owners);
        let (before, since) = owners.split_at(owners.partition_point(|(at, _)| *at < call.sent));
        let before = before.last().map(|(_, owner)| *owner);
        let mut was_its = before == Some(Some(key));
        let mut given = None;
        for (at, owner) in since {
            was_its |= *owner == Some(key);
            if was_its && *at <= until && owner.is_some_and(|owner| owner != key) {
                given.get_or_insert((*at, *owner));
            }
        }
        // Of a page that was never seen to change, the reference does not know yet.
        ensure(NAME, was_its || owners.is_empty(), || {
            let PageCall { client, returned, sent, file, .. } = call;
            let file = Shown(file);
            format!(
                "client {client} was told at {returned} that page {page} of {file} is {key:?}'s: since before {sent} it is {before:?}'s"
            )
        })?;
        ensure(NAME, given.is_none(), || format!("{} page {page}: given {given:?}; {protected:?}", Shown(&call.file)))?;
        self.protected.entry((file, page)).or_default().push(protected);
        Ok(())
    }

    fn follow_reads(&mut self, history: &PageHistory, protection_ms: u64) -> Result<(), Violation> {
        while let Some(wrong) = history.wrong.get(self.wrong) {
            self.wrong += 1;
            ensure(NAME, wrong.read > surely_until(wrong.sent, protection_ms), || {
                format!(
                    "client {} asked at {} and read page {} of {} for {} at {}: {}",
                    wrong.client,
                    wrong.sent,
                    wrong.page,
                    Shown(&wrong.file),
                    wrong.key.text,
                    wrong.read,
                    wrong.found
                )
            })?;
        }
        Ok(())
    }
}

impl Invariant for ProtectedPagesStand {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.compared
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        let protection_ms = view.settings.protection.as_millis() as u64;
        // What an answer told of was applied before.
        self.follow_entries(view)?;
        self.follow_gets(&view.history.page_files, protection_ms)?;
        self.follow_reads(&view.history.page_files, protection_ms)
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foreword_meta::state::hf3fs::Reserved;

    use super::super::page_ledger::tests::{confirm, log, name, reserve};
    use super::*;
    use crate::history::{PageName, WrongPage};
    use crate::oracle::tests::{Log, key};

    const PROTECTION_MS: u64 = 1_000;

    fn named(number: u64) -> PageName {
        PageName { text: "k".into(), entry: key(number).entry() }
    }

    fn told(number: u64, page: PageIndex, sent_ms: u64) -> PageCall {
        PageCall {
            client: 1,
            server: 0,
            file: Arc::new(name()),
            invoked: SimTime::from_millis(sent_ms),
            sent: SimTime::from_millis(sent_ms),
            returned: SimTime::from_millis(sent_ms + 2),
            asked: PageAsk::Get { keys: vec![named(number)] },
            answer: PageAnswer::Indices(vec![Some(page)]),
        }
    }

    /// Follows the log's entries as if they were all seen at this time.
    fn see(check: &mut ProtectedPagesStand, log: &Log, at_ms: u64) -> Result<(), Violation> {
        let settings = super::super::tests::settings();
        let history = crate::history::History::default();
        let view = super::super::testing::view(&log.oracle, &history, &settings, at_ms);
        check.follow_entries(&view)
    }

    fn asked(check: &mut ProtectedPagesStand, call: PageCall) -> Result<(), Violation> {
        check.calls = 0;
        check.follow_gets(&PageHistory { calls: vec![call], ..PageHistory::default() }, PROTECTION_MS)
    }

    #[test]
    fn a_page_given_anew_within_its_protection_is_found() {
        let mut log = log(1);
        assert_eq!(reserve(&mut log, &[1], &[]), [Reserved::Page(0)]);
        confirm(&mut log, 1, 0);
        let mut check = ProtectedPagesStand::default();
        see(&mut check, &log, 100).unwrap();
        asked(&mut check, told(1, 0, 500)).unwrap();
        reserve(&mut log, &[2], &[0]);
        let mut late = ProtectedPagesStand::default();
        assert_eq!(see(&mut check, &log, 1_400).unwrap_err().name, NAME);
        // The answer is seen after the entry.
        see(&mut late, &log, 700).unwrap();
        assert!(asked(&mut late, told(1, 0, 800)).is_err(), "it was another's by then");
        assert!(asked(&mut late, told(1, 0, 600)).is_err(), "it became another's in time");
    }

    #[test]
    fn a_protection_that_is_over_protects_nothing() {
        let mut log = log(1);
        reserve(&mut log, &[1], &[]);
        confirm(&mut log, 1, 0);
        let mut check = ProtectedPagesStand::default();
        see(&mut check, &log, 100).unwrap();
        asked(&mut check, told(1, 0, 500)).unwrap();
        reserve(&mut log, &[2], &[0]);
        see(&mut check, &log, 1_500).unwrap();
        asked(&mut check, told(2, 0, 1_600)).unwrap();
        assert_eq!(check.compared(), 2);
    }

    #[test]
    fn wrong_bytes_count_only_while_they_are_protected() {
        let read = |read_ms| {
            let (sent, read) = (SimTime::from_millis(100), SimTime::from_millis(read_ms));
            let (file, key) = (Arc::new(name()), named(1));
            let wrong = WrongPage { client: 1, file, page: 0, key, sent, read, found: "x".into() };
            let history = PageHistory { wrong: vec![wrong], ..PageHistory::default() };
            ProtectedPagesStand::default().follow_reads(&history, PROTECTION_MS)
        };
        assert_eq!(read(1_060).unwrap_err().name, NAME);
        assert_eq!(read(1_080), Ok(()));
    }
}
