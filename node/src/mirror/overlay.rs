//! Own acknowledged publishes that the mirror has not seen yet.

use std::collections::BTreeMap;

use foreword_proto::buckets::spread;
use foreword_proto::{EntryKey, Location, Revision};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Pages kept at most; beyond that the oldest are left out, and are misses until the mirror has them.
pub const OVERLAY_PAGES_MAX: usize = 1 << 20;

#[derive(Debug, Clone)]
struct Own {
    key: EntryKey,
    revision: Revision,
    location: Location,
}

/// Pages by the revision that published them, which is above the mirror's.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// Never iterated.
    pages: HashTable<Own>,
    by_revision: BTreeMap<Revision, Vec<EntryKey>>,
}

impl Overlay {
    /// A page that was published at a revision the mirror has not reached.
    pub fn insert(&mut self, key: EntryKey, revision: Revision, location: Location) {
        let own = Own { key, revision, location };
        match self.pages.entry(spread(&key), |page| page.key == key, |page| spread(&page.key)) {
            Entry::Occupied(mut page) => *page.get_mut() = own,
            Entry::Vacant(place) => drop(place.insert(own)),
        }
        self.by_revision.entry(revision).or_default().push(key);
        while self.pages.len() > OVERLAY_PAGES_MAX {
            let Some((oldest, _)) = self.by_revision.first_key_value() else { break };
            self.reached(*oldest);
        }
    }

    /// The mirror has this revision now: what was published up to it is the table's to say.
    pub fn reached(&mut self, revision: Revision) {
        while let Some(first) = self.by_revision.first_entry() {
            if *first.key() > revision {
                break;
            }
            let (published, keys) = first.remove_entry();
            for key in keys {
                if let Ok(page) =
                    self.pages.find_entry(spread(&key), |page| page.key == key && page.revision == published)
                {
                    page.remove();
                }
            }
        }
    }

    fn find(&self, key: &EntryKey) -> Option<&Own> {
        self.pages.find(spread(key), |page| page.key == *key)
    }

    /// Forgets everything: the namespace was cleared.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The page's location, if it is here.
    pub fn get(&self, key: &EntryKey) -> Option<&Location> {
        self.find(key).map(|page| &page.location)
    }

    /// The revision that published the page, if it is here.
    pub fn revision(&self, key: &EntryKey) -> Option<Revision> {
        self.find(key).map(|page| page.revision)
    }

    /// Pages in the overlay.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}
