//! The pages of one namespace: buckets that a frozen view shares until they change, one more whenever they are full on
//! average (linear hashing), so that no insert ever pays for all that was inserted before.

use std::sync::Arc;

use foreword_proto::buckets::{BUCKET_BITS_MAX, bucket_of, spread};
use foreword_proto::{EntryKey, SlotRef};

use crate::bucket::{Bucket, ENTRIES_PER_BUCKET_MAX};
use crate::grid::{Copies, Grid};
use crate::location::LocationRef;

/// Entries of a bucket on average: 10 KiB, which is what the first change after a freeze copies.
const ENTRIES_PER_BUCKET: u64 = 256;
/// Buckets of one namespace at most: 268 M pages at the average, and several times that before one is full.
pub const BUCKETS_MAX: u32 = 1 << BUCKET_BITS_MAX;
/// Keys looked up side by side: as many cache misses wait for each other instead of one after the other.
pub const KEYS_AT_ONCE: usize = 16;

/// The bucket is full: keys that are no digests, or more pages than this index is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketFull;

/// The pages of one namespace, between two clears.
#[derive(Debug, Clone)]
pub struct Table {
    shards: usize,
    /// One that was never written takes no memory.
    buckets: Grid<Bucket>,
    count: u32,
    entries: u64,
    /// Sum over the hashes of all pages.
    digest: u64,
}

/// The bucket of a spread key among `count` of them: its lowest bits, one fewer where that bucket is not there yet.
fn number_of(spread: u64, count: u32) -> u32 {
    let bits = count.ilog2();
    let low = spread as u32 & ((2 << bits) - 1);
    if low < count { low } else { low & ((1 << bits) - 1) }
}

impl Table {
    /// No page, in this many buckets (at least 1, at most [`BUCKETS_MAX`]).
    pub fn new(shards: usize, count: u32) -> Self {
        Self { shards, buckets: Grid::default(), count: count.clamp(1, BUCKETS_MAX), entries: 0, digest: 0 }
    }

    /// No page, in as many buckets as so many pages are going to need. They take no memory before.
    pub fn with_room(shards: usize, pages: u64) -> Self {
        Self::new(shards, pages.div_ceil(ENTRIES_PER_BUCKET).min(u64::from(BUCKETS_MAX)) as u32)
    }

    /// Checksums of each page.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Buckets there are, those without any entry included.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Pages in the table.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The sum over the hashes of all pages.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    fn bucket(&self, spread: u64) -> Option<&Bucket> {
        self.buckets.get(number_of(spread, self.count) as usize)
    }

    /// Where a page is.
    pub fn get(&self, key: &EntryKey) -> Option<LocationRef<'_>> {
        self.get_spread(spread(key), key)
    }

    fn get_spread(&self, spread: u64, key: &EntryKey) -> Option<LocationRef<'_>> {
        let bucket = self.bucket(spread)?;
        let at = bucket.find(spread, key)?;
        Some(bucket.location(at, self.shards))
    }

    /// Visits where keys are, in order: up to the first absent one (which is visited), or with `every_key` all of them.
    pub fn visit<'a>(
        &'a self,
        keys: impl Iterator<Item = EntryKey>,
        every_key: bool,
        mut visit: impl FnMut(usize, Option<LocationRef<'a>>),
    ) {
        let mut keys = keys.peekable();
        let mut position = 0;
        while keys.peek().is_some() {
            let mut some = [EntryKey([0; 16]); KEYS_AT_ONCE];
            let mut count = 0;
            for (place, key) in some.iter_mut().zip(keys.by_ref()) {
                *place = key;
                count += 1;
            }
            for location in self.find_some(&some[..count]).into_iter().take(count) {
                visit(position, location);
                if location.is_none() && !every_key {
                    return;
                }
                position += 1;
            }
        }
    }

    /// Where keys are, [`KEYS_AT_ONCE`] at most, in order: looked up step by step side by side. What is beyond them is
    /// None.
    pub fn find_some(&self, keys: &[EntryKey]) -> [Option<LocationRef<'_>>; KEYS_AT_ONCE] {
        debug_assert!(keys.len() <= KEYS_AT_ONCE);
        let mut spreads = [0; KEYS_AT_ONCE];
        let mut buckets = [None; KEYS_AT_ONCE];
        for ((bucket, place), key) in buckets.iter_mut().zip(&mut spreads).zip(keys) {
            *place = spread(key);
            *bucket = self.bucket(*place);
        }
        touch(buckets.iter().zip(spreads).filter_map(|(bucket, spread)| Some(bucket.as_ref()?.touch(spread))));
        let mut probable = [None; KEYS_AT_ONCE];
        for ((probable, bucket), spread) in probable.iter_mut().zip(&buckets).zip(spreads) {
            *probable = bucket.and_then(|bucket: &Bucket| bucket.probable(spread));
        }
        touch(probable.iter().flatten().map(|(_, read)| u32::from(*read)));
        let mut found = [None; KEYS_AT_ONCE];
        for (at, key) in keys.iter().enumerate() {
            let Some((bucket, (probable, _))) = buckets[at].zip(probable[at]) else { continue };
            let entry = if bucket.entry(probable).key == *key { Some(probable) } else { bucket.find(spreads[at], key) };
            found[at] = entry.map(|entry| bucket.location(entry, self.shards));
        }
        found
    }

    /// Reads what inserts of these keys start with, so that it is in the cache when they come.
    pub fn touch(&self, keys: impl Iterator<Item = EntryKey>) {
        touch(keys.filter_map(|key| {
            let spread = spread(&key);
            Some(self.bucket(spread)?.touch(spread))
        }));
    }

    /// The buckets of these keys that a frozen view shares, copied ahead of their change.
    pub fn copies_for(&self, keys: impl Iterator<Item = EntryKey>) -> Copies<Bucket> {
        self.buckets.copies(keys.map(|key| number_of(spread(&key), self.count) as usize).collect())
    }

    /// Puts such copies in; nothing was changed since they were made.
    pub fn put_copies(&mut self, copies: Copies<Bucket>) {
        self.buckets.put_copies(copies);
    }

    /// Adds a page with one checksum a shard, unless its key is there: then where that page is.
    pub fn insert(
        &mut self,
        key: EntryKey,
        slot: SlotRef,
        checksums: &[u64],
    ) -> Result<Option<LocationRef<'_>>, BucketFull> {
        debug_assert_eq!(checksums.len(), self.shards);
        let spread = spread(&key);
        let number = number_of(spread, self.count) as usize;
        if let Some(at) = self.buckets.get(number).and_then(|bucket| bucket.find(spread, &key)) {
            return Ok(self.buckets.get(number).map(|bucket| bucket.location(at, self.shards)));
        }
        let bucket = self.buckets.get_mut(number, Bucket::default);
        if bucket.len() >= ENTRIES_PER_BUCKET_MAX {
            return Err(BucketFull);
        }
        self.digest = self.digest.wrapping_add(bucket.push(spread, key, slot, checksums));
        self.entries += 1;
        if self.entries > ENTRIES_PER_BUCKET * u64::from(self.count) && self.count < BUCKETS_MAX {
            self.split();
        }
        Ok(None)
    }

    /// Adds a page with one checksum a shard, in place of what was there under its key; the slot that was.
    pub fn put(&mut self, key: EntryKey, slot: SlotRef, checksums: &[u64]) -> Result<Option<SlotRef>, BucketFull> {
        let spread = spread(&key);
        let number = number_of(spread, self.count) as usize;
        let Some(at) = self.buckets.get(number).and_then(|bucket| bucket.find(spread, &key)) else {
            return self.insert(key, slot, checksums).map(|_| None);
        };
        let bucket = self.buckets.get_mut(number, Bucket::default);
        let (before, change) = bucket.replace(at, slot, checksums);
        self.digest = self.digest.wrapping_add(change);
        Ok(Some(before))
    }

    /// Adds a bucket: half of the entries of the one that stood for it go there.
    fn split(&mut self) {
        let new = self.count;
        let old = new ^ (1 << new.ilog2());
        self.count += 1;
        let Some(bucket) = self.buckets.get(old as usize) else { return };
        let (stay, left) = bucket.split(self.shards, |spread| number_of(spread, new + 1) == new);
        self.buckets.put(old as usize, stay);
        self.buckets.put(new as usize, left);
    }

    /// Takes a page out; its slot, and its hash.
    pub fn remove(&mut self, key: &EntryKey) -> Option<(SlotRef, u64)> {
        let spread = spread(key);
        let number = number_of(spread, self.count) as usize;
        let at = self.buckets.get(number)?.find(spread, key)?;
        let removed = self.buckets.present_mut(number)?.swap_remove(spread, at, self.shards);
        self.entries -= 1;
        self.digest = self.digest.wrapping_sub(removed.1);
        Some(removed)
    }

    /// The pages of one bucket.
    pub fn pages_in(&self, number: u32) -> impl Iterator<Item = (EntryKey, LocationRef<'_>)> {
        let bucket = self.buckets.get(number as usize);
        bucket.into_iter().flat_map(|bucket| bucket.iter(self.shards))
    }

    /// The pages of one of 2^`bits` buckets ([`foreword_proto::buckets::bucket_of`]), however many there are here;
    /// costs what is in it, or in the one bucket that holds it.
    pub fn pages_of(&self, bits: u32, bucket: u32) -> impl Iterator<Item = (EntryKey, LocationRef<'_>)> {
        let (first, step) = match self.count.ilog2() {
            whole if bits <= whole => (bucket, 1 << bits),
            _ => (number_of(u64::from(bucket), self.count), BUCKETS_MAX as usize),
        };
        let numbers = (first..self.count).step_by(step);
        let pages = numbers.flat_map(|number| self.pages_in(number));
        pages.filter(move |(key, _)| bucket_of(key, bits) == bucket)
    }

    /// Takes one bucket out whole.
    pub fn take_bucket(&mut self, number: u32) -> Option<Arc<Bucket>> {
        let taken = self.buckets.take(number as usize)?;
        self.entries -= taken.len() as u64;
        self.digest = self.digest.wrapping_sub(taken.digest());
        Some(taken)
    }

    /// All pages, bucket by bucket.
    pub fn iter(&self) -> impl Iterator<Item = (EntryKey, LocationRef<'_>)> {
        self.buckets.iter().flat_map(|(_, bucket)| bucket.iter(self.shards))
    }

    /// All buckets with any entry, by number. What has been passed is let go of, so that a writer can change it without
    /// a copy.
    pub fn into_buckets(self) -> impl Iterator<Item = (u32, Arc<Bucket>)> {
        let buckets = self.buckets.into_numbered().map(|(number, bucket)| (number as u32, bucket));
        buckets.filter(|(_, bucket)| !bucket.is_empty())
    }

    /// The digest of one of 2^`bits` buckets ([`foreword_proto::buckets::bucket_of`]), where there are as many.
    pub fn digest_of(&self, bits: u32, bucket: u32) -> u64 {
        debug_assert!(bits <= self.count.ilog2());
        let numbers = (bucket..self.count).step_by(1 << bits);
        let digests = numbers.filter_map(|number| self.buckets.get(number as usize)).map(Bucket::digest);
        digests.fold(0, u64::wrapping_add)
    }

    /// The digest, computed from every entry.
    pub fn digest_from_scratch(&self) -> u64 {
        let digests = self.buckets.iter().map(|(_, bucket)| bucket.digest_from_scratch(self.shards));
        digests.fold(0, u64::wrapping_add)
    }

    /// Heap bytes, from capacities.
    pub fn heap_bytes(&self) -> usize {
        self.buckets.heap_bytes() + self.buckets.iter().map(|(_, bucket)| bucket.heap_bytes()).sum::<usize>()
    }
}

/// Keeps reads from being left out: their sum is of no other use.
fn touch(reads: impl Iterator<Item = u32>) {
    std::hint::black_box(reads.fold(0, |sum, read| sum ^ read));
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use foreword_proto::buckets::hash_of_page;

    use super::*;

    const SHARDS: usize = 3;

    fn key(number: u64) -> EntryKey {
        EntryKey(xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes()).to_le_bytes())
    }

    fn page(number: u64, round: u64) -> (SlotRef, [u64; SHARDS]) {
        let slot = SlotRef { slab: 1, slot: number as u32, generation: round as u32 };
        (slot, [number, number + round, number ^ 77])
    }

    /// Digests of the pages in each of 2^`bits` buckets.
    fn digests(model: &BTreeMap<EntryKey, (SlotRef, [u64; SHARDS])>, bits: u32) -> Vec<u64> {
        let mut sums = vec![0u64; 1 << bits];
        for (key, (slot, checksums)) in model {
            let sum = &mut sums[bucket_of(key, bits) as usize];
            *sum = sum.wrapping_add(hash_of_page(key, *slot, checksums[0], &checksums[1..]));
        }
        sums
    }

    fn assert_is(table: &Table, model: &BTreeMap<EntryKey, (SlotRef, [u64; SHARDS])>) {
        assert_eq!((table.entries(), table.iter().count()), (model.len() as u64, model.len()));
        for (key, (slot, checksums)) in model {
            let found = table.get(key).expect("an entry of the model");
            assert_eq!((found.slot, found.checksum, found.further), (*slot, checksums[0], &checksums[1..]));
        }
        assert_eq!(table.digest(), table.digest_from_scratch());
        for bits in [0, 3, 7, 12] {
            let sorted = |pages: &mut dyn Iterator<Item = EntryKey>| pages.collect::<BTreeSet<_>>();
            for bucket in 0..(1 << bits).min(64) {
                let expected = sorted(&mut model.keys().copied().filter(|key| bucket_of(key, bits) == bucket));
                assert_eq!(sorted(&mut table.pages_of(bits, bucket).map(|(key, _)| key)), expected);
            }
            if bits <= table.count().ilog2() {
                let found: Vec<u64> = (0..1 << bits).map(|bucket| table.digest_of(bits, bucket)).collect();
                assert_eq!(found, digests(model, bits), "{bits} bits of {} buckets", table.count());
            }
        }
    }

    /// Buckets that split while entries come and go, and frozen views of the table at each round: against ordered maps.
    #[test]
    fn a_table_that_grows_keeps_every_page_and_so_do_its_frozen_views() {
        let (mut table, mut model) = (Table::new(SHARDS, 1), BTreeMap::new());
        let mut frozen = Vec::new();
        for round in 0..4u64 {
            for number in 0..40_000u64 {
                // Each round toggles another half of the keys.
                if ((number * 2_654_435_761) >> (7 + round)) & 1 == 0 {
                    continue;
                }
                let (key, (slot, checksums)) = (key(number), page(number, round));
                if let Some((old, _)) = model.remove(&key) {
                    assert_eq!(table.remove(&key).map(|(slot, _)| slot), Some(old));
                } else {
                    assert_eq!(table.insert(key, slot, &checksums), Ok(None));
                    model.insert(key, (slot, checksums));
                }
            }
            assert_is(&table, &model);
            frozen.push((table.clone(), model.clone()));
        }
        assert!(table.count() > 64 && !table.count().is_power_of_two(), "{} buckets", table.count());
        for (table, model) in &frozen {
            assert_is(table, model);
        }
        let taken: u64 = (0..table.count()).map(|number| table.take_bucket(number).map_or(0, |b| b.len() as u64)).sum();
        assert_eq!((taken, table.entries(), table.digest()), (model.len() as u64, 0, 0));
    }

    #[test]
    fn buckets_that_were_copied_ahead_are_not_copied_again_by_the_change() {
        let mut table = Table::new(1, 1);
        for number in 0..10_000 {
            table.insert(key(number), page(number, 1).0, &[number]).unwrap();
        }
        let address = |table: &Table, number| std::ptr::from_ref(table.bucket(spread(&key(number))).unwrap());
        let changed = || (20_000..20_100).chain(0..100);
        assert!(table.copies_for(changed().map(key)).is_empty(), "nobody shares them");
        let view = table.clone();
        let copies = table.copies_for(changed().map(key));
        table.put_copies(copies);
        let ahead: Vec<_> = changed().map(|number| address(&table, number)).collect();
        for number in changed() {
            assert_ne!(address(&table, number), address(&view, number), "page {number}");
            if number < 100 {
                table.remove(&key(number)).unwrap();
            } else {
                table.insert(key(number), page(number, 1).0, &[number]).unwrap();
            }
        }
        assert_eq!(changed().map(|number| address(&table, number)).collect::<Vec<_>>(), ahead);
        assert_eq!((view.entries(), view.digest()), (10_000, view.digest_from_scratch()));
        assert!((0..10_000).all(|number| view.get(&key(number)).is_some()));
        assert_eq!((table.entries(), table.digest()), (10_000, table.digest_from_scratch()));
    }

    #[test]
    fn a_key_that_is_there_answers_with_its_page() {
        let mut table = Table::new(1, 1);
        let (slot, _) = page(1, 1);
        assert_eq!(table.insert(key(1), slot, &[5]), Ok(None));
        let found = table.insert(key(1), page(2, 2).0, &[6]).unwrap().map(|found| (found.slot, found.checksum));
        assert_eq!((found, table.entries()), (Some((slot, 5)), 1));
    }

    #[test]
    fn a_page_put_under_a_key_takes_the_place_of_what_was_there() {
        let (mut table, mut model) = (Table::with_room(SHARDS, 9_000), BTreeMap::new());
        let count = table.count();
        for (number, round) in
            (0..9_000).map(|number| (number, 1)).chain((0..9_000).step_by(3).map(|number| (number, 2)))
        {
            let (key, (slot, checksums)) = (key(number), page(number, round));
            let before = model.insert(key, (slot, checksums)).map(|(slot, _)| slot);
            assert_eq!(table.put(key, slot, &checksums), Ok(before));
        }
        assert_eq!(table.count(), count, "there was room");
        assert_is(&table, &model);
    }

    #[test]
    fn keys_are_visited_in_order_up_to_the_first_that_is_absent() {
        let mut table = Table::new(1, 1);
        for number in (0..100).filter(|number| *number != 40) {
            table.insert(key(number), page(number, 1).0, &[number]).unwrap();
        }
        for (every_key, expected) in [(false, 41), (true, 100)] {
            let mut seen = Vec::new();
            table.visit((0..100).map(key), every_key, |at, found| seen.push((at, found.map(|found| found.checksum))));
            let right: Vec<_> = (0..expected).map(|at| (at, (at != 40).then_some(at as u64))).collect();
            assert_eq!(seen, right);
        }
    }

    #[test]
    fn a_full_bucket_says_so() {
        let mut bucket = Bucket::default();
        for number in 0..ENTRIES_PER_BUCKET_MAX as u64 {
            bucket.push(spread(&key(number)), key(number), page(number, 1).0, &[1]);
        }
        let last = key(ENTRIES_PER_BUCKET_MAX as u64 - 1);
        assert!(bucket.find(spread(&last), &last).is_some());
        let mut table = Table::new(1, 1);
        table.buckets.put(0, bucket);
        assert_eq!(table.insert(key(u64::MAX), page(1, 1).0, &[1]), Err(BucketFull));
    }
}
