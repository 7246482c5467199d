//! `one-page-one-key`: a page of a page file is given to one key at a time: to none while it is reserved, confirmed or
//! rests, but for a victim that the leader of that very term named.
//!
//! The state checks itself (`state::invariants`); this ledger knows pages only from commands and outcomes, and rests
//! only from the cluster's settings. A reservation ends for want of news only when its time has passed since its writer
//! asked, by the world's clock.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_meta::state::hf3fs::{FileId, PageIndex};
use foreword_proto::{EntryKey, Revision};

use super::page_ledger::{Change, How, NAME, PageChange, PageLedger};
use super::{Invariant, View, Violation, ensure};
use crate::history::{PageAnswer, PageAsk, PageCall};
use crate::workload::page_files::surely_until;
use crate::world::context::SimTime;

/// Follows every entry.
#[derive(Debug, Default)]
pub struct OnePageOneKey {
    ledger: PageLedger,
    seen: Revision,
    /// When the reservation of each page was last seen to end for want of news.
    expired: BTreeMap<(FileId, PageIndex), (EntryKey, SimTime)>,
    /// When the last answered reserve was sent that gave each page.
    heard: BTreeMap<(FileId, PageIndex), (EntryKey, SimTime)>,
    calls: usize,
    changes: u64,
}

impl OnePageOneKey {
    /// A page that was given in answer to a request is not taken back for want of news before its time: whichever is
    /// seen first.
    fn reservation_lasts(&self, page: (FileId, PageIndex), reservation: Duration) -> Result<(), Violation> {
        let (Some((of, ended)), Some((key, sent))) = (self.expired.get(&page), self.heard.get(&page)) else {
            return Ok(());
        };
        let early = of == key && sent <= ended && *ended < surely_until(*sent, reservation.as_millis() as u64);
        ensure(NAME, !early, || {
            format!("the reservation of {page:?} for {key:?}, asked for at {sent}, ended at {ended} for want of news")
        })
    }

    fn follow_calls(&mut self, calls: &[PageCall], reservation: Duration) -> Result<(), Violation> {
        while let Some(call) = calls.get(self.calls) {
            self.calls += 1;
            let (PageAsk::Reserve { keys }, PageAnswer::Reserved(pages)) = (&call.asked, &call.answer) else {
                continue;
            };
            let Some(file) = self.ledger.id_of(&call.file) else { continue };
            for (key, (written, page)) in keys.iter().zip(pages) {
                let (false, Some(page)) = (*written, *page) else { continue };
                let heard = self.heard.entry((file, page)).or_insert((key.entry, call.sent));
                if heard.1 <= call.sent {
                    *heard = (key.entry, call.sent);
                }
                self.reservation_lasts((file, page), reservation)?;
            }
        }
        Ok(())
    }
}

impl Invariant for OnePageOneKey {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.changes
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for entry in view.oracle.entries_after(self.seen) {
            self.seen = entry.revision;
            let term = view.oracle.log_id_at(entry.revision).map_or(0, |log_id| log_id.leader_id.term);
            let changes = self.ledger.follow(entry, term, &view.settings.cluster)?;
            self.changes += changes.len() as u64;
            for PageChange { file, page, change } in changes {
                if let Change::Taken { how: How::Expired, key } = change {
                    self.expired.insert((file, page), (key, view.now));
                    self.reservation_lasts((file, page), view.settings.reservation)?;
                }
            }
        }
        self.follow_calls(&view.history.page_files.calls, view.settings.reservation)
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foreword_meta::state::hf3fs::Hf3fsOperation;

    use super::super::page_ledger::tests::{log, name, on, reserve};
    use super::super::testing::view;
    use super::super::tests::settings;
    use super::*;
    use crate::history::{History, PageName};
    use crate::oracle::tests::key;

    fn asked(sent_ms: u64) -> PageCall {
        PageCall {
            client: 1,
            server: 0,
            file: Arc::new(name()),
            invoked: SimTime::from_millis(sent_ms),
            sent: SimTime::from_millis(sent_ms),
            returned: SimTime::from_millis(sent_ms + 5),
            asked: PageAsk::Reserve { keys: vec![PageName { text: "k".into(), entry: key(1).entry() }] },
            answer: PageAnswer::Reserved(vec![(false, Some(1))]),
        }
    }

    #[test]
    fn a_reservation_that_ends_early_is_found_whichever_is_seen_first() {
        for (ends_ms, early) in [(700, true), (1_100, false)] {
            for told_first in [true, false] {
                let (mut log, mut history, settings) = (log(2), History::default(), settings());
                let mut check = OnePageOneKey::default();
                log.tick(1_000);
                reserve(&mut log, &[1], &[]);
                if told_first {
                    history.page_files.calls.push(asked(100));
                }
                check.observe(&view(&log.oracle, &history, &settings, 110)).unwrap();
                log.tick(3_000);
                log.entry(&[on(Hf3fsOperation::Expire { unheard_ms: 1_000, pages_max: 9 })]);
                let ended = check.observe(&view(&log.oracle, &history, &settings, ends_ms));
                assert_eq!(ended.is_err(), early && told_first, "{ended:?}");
                history.page_files.calls = vec![asked(100)];
                check.calls = 0;
                let told = check.observe(&view(&log.oracle, &history, &settings, ends_ms + 1));
                assert_eq!(told.is_err(), early, "{told:?}");
            }
        }
    }
}
