//! Which page was present when: from the events alone, without a look at the state.

use std::collections::{BTreeMap, VecDeque};

use foreword_meta::state::command::{Event, Outcome};
use foreword_proto::records::PageRecord;
use foreword_proto::{EntryKey, Epoch, Location, NamespaceId, RetireReason, Revision, SlotRef};
use xxhash_rust::xxh3::xxh3_64;

use super::REVISIONS_KEPT;

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Published(Location),
    /// It left the index, from this slot.
    Retired(SlotRef, RetireReason),
}

/// What all pages of a namespace add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamespaceSum {
    pub epoch: Epoch,
    pub pages: u64,
    /// Wrapping sum of [`hash_of_page`].
    pub sum: u64,
}

#[derive(Debug, Default)]
struct NamespaceMemory {
    keys: BTreeMap<EntryKey, Vec<(Revision, Change)>>,
    now: NamespaceSum,
    /// After the revisions that changed it, oldest first; the first may be older than what is kept, and holds until the
    /// second.
    sums: VecDeque<(Revision, NamespaceSum)>,
}

/// Every page's history, by namespace.
#[derive(Debug, Default)]
pub struct Presence {
    namespaces: BTreeMap<NamespaceId, NamespaceMemory>,
}

/// A hash of everything that a mirror holds of a page.
pub fn hash_of_page(key: &EntryKey, location: &Location) -> u64 {
    let mut bytes = [0; 28];
    bytes[..16].copy_from_slice(&key.0);
    bytes[16..20].copy_from_slice(&location.slot.slab.to_le_bytes());
    bytes[20..24].copy_from_slice(&location.slot.slot.to_le_bytes());
    bytes[24..].copy_from_slice(&location.slot.generation.to_le_bytes());
    let checksums = location.checksums.as_slice().iter();
    checksums
        .fold(xxh3_64(&bytes), |hash, checksum| (hash.rotate_left(11) ^ checksum).wrapping_mul(0x9fb2_1c65_1e98_df25))
}

impl NamespaceMemory {
    fn publish(&mut self, revision: Revision, page: &PageRecord) {
        self.now.pages += 1;
        self.now.sum = self.now.sum.wrapping_add(hash_of_page(&page.key, &page.location));
        self.keys.entry(page.key).or_default().push((revision, Change::Published(page.location.clone())));
    }

    fn retire(&mut self, revision: Revision, key: &EntryKey, slot: SlotRef, reason: RetireReason) {
        let Some(changes) = self.keys.get_mut(key) else { return };
        if let Some((_, Change::Published(location))) = changes.last() {
            self.now.pages -= 1;
            self.now.sum = self.now.sum.wrapping_sub(hash_of_page(key, location));
        }
        changes.push((revision, Change::Retired(slot, reason)));
    }

    fn clear(&mut self, revision: Revision, epoch: Epoch) {
        self.now = NamespaceSum { epoch, ..NamespaceSum::default() };
        for changes in self.keys.values_mut() {
            if let Some((_, Change::Published(location))) = changes.last() {
                let slot = location.slot;
                changes.push((revision, Change::Retired(slot, RetireReason::Cleared)));
            }
        }
    }
}

impl Presence {
    /// Follows one command of the entry `revision`.
    pub fn follow(&mut self, revision: Revision, outcome: &Outcome, events: &[Event]) {
        if let Outcome::NamespaceRegistered { namespace, epoch, .. } = outcome {
            let memory = self.namespaces.entry(*namespace).or_default();
            memory.now.epoch = memory.now.epoch.max(*epoch);
        }
        for event in events {
            match event {
                Event::Published { namespace, page } => {
                    self.namespaces.entry(*namespace).or_default().publish(revision, page);
                }
                Event::Retired { namespace, key, slot, reason } => {
                    self.namespaces.entry(*namespace).or_default().retire(revision, key, *slot, *reason);
                }
                Event::AbsentDeleted { .. } => {}
                Event::Cleared { namespace, epoch } => {
                    self.namespaces.entry(*namespace).or_default().clear(revision, *epoch);
                }
                Event::NamespaceDropped { namespace } => {
                    let memory = self.namespaces.entry(*namespace).or_default();
                    memory.clear(revision, memory.now.epoch);
                }
                Event::SessionEnded { .. } => {}
            }
        }
    }

    /// The entry is whole: what the namespaces add up to now holds after it.
    pub fn finish_entry(&mut self, revision: Revision) {
        let oldest = revision.saturating_sub(REVISIONS_KEPT as u64);
        for memory in self.namespaces.values_mut() {
            if memory.sums.back().map(|(_, sum)| *sum) != Some(memory.now) {
                memory.sums.push_back((revision, memory.now));
            }
            while memory.sums.get(1).is_some_and(|(at, _)| *at <= oldest) {
                memory.sums.pop_front();
            }
        }
    }

    /// Where a page was after a revision.
    pub fn at(&self, namespace: NamespaceId, key: &EntryKey, revision: Revision) -> Option<&Location> {
        match self.last_change(namespace, key, revision)? {
            (_, Change::Published(location)) => Some(location),
            (_, Change::Retired(..)) => None,
        }
    }

    /// The last thing that happened to a key up to a revision.
    pub fn last_change(
        &self,
        namespace: NamespaceId,
        key: &EntryKey,
        revision: Revision,
    ) -> Option<&(Revision, Change)> {
        let changes = self.changes(namespace, key);
        let upto = changes.partition_point(|(at, _)| *at <= revision);
        changes[..upto].last()
    }

    /// Everything that happened to a key, in order.
    pub fn changes(&self, namespace: NamespaceId, key: &EntryKey) -> &[(Revision, Change)] {
        self.namespaces.get(&namespace).and_then(|memory| memory.keys.get(key)).map_or(&[], |changes| &changes[..])
    }

    /// What a namespace added up to after a revision; None for one that was not registered by then, or is not
    /// remembered so far back.
    pub fn sum_at(&self, namespace: NamespaceId, revision: Revision) -> Option<NamespaceSum> {
        let sums = &self.namespaces.get(&namespace)?.sums;
        let upto = sums.partition_point(|(at, _)| *at <= revision);
        sums.get(upto.checked_sub(1)?).map(|(_, sum)| *sum)
    }

    /// All pages of a namespace after a revision: for messages, it visits every key there ever was.
    pub fn pages_at(&self, namespace: NamespaceId, revision: Revision) -> BTreeMap<EntryKey, Location> {
        let keys = self.namespaces.get(&namespace).into_iter().flat_map(|memory| memory.keys.keys());
        keys.filter_map(|key| Some((*key, self.at(namespace, key, revision)?.clone()))).collect()
    }
}
