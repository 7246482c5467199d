//! Four lists through the records of a file: whatever a page is used for, its list says whose turn is next.

use super::PageIndex;
use super::table::{Record, Table};
use crate::state::codec::{kinds, record};

/// No page: the end of a list.
pub(super) const NO_PAGE: PageIndex = PageIndex::MAX;

/// Which list a page is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ListName {
    /// Reserved; the one that was heard of longest ago first.
    Reserved = 1,
    /// Confirmed, and last used by a writer; the least recently used first.
    Written = 2,
    /// Confirmed, and last used by a reader; the least recently used first.
    Read = 3,
    /// Resting; the one whose time is over first is first.
    Resting = 4,
}

kinds!(ListName, "list of a page file" {
    1 => Reserved,
    2 => Written,
    3 => Read,
    4 => Resting,
});

impl ListName {
    pub(super) const ALL: [Self; 4] = [Self::Reserved, Self::Written, Self::Read, Self::Resting];

    pub(super) fn number(self) -> u8 {
        self as u8
    }
}

/// The ends of a list. Stamps never fall from its head to its tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) head: PageIndex,
    pub(super) tail: PageIndex,
    pub(super) pages: u32,
}

record!(Ends { head, tail, pages });

impl Default for Ends {
    fn default() -> Self {
        Self { head: NO_PAGE, tail: NO_PAGE, pages: 0 }
    }
}

impl Table {
    pub(super) fn ends(&self, list: ListName) -> &Ends {
        &self.lists[usize::from(list.number()) - 1]
    }

    pub(super) fn ends_mut(&mut self, list: ListName) -> &mut Ends {
        &mut self.lists[usize::from(list.number()) - 1]
    }

    /// The first page of a list and its record.
    pub(super) fn head(&self, list: ListName) -> Option<(PageIndex, Record)> {
        let head = self.ends(list).head;
        (head != NO_PAGE).then(|| (head, self.get(head)))
    }

    /// The last page of a list and its record.
    pub(super) fn tail(&self, list: ListName) -> Option<(PageIndex, Record)> {
        let tail = self.ends(list).tail;
        (tail != NO_PAGE).then(|| (tail, self.get(tail)))
    }

    /// Puts a page that is in no list at the end of one.
    pub(super) fn push(&mut self, list: ListName, index: PageIndex, key: foreword_proto::EntryKey, stamp: u64) {
        let tail = self.ends(list).tail;
        self.set(index, Record { key, stamp, prev: tail, next: NO_PAGE, list: Some(list) });
        if tail != NO_PAGE {
            self.link_mut(tail).next = index;
        }
        let ends = self.ends_mut(list);
        if tail == NO_PAGE {
            ends.head = index;
        }
        ends.tail = index;
        ends.pages += 1;
    }

    /// Takes a page out of its list; nobody holds it then. Does nothing to a page that is in none.
    pub(super) fn take(&mut self, index: PageIndex) {
        let Record { prev, next, list: Some(list), .. } = self.get(index) else { return };
        self.free(index);
        if prev != NO_PAGE {
            self.link_mut(prev).next = next;
        }
        if next != NO_PAGE {
            self.link_mut(next).prev = prev;
        }
        let ends = self.ends_mut(list);
        if prev == NO_PAGE {
            ends.head = next;
        }
        if next == NO_PAGE {
            ends.tail = prev;
        }
        ends.pages -= 1;
    }

    /// Moves a page to the end of a list, with a new stamp.
    pub(super) fn move_to(&mut self, list: ListName, index: PageIndex, stamp: u64) {
        let key = self.get(index).key;
        self.take(index);
        self.push(list, index, key, stamp);
    }

    /// The pages of a list, from its head or from a page that is in it.
    pub(super) fn list(&self, list: ListName, from: Option<PageIndex>) -> impl Iterator<Item = (PageIndex, Record)> {
        let mut at = from.unwrap_or(self.ends(list).head);
        std::iter::from_fn(move || {
            let index = (at != NO_PAGE).then_some(at)?;
            let record = self.get(index);
            at = record.next;
            Some((index, record))
        })
    }

    /// Pages that are in a list.
    pub(super) fn held(&self) -> u32 {
        self.lists.iter().map(|ends| ends.pages).sum()
    }
}
