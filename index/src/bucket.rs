//! Entries of one namespace whose keys' spreads end alike: dense, found through [`Places`], with their digest.
//!
//! 36 B x 1.03 to 1.08 for an entry, 5 to 6 B for its place. What else is known of a page (its parent) lives in its
//! slot's record.

use foreword_proto::buckets::{hash_of_page, spread};
use foreword_proto::{EntryKey, SlotRef};

use crate::location::LocationRef;
use crate::places::{POSITIONS_MAX, Places, Tag};

/// Entries of one bucket: positions are 16 bits wide.
pub(crate) const ENTRIES_PER_BUCKET_MAX: usize = POSITIONS_MAX;

/// One page of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub key: EntryKey,
    /// Of shard 0, kept at 4-byte alignment.
    checksum: [u32; 2],
    pub(crate) slot: SlotRef,
}

const _: () = assert!(size_of::<Entry>() == 36);

impl Entry {
    fn checksum(&self) -> u64 {
        u64::from(self.checksum[0]) | u64::from(self.checksum[1]) << 32
    }
}

/// The part of a spread that tells keys of one bucket apart: its upper bits, since its lower ones chose the bucket.
pub(crate) fn tag_of(spread: u64) -> Tag {
    (spread >> 48) as Tag
}

/// Entries whose keys share some bits.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    entries: Vec<Entry>,
    /// Checksums of shards 1 and up, `shards - 1` for each entry.
    further: Vec<u64>,
    places: Places,
    /// Sum over the hashes of its pages.
    digest: u64,
}

impl Bucket {
    /// Entries in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// Reads what a search starts with, so that it is in the cache when the search comes.
    pub(crate) fn touch(&self, spread: u64) -> u32 {
        self.places.touch(tag_of(spread))
    }

    /// Where a key probably is, by its tag; both ends of its entry, which may lie in two lines of the cache, are read,
    /// so that they are there when it is looked at.
    pub(crate) fn probable(&self, spread: u64) -> Option<(usize, u8)> {
        let at = self.places.find(tag_of(spread), |_| true)?;
        let entry = &self.entries[at];
        Some((at, entry.key.0[0] ^ entry.slot.generation as u8))
    }

    /// The position of a key.
    pub(crate) fn find(&self, spread: u64, key: &EntryKey) -> Option<usize> {
        self.places.find(tag_of(spread), |at| self.entries[at].key == *key)
    }

    /// The entry at a position below [`Self::len`].
    pub fn entry(&self, at: usize) -> &Entry {
        &self.entries[at]
    }

    /// Where the page at a position is; each entry has `shards` checksums.
    pub fn location(&self, at: usize, shards: usize) -> LocationRef<'_> {
        let entry = &self.entries[at];
        let further = &self.further[at * (shards - 1)..(at + 1) * (shards - 1)];
        LocationRef { slot: entry.slot, checksum: entry.checksum(), further }
    }

    /// Adds an entry that is not there, with one checksum a shard; the hash of its page.
    pub(crate) fn push(&mut self, spread: u64, key: EntryKey, slot: SlotRef, checksums: &[u64]) -> u64 {
        let (first, further) = (checksums[0], &checksums[1..]);
        reserve_some(&mut self.entries, 1);
        reserve_some(&mut self.further, further.len());
        self.places.insert(tag_of(spread), self.entries.len());
        self.entries.push(Entry { key, checksum: [first as u32, (first >> 32) as u32], slot });
        self.further.extend_from_slice(further);
        let hash = hash_of_page(&key, slot, first, further);
        self.digest = self.digest.wrapping_add(hash);
        hash
    }

    /// Puts another page under the key at a position; the slot that was there, and by what the digest changed.
    pub(crate) fn replace(&mut self, at: usize, slot: SlotRef, checksums: &[u64]) -> (SlotRef, u64) {
        let (first, further) = (checksums[0], &checksums[1..]);
        let before = self.hash_at(at, checksums.len());
        let change = hash_of_page(&self.entries[at].key, slot, first, further).wrapping_sub(before);
        let entry = &mut self.entries[at];
        entry.checksum = [first as u32, (first >> 32) as u32];
        let slot = std::mem::replace(&mut entry.slot, slot);
        self.further[at * further.len()..(at + 1) * further.len()].copy_from_slice(further);
        self.digest = self.digest.wrapping_add(change);
        (slot, change)
    }

    fn hash_at(&self, at: usize, shards: usize) -> u64 {
        let LocationRef { slot, checksum, further } = self.location(at, shards);
        hash_of_page(&self.entries[at].key, slot, checksum, further)
    }

    /// Removes the entry at a position, which the last one takes; its slot and the hash of its page.
    pub(crate) fn swap_remove(&mut self, spread_of_key: u64, at: usize, shards: usize) -> (SlotRef, u64) {
        let hash = self.hash_at(at, shards);
        self.digest = self.digest.wrapping_sub(hash);
        let last = self.entries.len() - 1;
        self.places.remove(tag_of(spread_of_key), at);
        if at != last {
            self.places.moved(tag_of(spread(&self.entries[last].key)), last, at);
        }
        let removed = self.entries.swap_remove(at);
        let width = shards - 1;
        if width > 0 {
            self.further.copy_within(last * width.., at * width);
            self.further.truncate(last * width);
        }
        release_some(&mut self.entries);
        release_some(&mut self.further);
        (removed.slot, hash)
    }

    /// Two buckets of its entries: those that stay, and those that leave.
    pub(crate) fn split(&self, shards: usize, leaves: impl Fn(u64) -> bool) -> (Self, Self) {
        let (mut stay, mut left) = (Self::default(), Self::default());
        let moving = self.entries.iter().filter(|entry| leaves(spread(&entry.key))).count();
        for (bucket, entries) in [(&mut stay, self.entries.len() - moving), (&mut left, moving)] {
            bucket.entries.reserve_exact(entries + entries / 16 + 4);
            bucket.further.reserve_exact(entries * (shards - 1));
        }
        for (at, entry) in self.entries.iter().enumerate() {
            let spread = spread(&entry.key);
            let bucket = if leaves(spread) { &mut left } else { &mut stay };
            bucket.places.insert(tag_of(spread), bucket.entries.len());
            bucket.entries.push(*entry);
            bucket.further.extend_from_slice(&self.further[at * (shards - 1)..(at + 1) * (shards - 1)]);
        }
        left.digest = left.digest_from_scratch(shards);
        stay.digest = self.digest.wrapping_sub(left.digest);
        (stay, left)
    }

    /// Its pages, in no order that means anything.
    pub fn iter(&self, shards: usize) -> impl Iterator<Item = (EntryKey, LocationRef<'_>)> {
        (0..self.entries.len()).map(move |at| (self.entries[at].key, self.location(at, shards)))
    }

    /// The digest, computed from every entry.
    pub(crate) fn digest_from_scratch(&self, shards: usize) -> u64 {
        (0..self.entries.len()).map(|at| self.hash_at(at, shards)).fold(0, u64::wrapping_add)
    }

    /// Heap bytes, from capacities.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
            + self.further.capacity() * size_of::<u64>()
            + self.places.heap_bytes()
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
