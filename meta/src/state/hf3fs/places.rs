//! Which page a key has: tables of page indexes, whose keys are in the pages' records.

use foreword_proto::EntryKey;
use hashbrown::HashTable;

use super::PageIndex;
use super::table::Table;
use foreword_index::Grid;

/// Pages of the file for one bucket: 5 to 13 KB, what the first change after a freeze copies.
const PAGES_PER_BUCKET: u32 = 1024;

/// Keys looked up side by side.
const TOGETHER: usize = 16;

/// The keys of a file.
#[derive(Debug, Clone)]
pub(super) struct Places {
    buckets: Grid<HashTable<PageIndex>>,
    /// A power of two.
    count: usize,
}

/// Spreads a key over buckets and within one. Keys are digests, so this is only for callers whose keys are not.
fn spread(key: &EntryKey) -> u64 {
    let halves = u128::from_le_bytes(key.0);
    let low = halves as u64 ^ 0xa076_1d64_78bd_642f;
    let high = (halves >> 64) as u64 ^ 0xd6e8_feb8_6659_fd93;
    let product = u128::from(low) * u128::from(high);
    product as u64 ^ (product >> 64) as u64
}

impl Places {
    /// For a file of so many pages.
    pub(super) fn new(pages: u32) -> Self {
        Self { buckets: Grid::default(), count: pages.div_ceil(PAGES_PER_BUCKET).next_power_of_two() as usize }
    }

    /// The bucket of a spread key: bits that hashbrown uses neither for its tag (the top seven) nor for its start (the
    /// low ones).
    fn bucket_of(&self, spread: u64) -> usize {
        (spread >> 32) as usize & (self.count - 1)
    }

    /// The page of a key.
    pub(super) fn find(&self, key: &EntryKey, table: &Table) -> Option<PageIndex> {
        let hash = spread(key);
        let bucket = self.buckets.get(self.bucket_of(hash))?;
        bucket.find(hash, |index| table.get(*index).key == *key).copied()
    }

    /// The pages of keys, in order, for [`Self::find`] of each: memory is waited for together and not key by key.
    pub(super) fn find_each(&self, keys: &[EntryKey], table: &Table, mut found: impl FnMut(Option<PageIndex>)) {
        for keys in keys.chunks(TOGETHER) {
            let mut buckets = [None; TOGETHER];
            for (bucket, key) in buckets.iter_mut().zip(keys) {
                let hash = spread(key);
                *bucket = self.buckets.get(self.bucket_of(hash)).map(|bucket| (bucket, hash));
            }
            // The first page that may be the key's is nearly always it.
            let likely = buckets.map(|bucket| bucket.and_then(|(bucket, hash)| bucket.find(hash, |_| true).copied()));
            for (key, likely) in keys.iter().zip(likely) {
                found(match likely {
                    Some(index) if table.get(index).key == *key => Some(index),
                    Some(_) => self.find(key, table),
                    None => None,
                });
            }
        }
    }

    /// Adds a key that has no page yet. All keys that have one are in `table`.
    pub(super) fn insert(&mut self, key: &EntryKey, index: PageIndex, table: &Table) {
        let hash = spread(key);
        let at = self.bucket_of(hash);
        let bucket = self.buckets.get_mut(at, HashTable::new);
        if bucket.len() == bucket.capacity() {
            *bucket = with_room(bucket, table);
        }
        bucket.insert_unique(hash, index, |index| spread(&table.get(*index).key));
    }

    /// Removes a key from its page.
    pub(super) fn remove(&mut self, key: &EntryKey, index: PageIndex) {
        let hash = spread(key);
        let at = self.bucket_of(hash);
        let bucket = self.buckets.get_mut(at, HashTable::new);
        if let Ok(found) = bucket.find_entry(hash, |found| *found == index) {
            found.remove();
        }
    }

    /// Lets go of some keys of a file that is cleared; false if there is none left.
    pub(super) fn drop_some(&mut self) -> bool {
        self.buckets.drop_some()
    }

    /// Keys that have a page.
    pub(super) fn len(&self) -> usize {
        self.buckets.iter().map(|(_, bucket)| bucket.len()).sum()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let tables: usize = self.buckets.iter().map(|(_, bucket)| bucket.allocation_size()).sum();
        self.buckets.heap_bytes() + tables
    }
}

/// The same bucket with an eighth to spare. hashbrown on its own would double one that is full of removed places.
fn with_room(bucket: &HashTable<PageIndex>, table: &Table) -> HashTable<PageIndex> {
    let hash = |index: &PageIndex| spread(&table.get(*index).key);
    let mut larger = HashTable::with_capacity(bucket.len() + bucket.len() / 8 + 4);
    for index in bucket {
        larger.insert_unique(hash(index), *index, hash);
    }
    larger
}
