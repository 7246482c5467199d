//! The mirror's table: entry key -> location, compactly, in buckets as the group has them. A bucket's digest is kept as its pages come and
//! go, a bucket is replaced as a whole, and no growth moves more than one bucket's rows, but for two moves of a small table's.

use foreword_proto::buckets::{bucket_of, folded, hash_of_page};
use foreword_proto::limits::{WATCH_BUCKET_PAGES, WATCH_DIGEST_BITS_MAX};
use foreword_proto::location::Checksums;
use foreword_proto::{EntryKey, Location, SlotRef};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Bits of buckets that a table can have: the next ones once it has [`WATCH_BUCKET_PAGES`] a bucket. What the second step moves, 64 Ki
/// pages, takes milliseconds; there is no third one.
const BITS: [u32; 3] = [0, 6, WATCH_DIGEST_BITS_MAX];

/// 32 bytes; the checksums lie apart, since only a read needs them.
#[derive(Debug, Clone)]
struct Row {
    key: EntryKey,
    slot: SlotRef,
    /// Index of the page's checksums, in units of one page.
    checksums: u32,
}

/// Pages whose keys fall into one bucket. Keys are digests, so that their first bytes are the hash.
#[derive(Debug, Clone, Default)]
struct Bucket {
    rows: HashTable<Row>,
    /// `shards` checksums a page.
    checksums: Vec<u64>,
    free: Vec<u32>,
    digest: u64,
}

impl Bucket {
    fn with_capacity(shards: usize, pages: usize) -> Self {
        Self { rows: HashTable::with_capacity(pages), checksums: Vec::with_capacity(pages * shards), ..Self::default() }
    }

    fn find(&self, key: &EntryKey) -> Option<&Row> {
        self.rows.find(key.prefix(), |row| row.key == *key)
    }

    fn checksums_of(&self, row: &Row, shards: usize) -> &[u64] {
        let at = row.checksums as usize * shards;
        &self.checksums[at..at + shards]
    }

    /// Answers with the slot that the page had before.
    fn insert(&mut self, shards: usize, key: EntryKey, slot: SlotRef, checksums: &[u64]) -> Option<SlotRef> {
        self.digest = self.digest.wrapping_add(hash_of_page(&key, slot, checksums[0], &checksums[1..]));
        match self.rows.entry(key.prefix(), |row| row.key == key, |row| row.key.prefix()) {
            Entry::Occupied(mut row) => {
                let row = row.get_mut();
                let at = row.checksums as usize * shards;
                let old = &mut self.checksums[at..at + shards];
                self.digest = self.digest.wrapping_sub(hash_of_page(&key, row.slot, old[0], &old[1..]));
                old.copy_from_slice(checksums);
                Some(std::mem::replace(&mut row.slot, slot))
            }
            Entry::Vacant(vacant) => {
                let at = match self.free.pop() {
                    Some(at) => {
                        let start = at as usize * shards;
                        self.checksums[start..start + shards].copy_from_slice(checksums);
                        at
                    }
                    None => {
                        let at = (self.checksums.len() / shards) as u32;
                        self.checksums.extend_from_slice(checksums);
                        at
                    }
                };
                vacant.insert(Row { key, slot, checksums: at });
                None
            }
        }
    }

    fn remove(&mut self, shards: usize, key: &EntryKey, slot: SlotRef) -> bool {
        let found = self.rows.find_entry(key.prefix(), |row| row.key == *key && row.slot == slot);
        let Ok(entry) = found else { return false };
        let (row, _) = entry.remove();
        let at = row.checksums as usize * shards;
        let checksums = &self.checksums[at..at + shards];
        self.digest = self.digest.wrapping_sub(hash_of_page(key, slot, checksums[0], &checksums[1..]));
        self.free.push(row.checksums);
        true
    }

    fn location(&self, row: &Row, shards: usize) -> Location {
        Location { slot: row.slot, checksums: Checksums::new(self.checksums_of(row, shards)) }
    }
}

/// Locations of one namespace's pages.
#[derive(Debug, Clone)]
pub struct Table {
    shards: usize,
    bits: u32,
    buckets: Vec<Bucket>,
    pages: usize,
}

impl Table {
    /// An empty table with room for this many pages.
    pub fn new(shards: usize, pages: usize) -> Self {
        let bits = bits_for(pages);
        let per_bucket = pages >> bits;
        // A few more than the mean: most buckets never grow.
        let room = if bits == 0 { pages } else { per_bucket + per_bucket / 8 };
        let buckets = (0..1 << bits).map(|_| Bucket::with_capacity(shards, room)).collect();
        Self { shards, bits, buckets, pages: 0 }
    }

    /// Pages in the table.
    pub fn len(&self) -> usize {
        self.pages
    }

    /// True if there is no page.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    fn bucket(&self, key: &EntryKey) -> &Bucket {
        &self.buckets[bucket_of(key, self.bits) as usize]
    }

    /// True if the page is in the table.
    pub fn contains(&self, key: &EntryKey) -> bool {
        self.slot(key).is_some()
    }

    /// The slot of a page.
    pub fn slot(&self, key: &EntryKey) -> Option<SlotRef> {
        self.bucket(key).find(key).map(|row| row.slot)
    }

    /// The location of a page.
    pub fn get(&self, key: &EntryKey) -> Option<Location> {
        let bucket = self.bucket(key);
        bucket.find(key).map(|row| bucket.location(row, self.shards))
    }

    /// Adds or replaces a page; answers with the slot it had before. The location has one checksum a shard.
    pub fn insert(&mut self, key: EntryKey, location: &Location) -> Option<SlotRef> {
        let checksums = location.checksums.as_slice();
        assert_eq!(checksums.len(), self.shards, "a location has one checksum a shard");
        let bucket = &mut self.buckets[bucket_of(&key, self.bits) as usize];
        let before = bucket.insert(self.shards, key, location.slot, checksums);
        if before.is_none() {
            self.pages += 1;
            self.grow_for(self.pages);
        }
        before
    }

    /// Removes a page if it is still at this slot. True if it was.
    pub fn remove(&mut self, key: &EntryKey, slot: SlotRef) -> bool {
        let removed = self.buckets[bucket_of(key, self.bits) as usize].remove(self.shards, key, slot);
        self.pages -= usize::from(removed);
        removed
    }

    /// Every page, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (EntryKey, Location)> + '_ {
        self.buckets
            .iter()
            .flat_map(|bucket| bucket.rows.iter().map(|row| (row.key, bucket.location(row, self.shards))))
    }

    /// The digests of as many buckets as there are about [`WATCH_BUCKET_PAGES`] pages to each: u64 each, 2^bits of them.
    pub fn digests(&self) -> Vec<u64> {
        let digests: Vec<u64> = self.buckets.iter().map(|bucket| bucket.digest).collect();
        let bits = foreword_proto::buckets::bits_for(self.pages as u64, WATCH_BUCKET_PAGES).min(self.bits);
        folded(&digests, bits)
    }

    /// Replaces all pages of one bucket, where there are 2^`bits` of them; answers with the keys that are gone, elsewhere or new.
    pub fn replace_bucket(&mut self, bits: u32, bucket: u32, pages: &[(EntryKey, Location)]) -> Vec<EntryKey> {
        let mut changed = Vec::new();
        let mut present: Vec<EntryKey> = pages.iter().map(|(key, _)| *key).collect();
        present.sort_unstable();
        for row in self.rows_of(bits, bucket) {
            if present.binary_search(&row.0).is_err() {
                self.remove(&row.0, row.1);
                changed.push(row.0);
            }
        }
        for (key, location) in pages {
            if self.insert(*key, location) != Some(location.slot) {
                changed.push(*key);
            }
        }
        changed
    }

    /// The pages of one bucket, where there are 2^`bits` of them.
    fn rows_of(&self, bits: u32, bucket: u32) -> Vec<(EntryKey, SlotRef)> {
        let shared = bits.min(self.bits);
        let ours = (bucket & ((1 << shared) - 1)..1 << self.bits).step_by(1 << shared);
        let rows = ours.flat_map(|ours| self.buckets[ours as usize].rows.iter());
        rows.filter(|row| bucket_of(&row.key, bits) == bucket).map(|row| (row.key, row.slot)).collect()
    }

    /// Makes as many buckets as so many pages need.
    pub fn grow_for(&mut self, pages: usize) {
        let bits = bits_for(pages);
        if bits <= self.bits {
            return;
        }
        let mut grown = Self::new(self.shards, pages.max(self.pages));
        for bucket in &self.buckets {
            for row in &bucket.rows {
                let to = &mut grown.buckets[bucket_of(&row.key, bits) as usize];
                to.insert(self.shards, row.key, row.slot, bucket.checksums_of(row, self.shards));
            }
        }
        grown.pages = self.pages;
        *self = grown;
    }

    /// Its memory in pieces, each freed in well under a millisecond.
    pub fn into_pieces(self) -> impl Iterator<Item = impl Send> + Send {
        self.buckets.into_iter()
    }
}

/// Bits of buckets of a table of so many pages.
fn bits_for(pages: usize) -> u32 {
    let enough = |bits: &u32| pages as u64 >> bits <= WATCH_BUCKET_PAGES;
    BITS.into_iter().find(enough).unwrap_or(WATCH_DIGEST_BITS_MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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

    #[test]
    fn a_table_that_grows_through_all_its_sizes_keeps_every_page_and_digest() {
        let mut table = Table::new(1, 0);
        for number in 0..70_000 {
            table.insert(key(number), &location(number as u32));
        }
        assert_eq!((table.bits, table.len()), (WATCH_DIGEST_BITS_MAX, 70_000));
        let mut at_once = Table::new(1, 70_000);
        table.iter().for_each(|(key, location)| _ = at_once.insert(key, &location));
        assert_eq!(table.digests(), at_once.digests());
        assert_eq!(table.digests().len(), 128);
        (0..70_000).for_each(|number| assert_eq!(table.get(&key(number)), Some(location(number as u32))));
        (0..70_000).for_each(|number| assert!(table.remove(&key(number), location(number as u32).slot)));
        assert!(table.is_empty() && table.digests() == [0]);
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
