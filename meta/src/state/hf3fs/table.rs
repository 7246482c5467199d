//! The pages of a file: one record each, in chunks that a frozen view shares until they change.

use std::ops::Range;

use foreword_proto::EntryKey;
use xxhash_rust::xxh3::xxh3_64;

use super::PageIndex;
use super::lists::{Ends, ListName, NO_PAGE};
use foreword_index::Grid;

/// Records of one chunk: 10 KiB, what the first change after a freeze copies.
const CHUNK_RECORDS: usize = 256;

/// What is known of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Of a resting page: all zero.
    pub(super) key: EntryKey,
    /// Confirmed: a number that rises with each use. Reserved: the tick at which it was last heard of. Resting: the
    /// tick at which it may be used again.
    pub(super) stamp: u64,
    pub(super) prev: PageIndex,
    pub(super) next: PageIndex,
    /// None: nobody holds the page, and it is in no list.
    pub(super) list: Option<ListName>,
}

const _: () = assert!(size_of::<Record>() == 40);

impl Record {
    const FREE: Self = Self { key: EntryKey([0; 16]), stamp: 0, prev: NO_PAGE, next: NO_PAGE, list: None };

    /// Has a key whose bytes may be read.
    pub(super) fn is_confirmed(&self) -> bool {
        matches!(self.list, Some(ListName::Written | ListName::Read))
    }

    fn hash(&self, index: PageIndex) -> u64 {
        let mut bytes = [0; 29];
        bytes[..16].copy_from_slice(&self.key.0);
        bytes[16..24].copy_from_slice(&self.stamp.to_le_bytes());
        bytes[24..28].copy_from_slice(&index.to_le_bytes());
        bytes[28] = self.list.map_or(0, ListName::number);
        xxh3_64(&bytes)
    }
}

#[derive(Debug, Clone)]
struct Chunk {
    records: [Record; CHUNK_RECORDS],
    /// Records that are in a list.
    held: u32,
}

impl Chunk {
    fn new() -> Self {
        Self { records: [Record::FREE; CHUNK_RECORDS], held: 0 }
    }
}

/// All records of a file, and the lists through them.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    chunks: Grid<Chunk>,
    pub(super) lists: [Ends; ListName::ALL.len()],
    /// Sum over the hashes of the records in lists.
    pub(super) digest: u64,
}

fn at(index: PageIndex) -> (usize, usize) {
    (index as usize / CHUNK_RECORDS, index as usize % CHUNK_RECORDS)
}

impl Table {
    /// A page's record.
    pub(super) fn get(&self, index: PageIndex) -> Record {
        let (chunk, within) = at(index);
        self.chunks.get(chunk).map_or(Record::FREE, |chunk| chunk.records[within])
    }

    /// A page's record, to be changed by the lists.
    pub(super) fn link_mut(&mut self, index: PageIndex) -> &mut Record {
        let (chunk, within) = at(index);
        &mut self.chunks.get_mut(chunk, Chunk::new).records[within]
    }

    /// Sets the record of a page, which is in no list before or in none after.
    pub(super) fn set(&mut self, index: PageIndex, record: Record) {
        let (chunk, within) = at(index);
        let chunk = self.chunks.get_mut(chunk, Chunk::new);
        let before = std::mem::replace(&mut chunk.records[within], record);
        chunk.held = chunk.held + u32::from(record.list.is_some()) - u32::from(before.list.is_some());
        if before.list.is_some() {
            self.digest = self.digest.wrapping_sub(before.hash(index));
        }
        if record.list.is_some() {
            self.digest = self.digest.wrapping_add(record.hash(index));
        }
    }

    /// Makes a page's record one that nobody holds.
    pub(super) fn free(&mut self, index: PageIndex) {
        self.set(index, Record::FREE);
    }

    /// The last page of a range that nobody holds. Passes over chunks all of whose pages are held in one step each.
    pub(super) fn last_free(&self, range: Range<PageIndex>) -> Option<PageIndex> {
        let mut end = range.end;
        while end > range.start {
            let (number, last) = at(end - 1);
            let start = (number * CHUNK_RECORDS) as PageIndex;
            let Some(chunk) = self.chunks.get(number) else { return Some(end - 1) };
            if (chunk.held as usize) < CHUNK_RECORDS {
                let found = chunk.records[..=last].iter().rposition(|record| record.list.is_none());
                if let Some(within) = found {
                    return Some(start + within as PageIndex).filter(|index| *index >= range.start);
                }
            }
            end = start;
        }
        None
    }

    /// Lets go of some records of a table that is of no more use; false if there is none left.
    pub(super) fn drop_some(&mut self) -> bool {
        self.chunks.drop_some()
    }

    /// Records that are in a list, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PageIndex, &Record)> {
        self.chunks.iter().flat_map(|(number, chunk)| {
            let records = chunk.records.iter().enumerate().filter(|(_, record)| record.list.is_some());
            records.map(move |(within, record)| ((number * CHUNK_RECORDS + within) as PageIndex, record))
        })
    }

    /// The digest, computed from every record.
    pub(super) fn digest_from_scratch(&self) -> u64 {
        self.iter().fold(0, |sum, (index, record)| sum.wrapping_add(record.hash(index)))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.chunks.heap_bytes()
    }
}
