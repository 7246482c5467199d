//! The mirror's table: entry key -> location, in buckets as the group has them. A bucket's digest is kept as its pages
//! come and go, and no insert moves more than one bucket's pages.

use foreword_index::{KEYS_AT_ONCE, LocationRef};
use foreword_proto::buckets::bits_for;
use foreword_proto::limits::{WATCH_BUCKET_PAGES, WATCH_DIGEST_BITS_MAX};
use foreword_proto::{EntryKey, Location, SlotRef};

/// Locations of one namespace's pages.
#[derive(Debug)]
pub struct Table {
    pages: foreword_index::Table,
}

impl Table {
    /// An empty table that is going to hold about so many pages; none takes memory before it comes.
    pub fn new(shards: usize, pages: u64) -> Self {
        Self { pages: foreword_index::Table::with_room(shards, pages) }
    }

    /// Pages in the table.
    pub fn len(&self) -> usize {
        self.pages.entries() as usize
    }

    /// True if there is no page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if the page is in the table.
    pub fn contains(&self, key: &EntryKey) -> bool {
        self.pages.get(key).is_some()
    }

    /// The slot of a page.
    pub fn slot(&self, key: &EntryKey) -> Option<SlotRef> {
        self.pages.get(key).map(|location| location.slot)
    }

    /// The slots of pages, [`KEYS_AT_ONCE`] at most, in order; looked up side by side.
    pub fn slots(&self, keys: &[EntryKey]) -> [Option<SlotRef>; KEYS_AT_ONCE] {
        self.pages.find_some(keys).map(|location| location.map(|location| location.slot))
    }

    /// The location of a page.
    pub fn get(&self, key: &EntryKey) -> Option<Location> {
        self.pages.get(key).map(|location| location.to_location())
    }

    /// Adds or replaces a page; answers with the slot it had before. The location has one checksum a shard. A page for
    /// which there is no place is left out, as if it were absent.
    pub fn insert(&mut self, key: EntryKey, location: &Location) -> Option<SlotRef> {
        let checksums = location.checksums.as_slice();
        assert_eq!(checksums.len(), self.pages.shards(), "a location has one checksum a shard");
        self.pages.put(key, location.slot, checksums).unwrap_or_default()
    }

    /// Removes a page if it is still at this slot. True if it was.
    pub fn remove(&mut self, key: &EntryKey, slot: SlotRef) -> bool {
        self.slot(key) == Some(slot) && self.pages.remove(key).is_some()
    }

    /// Every page, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (EntryKey, Location)> + '_ {
        self.pages.iter().map(|(key, location)| (key, location.to_location()))
    }

    /// Parts into which it is divided, of some hundred pages each. A page that stays may come to a later part as the
    /// table grows, never to an earlier one.
    pub fn parts(&self) -> u32 {
        self.pages.count()
    }

    /// The pages of one part.
    pub fn part(&self, number: u32) -> impl Iterator<Item = (EntryKey, LocationRef<'_>)> {
        self.pages.pages_in(number)
    }

    /// The bits of [`Self::digest_of`] for as many buckets as there are about [`WATCH_BUCKET_PAGES`] pages to each.
    pub fn digest_bits(&self) -> u32 {
        bits_for(self.pages.entries(), WATCH_BUCKET_PAGES).min(WATCH_DIGEST_BITS_MAX).min(self.pages.count().ilog2())
    }

    /// The digest of one of 2^`bits` buckets, which are not more than [`Self::digest_bits`] says.
    pub fn digest_of(&self, bits: u32, bucket: u32) -> u64 {
        self.pages.digest_of(bits, bucket)
    }

    /// Replaces all pages of one bucket, where there are 2^`bits` of them; answers with the keys that are gone,
    /// elsewhere or new.
    pub fn replace_bucket(&mut self, bits: u32, bucket: u32, pages: &[(EntryKey, Location)]) -> Vec<EntryKey> {
        let mut changed = Vec::new();
        let mut present: Vec<EntryKey> = pages.iter().map(|(key, _)| *key).collect();
        present.sort_unstable();
        let before = self.pages.pages_of(bits, bucket).map(|(key, _)| key);
        let gone: Vec<EntryKey> = before.filter(|key| present.binary_search(key).is_err()).collect();
        for key in gone {
            self.pages.remove(&key);
            changed.push(key);
        }
        for (key, location) in pages {
            if self.insert(*key, location) != Some(location.slot) {
                changed.push(*key);
            }
        }
        changed
    }

    /// Its memory in pieces, each freed in well under a millisecond.
    pub fn into_pieces(self) -> impl Iterator<Item = impl Send> + Send {
        self.pages.into_buckets()
    }

    /// Heap bytes, from capacities.
    pub fn heap_bytes(&self) -> usize {
        self.pages.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use foreword_proto::buckets::bucket_of;
    use foreword_proto::location::Checksums;
    use proptest::prelude::*;

    use super::*;

    fn key(number: u64) -> EntryKey {
        EntryKey(xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes()).to_le_bytes())
    }

    fn location(number: u32) -> Location {
        Location {
            slot: SlotRef { slab: 1, slot: number, generation: 1 },
            checksums: Checksums::new(&[u64::from(number)]),
        }
    }

    fn digests(table: &Table) -> Vec<u64> {
        (0..1 << table.digest_bits()).map(|bucket| table.digest_of(table.digest_bits(), bucket)).collect()
    }

    #[test]
    fn a_table_that_grew_has_the_digests_of_one_that_was_made_for_its_pages() {
        let mut table = Table::new(1, 0);
        (0..70_000).for_each(|number| _ = table.insert(key(number), &location(number as u32)));
        let mut at_once = Table::new(1, 70_000);
        table.iter().for_each(|(key, location)| _ = at_once.insert(key, &location));
        assert_eq!(digests(&table), digests(&at_once));
        assert_eq!(digests(&table).len(), 128);
        let all: Vec<EntryKey> = (0..70_000).map(key).collect();
        for (at, some) in all.chunks(KEYS_AT_ONCE).enumerate() {
            let expected = |i: usize| location((at * KEYS_AT_ONCE + i) as u32);
            let slots: Vec<_> = (0..some.len()).map(|i| Some(expected(i).slot)).collect();
            assert_eq!(table.slots(some)[..some.len()], slots);
            assert!((0..some.len()).all(|i| table.get(&some[i]) == Some(expected(i))));
        }
        assert!(table.heap_bytes() <= 70_000 * 48, "{} bytes", table.heap_bytes());
        (0..70_000).for_each(|number| assert!(table.remove(&key(number), location(number as u32).slot)));
        assert!(table.is_empty() && digests(&table) == [0]);
    }

    #[test]
    fn a_page_that_stays_is_in_the_parts_whatever_came_between_them() {
        let mut table = Table::new(1, 0);
        (0..2_000).for_each(|number| _ = table.insert(key(number), &location(number as u32)));
        let (mut seen, mut part) = (BTreeMap::new(), 0);
        while part < table.parts() {
            seen.extend(table.part(part).map(|(key, location)| (key, location.slot)));
            let from = 2_000 + u64::from(part) * 700;
            if part < 20 {
                (from..from + 700).for_each(|number| _ = table.insert(key(number), &location(number as u32)));
            }
            part += 1;
        }
        assert!((0..2_000).all(|number| seen.get(&key(number)) == Some(&location(number as u32).slot)));
    }

    #[test]
    fn a_bucket_is_replaced_whatever_the_tables_own_buckets_are() {
        for (pages, bits) in [(100, 0), (100, 3), (5000, 0), (5000, 2), (5000, 6), (5000, 8)] {
            let mut table = Table::new(1, 0);
            (0..pages).for_each(|number| _ = table.insert(key(number), &location(number as u32)));
            let before: BTreeMap<_, _> = table.iter().collect();
            let bucket = bucket_of(&key(7), bits);
            let mut there: Vec<u64> = (0..pages).filter(|number| bucket_of(&key(*number), bits) == bucket).collect();
            // One stays, one moves, all others go.
            there.retain(|number| *number != 7);
            let (stays, moves) = (there[0], there[1]);
            let new = [(key(stays), location(stays as u32)), (key(moves), location(1 << 20)), (key(7), location(7))];
            let mut changed = table.replace_bucket(bits, bucket, &new);
            let mut expected: Vec<EntryKey> = there[1..].iter().map(|number| key(*number)).collect();
            changed.sort_unstable();
            expected.sort_unstable();
            assert_eq!(changed, expected, "{pages} pages, {bits} bits");
            let mut model = before;
            model.retain(|key, _| bucket_of(key, bits) != bucket);
            model.extend(new);
            assert_eq!(table.iter().collect::<BTreeMap<_, _>>(), model);
            assert_eq!(table.len(), model.len());
        }
    }

    proptest! {
        #[test]
        fn it_equals_a_map(shards in 1usize..4, steps in prop::collection::vec((any::<bool>(), 0u8..20, 0u32..4, any::<u64>()), 0..300)) {
            let mut table = Table::new(shards, 0);
            let mut model: BTreeMap<EntryKey, Location> = BTreeMap::new();
            for (insert, key, slot, seed) in steps {
                // Half of the keys share their first bytes.
                let mut bytes = [key / 2; 16];
                bytes[15] = key;
                let key = EntryKey(bytes);
                let slot = SlotRef { slab: 1, slot, generation: 1 };
                if insert {
                    let checksums: Vec<u64> = (0..shards as u64).map(|i| seed ^ i).collect();
                    let location = Location { slot, checksums: Checksums::new(&checksums) };
                    let before = table.insert(key, &location);
                    prop_assert_eq!(before, model.insert(key, location).map(|location| location.slot));
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
