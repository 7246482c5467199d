//! One page file: what can be asked of it, and the moves of a page that operations are made of.

use std::ops::Range;
use std::sync::Arc;

use foreword_proto::EntryKey;

use super::command::{FileName, PageIndex};
use super::dues::Dues;
use super::lists::ListName;
use super::places::Places;
use super::table::{Record, Table};
use super::{FileCounts, PageUse, Presence};
use crate::state::codec::record;
use crate::state::digest::{Fields, Sums};

/// What a file has counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::state) struct Counters {
    pub(in crate::state) evicted: u64,
    pub(in crate::state) expired: u64,
    pub(in crate::state) no_page: u64,
    pub(in crate::state) ignored_confirms: u64,
    pub(in crate::state) ignored_releases: u64,
}

record!(Counters { evicted, expired, no_page, ignored_confirms, ignored_releases });

impl Counters {
    pub(super) fn all(&self) -> [u64; 5] {
        let Self { evicted, expired, no_page, ignored_confirms, ignored_releases } = *self;
        [evicted, expired, no_page, ignored_confirms, ignored_releases]
    }
}

/// What is known of a file beside its pages' records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) name: Arc<FileName>,
    pub(super) pages: u32,
    sequence: u64,
    never_used: PageIndex,
    never_held: PageIndex,
    cleared: (PageIndex, PageIndex),
    cleared_from_ms: u64,
    counters: Counters,
}

record!(Head { name, pages, sequence, never_used, never_held, cleared, cleared_from_ms, counters });

impl Head {
    /// True if its numbers are within the file and fit each other.
    pub(super) fn is_sound(&self) -> bool {
        let (pages, (start, end)) = (self.pages, self.cleared);
        let within = self.never_used <= pages && self.never_held <= pages && start <= end && end <= pages;
        within && (start == end || start >= self.never_used)
    }
}

/// Records and keys that nothing refers to any more.
#[derive(Debug, Clone)]
pub(super) struct Remains {
    table: Table,
    places: Places,
}

impl Remains {
    /// Lets go of a part; false when nothing is left.
    pub(super) fn drop_some(&mut self) -> bool {
        let tables_left = self.table.drop_some();
        let places_left = self.places.drop_some();
        tables_left || places_left
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.table.heap_bytes() + self.places.heap_bytes()
    }
}

/// One page file.
#[derive(Debug, Clone)]
pub struct File {
    name: Arc<FileName>,
    pages: u32,
    pub(super) table: Table,
    pub(super) places: Places,
    /// The deadlines of the list of resting pages; not of the state itself, it follows from the list.
    pub(super) dues: Dues,
    /// The next use of a confirmed page.
    pub(super) sequence: u64,
    /// Pages below this one were never used; they are given out from the top.
    pub(super) never_used: PageIndex,
    /// What a clear or an import made of the rest: those of them that nobody holds are given out, from the top.
    pub(super) cleared: Range<PageIndex>,
    pub(super) cleared_from_ms: u64,
    /// Pages below this one that nobody holds were never held: another server's pages may be there.
    pub(super) never_held: PageIndex,
    /// What the last clear left, as far as it was not let go of yet; not of the state itself.
    left_over: Option<Remains>,
    pub(super) counters: Counters,
}

impl File {
    pub(super) fn new(name: FileName, pages: u32) -> Self {
        Self {
            name: Arc::new(name),
            pages,
            table: Table::default(),
            places: Places::new(pages),
            dues: Dues::default(),
            sequence: 0,
            never_used: pages,
            cleared: 0..0,
            cleared_from_ms: 0,
            never_held: pages,
            left_over: None,
            counters: Counters::default(),
        }
    }

    /// A file whose pages may all be in use, until `due_ms`.
    pub(super) fn resting(name: FileName, pages: u32, due_ms: u64) -> Self {
        let mut file = Self::new(name, pages);
        file.rest_cleared(0, due_ms);
        file.never_held = 0;
        file
    }

    /// When the last page that rests now may be given out, at the latest.
    pub(super) fn rests_until_ms(&self) -> u64 {
        let last_ms = self.table.tail(ListName::Resting).map_or(0, |(_, record)| record.stamp);
        last_ms.max(self.cleared_from_ms)
    }

    /// What is to be let go of it by and by.
    pub(super) fn into_remains(self) -> Remains {
        Remains { table: self.table, places: self.places }
    }

    /// What it is called.
    pub fn name(&self) -> &FileName {
        &self.name
    }

    /// Its pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// What a key has.
    pub fn presence(&self, key: &EntryKey) -> Presence {
        match self.find(key) {
            Some((index, record)) if record.is_confirmed() => Presence::Confirmed(index),
            Some((index, _)) => Presence::Reserved(index),
            None => Presence::Absent,
        }
    }

    /// What each of these keys has, in order; the same as [`Self::presence`] of each, and faster.
    pub fn presences(&self, keys: &[EntryKey]) -> Vec<Presence> {
        let mut presences = Vec::with_capacity(keys.len());
        self.places.find_each(keys, &self.table, |index| {
            presences.push(match index {
                Some(index) if self.table.get(index).is_confirmed() => Presence::Confirmed(index),
                Some(index) => Presence::Reserved(index),
                None => Presence::Absent,
            });
        });
        presences
    }

    /// What a page is used for; None beyond the file's end.
    pub fn page(&self, index: PageIndex) -> Option<PageUse> {
        if index >= self.pages {
            return None;
        }
        let Record { key, stamp, list, .. } = self.table.get(index);
        Some(match list {
            None if index < self.never_used => PageUse::Unused,
            None => PageUse::Resting { due_ms: self.cleared_from_ms },
            Some(ListName::Reserved) => PageUse::Reserved { key, heard_ms: stamp },
            Some(ListName::Written | ListName::Read) => PageUse::Confirmed { key },
            Some(ListName::Resting) => PageUse::Resting { due_ms: stamp },
        })
    }

    /// Pages that a reserve at `tick_ms` can have without an eviction.
    pub fn room(&self, tick_ms: u64) -> u64 {
        let cleared = if self.cleared_from_ms <= tick_ms { self.cleared_pages() } else { 0 };
        self.dues.due(tick_ms) + u64::from(cleared) + u64::from(self.never_used)
    }

    /// Up to `count` confirmed pages for which `may_go`, the least recently used first. Gives up after looking at
    /// `skips_max` pages that may not go in each of the two queues (pages last read, pages last written).
    pub fn victims(&self, count: usize, skips_max: usize, mut may_go: impl FnMut(PageIndex) -> bool) -> Vec<PageIndex> {
        let mut victims = Vec::new();
        let mut queues = [ListName::Written, ListName::Read].map(|list| (self.table.list(list, None).peekable(), 0));
        while victims.len() < count {
            let stamps = queues.each_mut().map(|(queue, skips)| {
                let head = queue.peek().filter(|_| *skips < skips_max.max(1));
                head.map_or(u64::MAX, |(_, record)| record.stamp)
            });
            let oldest = usize::from(stamps[1] < stamps[0]);
            if stamps[oldest] == u64::MAX {
                break;
            }
            let (queue, skips) = &mut queues[oldest];
            match queue.next() {
                Some((index, _)) if may_go(index) => victims.push(index),
                _ => *skips += 1,
            }
        }
        victims
    }

    /// When the reservation that was heard of longest ago was last heard of.
    pub fn oldest_reservation_ms(&self) -> Option<u64> {
        self.table.head(ListName::Reserved).map(|(_, record)| record.stamp)
    }

    /// Its pages by use, and its counters.
    pub fn counts(&self) -> FileCounts {
        let of = |list| u64::from(self.table.ends(list).pages);
        FileCounts {
            confirmed: of(ListName::Written) + of(ListName::Read),
            reserved: of(ListName::Reserved),
            resting: of(ListName::Resting) + u64::from(self.cleared_pages()),
            unused: self.never_used.into(),
            evicted: self.counters.evicted,
            expired: self.counters.expired,
            no_page: self.counters.no_page,
            ignored_confirms: self.counters.ignored_confirms,
            ignored_releases: self.counters.ignored_releases,
        }
    }

    /// The page of a key, with its record.
    pub(super) fn find(&self, key: &EntryKey) -> Option<(PageIndex, Record)> {
        self.places.find(key, &self.table).map(|index| (index, self.table.get(index)))
    }

    /// Pages of a clear or an import that nobody holds.
    pub(super) fn cleared_pages(&self) -> u32 {
        self.pages - self.never_used - self.table.held()
    }

    /// The stamp of the next use.
    fn next_use(&mut self) -> u64 {
        let stamp = self.sequence;
        self.sequence = stamp.saturating_add(1);
        stamp
    }

    /// Gives a page that nobody holds to a key that has none.
    pub(super) fn hold(&mut self, list: ListName, index: PageIndex, key: EntryKey, stamp: u64) {
        self.table.push(list, index, key, stamp);
        self.places.insert(&key, index, &self.table);
    }

    /// A confirmed page is used, by a reader or a writer: it is the most recently used one of that list.
    pub(super) fn used(&mut self, list: ListName, index: PageIndex) {
        let stamp = self.next_use();
        self.table.move_to(list, index, stamp);
    }

    /// A page that nobody holds is confirmed at once, for a key that has none.
    pub(super) fn hold_confirmed(&mut self, index: PageIndex, key: EntryKey) {
        let stamp = self.next_use();
        self.hold(ListName::Written, index, key, stamp);
    }

    /// Takes a page from its key; nobody holds it then.
    pub(super) fn forget(&mut self, index: PageIndex) {
        let key = self.table.get(index).key;
        self.places.remove(&key, index);
        self.table.take(index);
    }

    /// Takes a page from its key and puts it to rest. `tick_ms` is now.
    pub(super) fn rest(&mut self, index: PageIndex, rest_ms: u64, tick_ms: u64) {
        self.forget(index);
        let last_ms = self.table.tail(ListName::Resting).map_or(0, |(_, record)| record.stamp);
        let due_ms = tick_ms.saturating_add(rest_ms).max(last_ms);
        self.push_resting(index, due_ms, tick_ms);
    }

    /// A page that nobody holds rests, after those that rest by now.
    pub(super) fn push_resting(&mut self, index: PageIndex, due_ms: u64, tick_ms: u64) {
        self.table.push(ListName::Resting, index, EntryKey([0; 16]), due_ms);
        self.dues.push(due_ms, tick_ms);
    }

    /// A page that nobody holds and that may be given out now; None when there is none left.
    pub(super) fn take_unheld(&mut self, tick_ms: u64) -> Option<PageIndex> {
        if let Some((index, record)) = self.table.head(ListName::Resting)
            && record.stamp <= tick_ms
        {
            self.table.take(index);
            self.dues.pop();
            return Some(index);
        }
        if self.cleared_from_ms <= tick_ms
            && self.cleared_pages() > 0
            && let Some(index) = self.table.last_free(self.cleared.clone())
        {
            self.cleared.end = index;
            return Some(index);
        }
        self.never_used = self.never_used.checked_sub(1)?;
        Some(self.never_used)
    }

    /// Everything is as in a file whose pages all rest until `due_ms`, except those that were never used.
    pub(super) fn clear(&mut self, due_ms: u64) {
        let resting_ms = self.table.tail(ListName::Resting).map_or(0, |(_, record)| record.stamp);
        self.rest_cleared(self.never_used, due_ms.max(resting_ms));
        self.never_held = self.never_held.min(self.never_used);
        let table = std::mem::take(&mut self.table);
        let places = std::mem::replace(&mut self.places, Places::new(self.pages));
        // The smaller of two goes at once: a file that is cleared twice in a row has little in it the second time.
        if self.left_over.as_ref().is_none_or(|before| before.table.held() <= table.held()) {
            self.left_over = Some(Remains { table, places });
        }
        self.dues = Dues::default();
    }

    /// Lets go of a part of what a clear left: all of a large file at once would take tens of milliseconds.
    pub(super) fn let_go_of_some(&mut self) {
        if self.left_over.as_mut().is_some_and(|remains| !remains.drop_some()) {
            self.left_over = None;
        }
    }

    /// What nobody holds from `start` on rests until `due_ms`, or until what was cleared before may be used if that is
    /// later.
    pub(super) fn rest_cleared(&mut self, start: PageIndex, due_ms: u64) {
        self.cleared_from_ms = self.cleared_from_ms.max(due_ms);
        self.cleared = start..self.pages;
        self.never_used = start;
    }

    /// All but its records.
    pub(super) fn head(&self) -> Head {
        let Self {
            name,
            pages,
            table: _,
            places: _,
            dues: _,
            sequence,
            never_used,
            cleared,
            cleared_from_ms,
            never_held,
            left_over: _,
            counters,
        } = self;
        Head {
            name: Arc::clone(name),
            pages: *pages,
            sequence: *sequence,
            never_used: *never_used,
            never_held: *never_held,
            cleared: (cleared.start, cleared.end),
            cleared_from_ms: *cleared_from_ms,
            counters: *counters,
        }
    }

    /// A file with this head and no record yet.
    pub(super) fn of_head(head: Head) -> Self {
        let Head { name, pages, sequence, never_used, never_held, cleared, cleared_from_ms, counters } = head;
        let empty = Self::new(Arc::unwrap_or_clone(name), pages);
        Self { sequence, never_used, never_held, cleared: cleared.0..cleared.1, cleared_from_ms, counters, ..empty }
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let records = match sums {
            Sums::Kept => self.table.digest,
            Sums::FromScratch => self.table.digest_from_scratch(),
        };
        fields.add(self.head()).add_all(self.table.lists.iter()).add(records);
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let name_bytes = size_of::<FileName>() + self.name.deployment.len() + self.name.pool.len();
        let left_bytes = self.left_over.as_ref().map_or(0, Remains::heap_bytes);
        name_bytes + self.table.heap_bytes() + self.places.heap_bytes() + self.dues.heap_bytes() + left_bytes
    }
}
