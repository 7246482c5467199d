//! The mirror's table: entry key -> location, compactly.

use foreword_proto::location::Checksums;
use foreword_proto::{EntryKey, Location, SlotRef};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// 32 bytes; the checksums lie apart, since only a read needs them.
#[derive(Debug, Clone)]
struct Row {
    key: EntryKey,
    slot: SlotRef,
    /// Index of the page's checksums, in units of one page.
    checksums: u32,
}

/// Locations of one namespace's pages. Keys are digests, so that their first bytes are the hash.
#[derive(Debug, Clone)]
pub struct Table {
    shards: usize,
    rows: HashTable<Row>,
    /// `shards` checksums a page.
    checksums: Vec<u64>,
    free: Vec<u32>,
}

impl Table {
    /// An empty table with room for this many pages.
    pub fn new(shards: usize, pages: usize) -> Self {
        Self {
            shards,
            rows: HashTable::with_capacity(pages),
            checksums: Vec::with_capacity(pages * shards),
            free: Vec::new(),
        }
    }

    /// Pages in the table.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True if there is no page.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// True if the page is in the table.
    pub fn contains(&self, key: &EntryKey) -> bool {
        self.slot(key).is_some()
    }

    /// The slot of a page.
    pub fn slot(&self, key: &EntryKey) -> Option<SlotRef> {
        self.rows.find(key.prefix(), |row| row.key == *key).map(|row| row.slot)
    }

    /// The location of a page.
    pub fn get(&self, key: &EntryKey) -> Option<Location> {
        let row = self.rows.find(key.prefix(), |row| row.key == *key)?;
        Some(self.location(row))
    }

    /// Adds or replaces a page. The location has one checksum a shard.
    pub fn insert(&mut self, key: EntryKey, location: &Location) {
        let checksums = location.checksums.as_slice();
        assert_eq!(checksums.len(), self.shards, "a location has one checksum a shard");
        match self.rows.entry(key.prefix(), |row| row.key == key, |row| row.key.prefix()) {
            Entry::Occupied(mut row) => {
                let row = row.get_mut();
                row.slot = location.slot;
                let at = row.checksums as usize * self.shards;
                self.checksums[at..at + self.shards].copy_from_slice(checksums);
            }
            Entry::Vacant(vacant) => {
                let at = match self.free.pop() {
                    Some(at) => {
                        let start = at as usize * self.shards;
                        self.checksums[start..start + self.shards].copy_from_slice(checksums);
                        at
                    }
                    None => {
                        let at = (self.checksums.len() / self.shards) as u32;
                        self.checksums.extend_from_slice(checksums);
                        at
                    }
                };
                vacant.insert(Row { key, slot: location.slot, checksums: at });
            }
        }
    }

    /// Removes a page if it is still at this slot. True if it was.
    pub fn remove(&mut self, key: &EntryKey, slot: SlotRef) -> bool {
        let found = self.rows.find_entry(key.prefix(), |row| row.key == *key && row.slot == slot);
        let Ok(entry) = found else { return false };
        let (row, _) = entry.remove();
        self.free.push(row.checksums);
        true
    }

    /// Every page, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (EntryKey, Location)> + '_ {
        self.rows.iter().map(|row| (row.key, self.location(row)))
    }

    fn location(&self, row: &Row) -> Location {
        let at = row.checksums as usize * self.shards;
        Location { slot: row.slot, checksums: Checksums::new(&self.checksums[at..at + self.shards]) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_equals_a_map(shards in 1usize..4, steps in prop::collection::vec((any::<bool>(), 0u8..20, 0u32..4, any::<u64>()), 0..300)) {
            let mut table = Table::new(shards, 0);
            let mut model: BTreeMap<EntryKey, Location> = BTreeMap::new();
            for (insert, key, slot, seed) in steps {
                // Half of the keys share their hash.
                let mut bytes = [key / 2; 16];
                bytes[15] = key;
                let key = EntryKey(bytes);
                let slot = SlotRef { slab: 1, slot, generation: 1 };
                if insert {
                    let checksums: Vec<u64> = (0..shards as u64).map(|i| seed ^ i).collect();
                    let location = Location { slot, checksums: Checksums::new(&checksums) };
                    table.insert(key, &location);
                    model.insert(key, location);
                } else {
                    let there = model.get(&key).is_some_and(|location| location.slot == slot);
                    if there { model.remove(&key); }
                    prop_assert_eq!(table.remove(&key, slot), there);
                }
            }
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(table.iter().collect::<BTreeMap<_, _>>(), model);
        }
    }
}
