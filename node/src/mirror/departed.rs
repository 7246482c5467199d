//! Where pages were that were evicted lately: a lookup may have counted them just before, and their slots rest.
//!
//! What a lookup counted is to be deliverable for some seconds: an engine may have told another that it need not
//! compute those pages. An evicted page's bytes stay as they are while its slot rests; whether they still are its
//! bytes, the checksum says. Nothing is kept of pages that were deleted, cleared or found bad.

use std::mem;

use foreword_proto::{EntryKey, Location, Revision};
use hashbrown::HashMap;

/// Pages remembered of each of two spans of time, at most: about 3 MiB. What is evicted beyond that is not there any
/// more.
pub const DEPARTED_PAGES_MAX: usize = 32_768;

/// Evicted pages of the present span of time and of the one before it.
#[derive(Debug, Default)]
pub struct Departed {
    newer: HashMap<EntryKey, (Revision, Location)>,
    older: HashMap<EntryKey, (Revision, Location)>,
}

impl Departed {
    /// A page was evicted, at this revision.
    pub fn add(&mut self, revision: Revision, key: EntryKey, location: Location) {
        if self.newer.len() < DEPARTED_PAGES_MAX {
            self.newer.insert(key, (revision, location));
        }
    }

    /// Where the page was, for who wants nothing later than what was known when it was evicted.
    pub fn get(&self, key: &EntryKey, min_revision: Revision) -> Option<Location> {
        if self.newer.is_empty() && self.older.is_empty() {
            return None;
        }
        let (revision, location) = self.newer.get(key).or_else(|| self.older.get(key))?;
        (min_revision <= *revision).then(|| location.clone())
    }

    /// The page was deleted, or is bad.
    pub fn remove(&mut self, key: &EntryKey) {
        self.newer.remove(key);
        self.older.remove(key);
    }

    /// A span of time is over. Answers with what is forgotten, to be let go of.
    #[must_use]
    pub fn turn(&mut self) -> impl Sized + use<> {
        mem::replace(&mut self.older, mem::take(&mut self.newer))
    }

    /// The namespace was cleared.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::SlotRef;
    use foreword_proto::location::Checksums;

    use super::*;

    const KEY: EntryKey = EntryKey([1; 16]);

    fn at(slot: u32) -> Location {
        Location { slot: SlotRef { slab: 1, slot, generation: 1 }, checksums: Checksums::new(&[7]) }
    }

    #[test]
    fn a_page_is_remembered_for_one_span_of_time_at_least_and_two_at_most() {
        let mut departed = Departed::default();
        departed.add(5, KEY, at(3));
        assert_eq!(departed.get(&KEY, 0), Some(at(3)));
        drop(departed.turn());
        assert_eq!(departed.get(&KEY, 5), Some(at(3)));
        assert_eq!(departed.get(&KEY, 6), None, "it may have been deleted since");
        departed.add(9, KEY, at(4));
        drop(departed.turn());
        assert_eq!(departed.get(&KEY, 9), Some(at(4)));
        drop(departed.turn());
        assert_eq!(departed.get(&KEY, 0), None);
    }

    #[test]
    fn what_is_bad_or_cleared_is_forgotten_and_there_is_a_limit() {
        let mut departed = Departed::default();
        departed.add(1, KEY, at(3));
        departed.remove(&KEY);
        assert_eq!(departed.get(&KEY, 0), None);
        for page in 0..=DEPARTED_PAGES_MAX as u64 {
            departed.add(1, EntryKey(u128::from(page).to_le_bytes()), at(1));
        }
        assert_eq!(departed.newer.len(), DEPARTED_PAGES_MAX);
        departed.clear();
        assert!(departed.newer.is_empty());
    }
}
