//! Own acknowledged publishes that the mirror has not seen yet.

use std::collections::BTreeMap;

use foreword_proto::{EntryKey, Location, Revision};

/// Pages kept at most; beyond that the oldest are left out, and are misses until the mirror has them.
pub const OVERLAY_PAGES_MAX: usize = 1 << 20;

/// Pages by the revision that published them, which is above the mirror's.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    pages: BTreeMap<EntryKey, (Revision, Location)>,
    by_revision: BTreeMap<Revision, Vec<EntryKey>>,
}

impl Overlay {
    /// A page that was published at a revision the mirror has not reached.
    pub fn insert(&mut self, key: EntryKey, revision: Revision, location: Location) {
        self.pages.insert(key, (revision, location));
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
                if self.pages.get(&key).is_some_and(|(at, _)| *at == published) {
                    self.pages.remove(&key);
                }
            }
        }
    }

    /// Forgets everything: the namespace was cleared.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The page's location, if it is here.
    pub fn get(&self, key: &EntryKey) -> Option<&Location> {
        self.pages.get(key).map(|(_, location)| location)
    }

    /// The revision that published the page, if it is here.
    pub fn revision(&self, key: &EntryKey) -> Option<Revision> {
        self.pages.get(key).map(|(revision, _)| *revision)
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
