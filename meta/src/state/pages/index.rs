//! Which pages exist: a hash index of fixed 40-byte entries, in buckets that a frozen view shares until they change.
//!
//! Namespaces with the same number of shards share one group of buckets; an entry names its table, and a clear gives
//! its namespace a new one. A bucket keeps its entries dense in a vector that grows by a sixteenth, and finds them
//! through a table of 16-bit positions: 40 B x 1.03 to 1.08 for the entry, 4 to 8 B for the position. What else is
//! known of a page (its parent) lives in its slot's record.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::location::{Checksums, Location};
use foreword_proto::{EntryKey, SlotRef};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// Buckets of a group: at 5 M pages a bucket is 60 KB, which is what the first change after a freeze copies.
pub(super) const BUCKETS: usize = 4096;
/// Entries of one bucket: positions are 16 bits wide. 4,096 buckets of uniformly spread keys hold 250 M pages.
pub(super) const ENTRIES_PER_BUCKET_MAX: usize = u16::MAX as usize;

/// The entries of one namespace between two clears. Never reused.
pub(super) type TableId = u32;

/// One page of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: EntryKey,
    /// Of shard 0.
    pub(super) checksum: u64,
    pub(super) table: TableId,
    pub(super) slot: SlotRef,
}

const _: () = assert!(size_of::<Entry>() == 40);

/// A page's location where the index keeps it: nothing is copied or allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocationRef<'a> {
    pub slot: SlotRef,
    /// Checksum of shard 0.
    pub checksum: u64,
    /// Checksums of shards 1 and up.
    pub further: &'a [u64],
}

impl LocationRef<'_> {
    /// The checksum of a shard, if the page has that shard.
    pub fn checksum_of(&self, shard: usize) -> Option<u64> {
        if shard == 0 { Some(self.checksum) } else { self.further.get(shard - 1).copied() }
    }

    /// An owned copy.
    pub fn to_location(&self) -> Location {
        let checksums = if self.further.is_empty() {
            Checksums::One([self.checksum])
        } else {
            Checksums::Many(std::iter::once(self.checksum).chain(self.further.iter().copied()).collect())
        };
        Location { slot: self.slot, checksums }
    }

    /// Appends the [`Location`] record: slot, then one checksum a shard.
    pub fn put(&self, out: &mut impl bytes::BufMut) {
        out.put_u32_le(self.slot.slab);
        out.put_u32_le(self.slot.slot);
        out.put_u32_le(self.slot.generation);
        out.put_u64_le(self.checksum);
        for checksum in self.further {
            out.put_u64_le(*checksum);
        }
    }
}

/// Hash of one entry.
pub(super) fn hash_of_entry(table: TableId, key: &EntryKey, location: &LocationRef<'_>) -> u64 {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&key.0);
    bytes[16..20].copy_from_slice(&table.to_le_bytes());
    bytes[20..24].copy_from_slice(&location.slot.slab.to_le_bytes());
    bytes[24..28].copy_from_slice(&location.slot.slot.to_le_bytes());
    bytes[28..32].copy_from_slice(&location.slot.generation.to_le_bytes());
    bytes[32..40].copy_from_slice(&location.checksum.to_le_bytes());
    let mut hash = xxh3_64(&bytes);
    for checksum in location.further {
        hash = hash.rotate_left(13).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ *checksum;
    }
    hash
}

/// The bucket is full: keys that are no digests, or more pages than this index is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BucketFull;

/// Spreads a key of a table over buckets and positions. Keys are digests; the table keeps namespaces with equal keys
/// apart.
fn spread(table: TableId, key: &EntryKey) -> u64 {
    let halves = u128::from_le_bytes(key.0);
    let low = halves as u64 ^ u64::from(table).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let high = (halves >> 64) as u64 ^ 0xd6e8_feb8_6659_fd93;
    let product = u128::from(low ^ 0xa076_1d64_78bd_642f) * u128::from(high);
    product as u64 ^ (product >> 64) as u64
}

/// The bucket of a spread key: bits that the position table uses neither for its tag nor for its start.
fn bucket_of(spread: u64) -> usize {
    (spread >> 40) as usize % BUCKETS
}

/// Entries whose keys share some bits.
#[derive(Debug, Clone, Default)]
pub(super) struct Bucket {
    entries: Vec<Entry>,
    /// Checksums of shards 1 and up, `shards - 1` for each entry.
    further: Vec<u64>,
    places: HashTable<u16>,
}

impl Bucket {
    fn find(&self, spread: u64, table: TableId, key: &EntryKey) -> Option<usize> {
        let matches = |place: &u16| {
            let entry = &self.entries[usize::from(*place)];
            entry.key == *key && entry.table == table
        };
        self.places.find(spread, matches).map(|place| usize::from(*place))
    }

    fn location(&self, place: usize, shards: usize) -> LocationRef<'_> {
        let entry = &self.entries[place];
        let further = &self.further[place * (shards - 1)..(place + 1) * (shards - 1)];
        LocationRef { slot: entry.slot, checksum: entry.checksum, further }
    }

    fn push(&mut self, spread: u64, entry: Entry, further: &[u64]) {
        let place = self.entries.len() as u16;
        reserve_some(&mut self.entries, 1);
        reserve_some(&mut self.further, further.len());
        self.entries.push(entry);
        self.further.extend_from_slice(further);
        if self.places.len() == self.places.capacity() {
            self.rebuild_places();
        } else {
            self.places.insert_unique(spread, place, |_| unreachable!("there is room for one more place"));
        }
    }

    /// Builds the position table anew with an eighth to spare. hashbrown on its own would double a table that is full
    /// of removed places.
    fn rebuild_places(&mut self) {
        let room = self.entries.len() + self.entries.len() / 8 + 4;
        let mut places = HashTable::with_capacity(room);
        for (place, entry) in self.entries.iter().enumerate() {
            let no_growth = |_: &u16| unreachable!("the table was made large enough");
            places.insert_unique(spread(entry.table, &entry.key), place as u16, no_growth);
        }
        self.places = places;
    }

    /// Removes the entry at `place`; the last entry takes its place.
    fn swap_remove(&mut self, place: usize, shards: usize) {
        let removed = self.entries[place];
        let last = self.entries.len() - 1;
        self.forget_place(&removed, place);
        if place != last {
            let moved = self.entries[last];
            let hash = spread(moved.table, &moved.key);
            if let Some(found) = self.places.find_mut(hash, |found| usize::from(*found) == last) {
                *found = place as u16;
            }
        }
        self.entries.swap_remove(place);
        let width = shards - 1;
        if width > 0 {
            self.further.copy_within(last * width.., place * width);
            self.further.truncate(last * width);
        }
        release_some(&mut self.entries);
        release_some(&mut self.further);
    }

    fn forget_place(&mut self, entry: &Entry, place: usize) {
        let hash = spread(entry.table, &entry.key);
        if let Ok(found) = self.places.find_entry(hash, |found| usize::from(*found) == place) {
            found.remove();
        }
    }

    fn iter(&self, shards: usize) -> impl Iterator<Item = (Entry, LocationRef<'_>)> {
        (0..self.entries.len()).map(move |place| (self.entries[place], self.location(place, shards)))
    }

    /// Its entries, without their checksums.
    pub(super) fn entries(&self) -> impl Iterator<Item = (TableId, EntryKey, SlotRef)> {
        self.entries.iter().map(|entry| (entry.table, entry.key, entry.slot))
    }

    fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
            + self.further.capacity() * size_of::<u64>()
            + self.places.allocation_size()
    }
}

/// Makes room for `more` items, a sixteenth at a time: a doubling vector would waste a quarter on average.
fn reserve_some<T>(items: &mut Vec<T>, more: usize) {
    if items.capacity() - items.len() < more {
        items.reserve_exact(more.max(items.len() / 16).max(4));
    }
}

/// Gives room back when more than three sixteenths are unused: a bucket's size wanders, and would keep the room of its
/// largest.
fn release_some<T>(items: &mut Vec<T>) {
    if items.capacity() - items.len() > items.len() / 16 * 3 + 16 {
        items.shrink_to(items.len() + items.len() / 16 + 4);
    }
}

/// All buckets of the namespaces with one number of shards.
#[derive(Debug, Clone)]
struct Group {
    shards: usize,
    buckets: Vec<Arc<Bucket>>,
}

impl Group {
    fn new(shards: usize) -> Self {
        // One empty bucket shared by all, until each is first written.
        let empty = Arc::new(Bucket::default());
        Self { shards, buckets: (0..BUCKETS).map(|_| Arc::clone(&empty)).collect() }
    }
}

/// The index of all namespaces.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    groups: BTreeMap<usize, Group>,
}

impl Index {
    /// Where a page is.
    pub(super) fn get(&self, shards: usize, table: TableId, key: &EntryKey) -> Option<LocationRef<'_>> {
        let hash = spread(table, key);
        let bucket = &self.groups.get(&shards)?.buckets[bucket_of(hash)];
        let place = bucket.find(hash, table, key)?;
        Some(bucket.location(place, shards))
    }

    /// Visits the keys in order until one is absent (or all of them): (position, location).
    pub(super) fn visit<'a>(
        &'a self,
        shards: usize,
        table: TableId,
        keys: impl Iterator<Item = EntryKey>,
        every_key: bool,
        mut visit: impl FnMut(usize, Option<LocationRef<'a>>),
    ) {
        let group = self.groups.get(&shards);
        for (position, key) in keys.enumerate() {
            let found = group.and_then(|group| {
                let hash = spread(table, &key);
                let bucket = &group.buckets[bucket_of(hash)];
                bucket.find(hash, table, &key).map(|place| bucket.location(place, shards))
            });
            visit(position, found);
            if found.is_none() && !every_key {
                return;
            }
        }
    }

    /// Adds a page that is not there yet, with one checksum a shard.
    pub(super) fn insert(
        &mut self,
        table: TableId,
        key: EntryKey,
        slot: SlotRef,
        checksums: &[u64],
    ) -> Result<(), BucketFull> {
        let hash = spread(table, &key);
        let group = self.groups.entry(checksums.len()).or_insert_with(|| Group::new(checksums.len()));
        let bucket = &mut group.buckets[bucket_of(hash)];
        if bucket.entries.len() >= ENTRIES_PER_BUCKET_MAX {
            return Err(BucketFull);
        }
        let entry = Entry { key, checksum: checksums[0], table, slot };
        Arc::make_mut(bucket).push(hash, entry, &checksums[1..]);
        Ok(())
    }

    /// Removes a page; true if it was there.
    pub(super) fn remove(&mut self, shards: usize, table: TableId, key: &EntryKey) -> bool {
        let hash = spread(table, key);
        let Some(group) = self.groups.get_mut(&shards) else { return false };
        let bucket = &mut group.buckets[bucket_of(hash)];
        let Some(place) = bucket.find(hash, table, key) else { return false };
        Arc::make_mut(bucket).swap_remove(place, shards);
        true
    }

    /// The entries of one bucket of a group.
    pub(super) fn bucket(&self, shards: usize, bucket: usize) -> impl Iterator<Item = (Entry, LocationRef<'_>)> {
        let bucket = self.groups.get(&shards).and_then(|group| group.buckets.get(bucket));
        bucket.into_iter().flat_map(move |bucket| bucket.iter(shards))
    }

    /// All entries of all tables, group by group and bucket by bucket.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, Entry, LocationRef<'_>)> {
        self.groups.values().flat_map(|group| {
            let shards = group.shards;
            let used = group.buckets.iter().filter(|bucket| !bucket.entries.is_empty());
            used.flat_map(move |bucket| bucket.iter(shards).map(move |(entry, location)| (shards, entry, location)))
        })
    }

    /// All entries, group by group with its number of shards. What has been passed is let go of, so that a writer can
    /// change it without a copy.
    pub(super) fn into_groups(
        self,
    ) -> impl Iterator<Item = (usize, impl Iterator<Item = (TableId, EntryKey, Location)>)> {
        self.groups.into_values().map(|Group { shards, buckets }| {
            let entries = buckets.into_iter().flat_map(move |bucket| {
                (0..bucket.entries.len()).map(move |place| {
                    let Entry { key, table, checksum: _, slot: _ } = bucket.entries[place];
                    (table, key, bucket.location(place, shards).to_location())
                })
            });
            (shards, entries)
        })
    }

    /// All buckets. What has been passed is let go of.
    pub(super) fn into_buckets(self) -> impl Iterator<Item = Arc<Bucket>> {
        self.groups.into_values().flat_map(|group| group.buckets)
    }

    /// The sum over the hashes of all entries.
    pub(super) fn digest_from_scratch(&self) -> u64 {
        let hashes = self.iter().map(|(_, entry, location)| hash_of_entry(entry.table, &entry.key, &location));
        hashes.fold(0, u64::wrapping_add)
    }

    /// Heap bytes, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        let arc_overhead = 2 * size_of::<usize>() + size_of::<Bucket>() + size_of::<Arc<Bucket>>();
        let of_group =
            |group: &Group| group.buckets.iter().map(|bucket| bucket.heap_bytes() + arc_overhead).sum::<usize>();
        self.groups.values().map(of_group).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn key(number: u64) -> EntryKey {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes()).to_le_bytes());
        EntryKey(key)
    }

    /// Buckets of many entries, with removals from their middle: against an ordered map.
    #[test]
    fn full_buckets_keep_every_entry_and_its_checksums() {
        const SHARDS: usize = 3;
        let mut index = Index::default();
        let mut model = BTreeMap::new();
        for round in 0..4u64 {
            for number in 0..40_000u64 {
                let (table, key) = (number as u32 % 2, key(number / 2));
                // Each round toggles another half of the keys.
                if ((number * 2_654_435_761) >> (7 + round)) & 1 == 0 {
                    continue;
                }
                if model.remove(&(table, key)).is_some() {
                    assert!(index.remove(SHARDS, table, &key));
                } else {
                    let slot = SlotRef { slab: 1, slot: number as u32, generation: round as u32 };
                    let checksums = [number, number + round, number ^ 77];
                    index.insert(table, key, slot, &checksums).unwrap();
                    model.insert((table, key), (slot, checksums));
                }
            }
            assert_eq!(index.iter().count(), model.len());
            for ((table, key), (slot, checksums)) in &model {
                let found = index.get(SHARDS, *table, key).expect("an entry of the model");
                assert_eq!((found.slot, found.checksum, found.further), (*slot, checksums[0], &checksums[1..]));
            }
        }
        assert!(model.len() > 4 * BUCKETS, "buckets of several entries: {}", model.len());
    }

    #[test]
    fn a_full_bucket_says_so() {
        let mut bucket = Bucket::default();
        let entry = |number| Entry {
            key: key(number),
            checksum: 0,
            table: 1,
            slot: SlotRef { slab: 1, slot: 0, generation: 1 },
        };
        for number in 0..ENTRIES_PER_BUCKET_MAX as u64 {
            bucket.push(spread(1, &key(number)), entry(number), &[]);
        }
        let last = ENTRIES_PER_BUCKET_MAX as u64 - 1;
        assert!(bucket.find(spread(1, &key(last)), 1, &key(last)).is_some());
        let mut index = Index::default();
        let mut group = Group::new(1);
        group.buckets.fill(Arc::new(bucket));
        index.groups.insert(1, group);
        assert_eq!(index.insert(2, key(1), entry(1).slot, &[1]), Err(BucketFull));
    }
}
