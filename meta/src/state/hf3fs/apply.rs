//! The operations on one page file.

use foreword_proto::EntryKey;

use super::command::{Hf3fsOperation, Hf3fsOutcome, PageIndex, Reserved};
use super::file::File;
use super::lists::ListName;
use crate::state::moment::Moment;

/// When a rest of `rest_ms`, or of the cluster's `write_rest` if that is longer, is over.
pub(super) fn due_ms(rest_ms: u64, at: Moment<'_>) -> u64 {
    at.tick_ms.saturating_add(rest_ms.max(at.settings.write_rest_ms))
}

impl File {
    /// Applies one operation. Anything may be in it: what does not fit is ignored, and said so in the outcome.
    pub(super) fn apply(&mut self, touched: &[PageIndex], operation: &Hf3fsOperation, at: Moment<'_>) -> Hf3fsOutcome {
        self.let_go_of_some();
        for index in touched {
            if self.table.get(*index).is_confirmed() {
                self.used(ListName::Read, *index);
            }
        }
        match operation {
            Hf3fsOperation::Reserve { term, keys, victims } => {
                let victims = if *term == at.term.number { &victims[..] } else { &[] };
                Hf3fsOutcome::Reserved { pages: self.reserve(keys, victims, at.tick_ms) }
            }
            Hf3fsOperation::Confirm { written, released } => self.confirm(written, released, at),
            Hf3fsOperation::Delete { keys, rest_ms } => self.delete(keys, *rest_ms, at),
            Hf3fsOperation::Clear { rest_ms } => {
                self.clear(due_ms(*rest_ms, at));
                Hf3fsOutcome::Cleared
            }
            Hf3fsOperation::Touch => Hf3fsOutcome::Touched,
            Hf3fsOperation::Expire { unheard_ms, pages_max } => self.expire(*unheard_ms, *pages_max, at),
            Hf3fsOperation::Import { entries, rest_ms } => self.import(entries, *rest_ms, at),
        }
    }

    fn reserve(&mut self, keys: &[EntryKey], victims: &[PageIndex], tick_ms: u64) -> Vec<Reserved> {
        // Pages answered `Existing` have a later stamp than this: they are no victims.
        let begun = self.sequence;
        let mut absent = Vec::new();
        let mut pages: Vec<Reserved> = Vec::with_capacity(keys.len());
        for (position, key) in keys.iter().enumerate() {
            pages.push(match self.find(key) {
                Some((index, record)) if record.is_confirmed() => {
                    self.used_by_writer(index);
                    Reserved::Existing(index)
                }
                Some((index, _)) => {
                    self.table.move_to(ListName::Reserved, index, tick_ms);
                    Reserved::Page(index)
                }
                None => {
                    absent.push(position);
                    Reserved::NoPage
                }
            });
        }
        let mut victims = victims.iter().copied();
        for position in absent {
            let key = keys[position];
            // It may be in the batch twice.
            let before = self.find(&key).map(|(index, _)| index);
            let index = before.or_else(|| self.reserve_one(key, begun, &mut victims, tick_ms));
            self.counters.no_page = self.counters.no_page.saturating_add(index.is_none().into());
            pages[position] = index.map_or(Reserved::NoPage, Reserved::Page);
        }
        pages
    }

    /// Finds a page for a key that has none.
    fn reserve_one(
        &mut self,
        key: EntryKey,
        begun: u64,
        victims: &mut impl Iterator<Item = PageIndex>,
        tick_ms: u64,
    ) -> Option<PageIndex> {
        let index = self.take_unheld(tick_ms).or_else(|| self.evict(begun, victims))?;
        self.hold(ListName::Reserved, index, key, tick_ms);
        Some(index)
    }

    /// The next victim that is one: confirmed, and not used since the reserve began.
    fn evict(&mut self, begun: u64, victims: &mut impl Iterator<Item = PageIndex>) -> Option<PageIndex> {
        let index = victims.find(|index| {
            let record = self.table.get(*index);
            record.is_confirmed() && record.stamp < begun
        })?;
        self.forget(index);
        self.counters.evicted = self.counters.evicted.saturating_add(1);
        Some(index)
    }

    /// A writer asked for a confirmed page or confirmed it again. One that was last read stays among those: it may be
    /// protected, and protected pages are few in the other list.
    fn used_by_writer(&mut self, index: PageIndex) {
        if let Some(list) = self.table.get(index).list {
            self.used(list, index);
        }
    }

    fn confirm(&mut self, written: &[(EntryKey, PageIndex)], released: &[PageIndex], at: Moment<'_>) -> Hf3fsOutcome {
        let (mut ignored_confirms, mut ignored_releases) = (0, 0);
        for (key, index) in written {
            let record = self.table.get(*index);
            match record.list {
                Some(ListName::Reserved) if record.key == *key => self.used(ListName::Written, *index),
                Some(ListName::Written | ListName::Read) if record.key == *key => self.used_by_writer(*index),
                _ => ignored_confirms += 1,
            }
        }
        for index in released {
            match self.table.get(*index).list {
                Some(ListName::Reserved) => self.rest(*index, at.settings.write_rest_ms, at.tick_ms),
                _ => ignored_releases += 1,
            }
        }
        let counters = &mut self.counters;
        counters.ignored_confirms = counters.ignored_confirms.saturating_add(ignored_confirms.into());
        counters.ignored_releases = counters.ignored_releases.saturating_add(ignored_releases.into());
        Hf3fsOutcome::Confirmed { ignored_confirms, ignored_releases }
    }

    fn delete(&mut self, keys: &[EntryKey], rest_ms: u64, at: Moment<'_>) -> Hf3fsOutcome {
        let mut pages = 0;
        for key in keys {
            if let Some((index, record)) = self.find(key)
                && record.is_confirmed()
            {
                self.rest(index, rest_ms.max(at.settings.write_rest_ms), at.tick_ms);
                pages += 1;
            }
        }
        Hf3fsOutcome::Deleted { pages }
    }

    fn expire(&mut self, unheard_ms: u64, pages_max: u32, at: Moment<'_>) -> Hf3fsOutcome {
        let due = |file: &Self| {
            let head = file.table.head(ListName::Reserved);
            head.filter(|(_, record)| record.stamp.saturating_add(unheard_ms) < at.tick_ms).map(|(index, _)| index)
        };
        let mut pages = 0;
        while pages < pages_max
            && let Some(index) = due(self)
        {
            self.rest(index, at.settings.write_rest_ms, at.tick_ms);
            pages += 1;
        }
        self.counters.expired = self.counters.expired.saturating_add(pages.into());
        Hf3fsOutcome::Expired { pages, left: due(self).is_some() }
    }

    fn import(&mut self, entries: &[(EntryKey, PageIndex)], rest_ms: u64, at: Moment<'_>) -> Hf3fsOutcome {
        let mut conflicts = 0;
        for (key, index) in entries {
            let record = self.table.get(*index);
            let unheld = record.list.is_none() && *index < self.never_held;
            if unheld && self.find(key).is_none() {
                self.hold_confirmed(*index, *key);
            } else if !record.is_confirmed() || record.key != *key {
                conflicts += 1;
            }
        }
        self.rest_cleared(0, due_ms(rest_ms, at));
        Hf3fsOutcome::Imported { conflicts }
    }
}
