//! Which pages are in L1, for those who only ask: without a lock, and without waiting for anybody who changes L1.
//!
//! ```text
//! lines of 8 cells = 64 bytes; a page's hash is in one of two lines, which its lower and its upper half choose
//! ```
//! Of a page that is not here that is found out but for one in 10^18. Lines are added one at a time (linear
//! hashing) when a quarter of the cells are used. Whoever changes L1 holds its lock, so that there is one writer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foreword_index::KEYS_AT_ONCE;
use foreword_proto::{EntryKey, Epoch, NamespaceId};

use super::PageId;
use crate::arena::FRAME_ALIGN_BYTES;

const CELLS: usize = 8;
/// Lines of one piece of memory: 32 KiB.
const LINES_PER_PIECE: usize = 512;
/// Hashes of a line on average before one more is added; a line whose turn to be divided comes last has twice as many.
const HASHES_PER_LINE: usize = CELLS / 4;

/// As wide as a line of the cache.
#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; CELLS]);

/// The hashes of the pages in L1.
pub struct Residents {
    pieces: Box<[OnceLock<Box<[Line]>>]>,
    /// Lines that are in use: a page's two are chosen among them.
    lines: AtomicUsize,
    /// Hashes there are.
    count: AtomicUsize,
}

/// The line that half of a hash chooses among `lines`: its lowest bits, one fewer where that line is not there yet.
fn line_of(half: u32, lines: usize) -> usize {
    let bits = lines.ilog2();
    let low = half as usize & ((2 << bits) - 1);
    if low < lines { low } else { low & ((1 << bits) - 1) }
}

fn lines_of(hash: u64, lines: usize) -> [usize; 2] {
    [line_of(hash as u32, lines), line_of((hash >> 32) as u32, lines)]
}

impl Residents {
    /// None of the pages of an arena of so many bytes.
    pub(super) fn new(arena_bytes: u64) -> Self {
        let pages_max = (arena_bytes / FRAME_ALIGN_BYTES) as usize;
        let pieces = pages_max.div_ceil(HASHES_PER_LINE * LINES_PER_PIECE).max(1) + 1;
        let residents = Self {
            pieces: (0..pieces).map(|_| OnceLock::new()).collect(),
            lines: AtomicUsize::new(LINES_PER_PIECE),
            count: AtomicUsize::new(0),
        };
        residents.make(0);
        residents
    }

    /// Which of these pages are here, [`KEYS_AT_ONCE`] at most, in order.
    pub fn among(&self, namespace: NamespaceId, epoch: Epoch, keys: &[EntryKey]) -> [bool; KEYS_AT_ONCE] {
        let mut here = [false; KEYS_AT_ONCE];
        if self.count.load(Ordering::Acquire) == 0 {
            return here;
        }
        let mut hashes = [0; KEYS_AT_ONCE];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = PageId { namespace, epoch, key: *key }.hashed();
        }
        loop {
            let lines = self.lines.load(Ordering::Acquire);
            let places = hashes.map(|hash| lines_of(hash, lines));
            // All lines are on their way before the first is looked at.
            let touched = places.iter().take(keys.len()).flatten().map(|line| self.cell(*line, 0));
            std::hint::black_box(touched.fold(0, |sum, cell| sum ^ cell));
            for ((here, hash), places) in here.iter_mut().zip(hashes).zip(places).take(keys.len()) {
                *here = places.iter().any(|line| self.place(*line, hash).is_some());
            }
            // Who found a line as it was after it gave hashes away learns of the line that has them.
            if self.lines.load(Ordering::Acquire) == lines {
                return here;
            }
        }
    }

    /// The page is here from now on.
    pub(super) fn add(&self, id: &PageId) {
        let hash = id.hashed();
        let [one, other] = lines_of(hash, self.lines.load(Ordering::Relaxed)).map(|line| (self.used(line), line));
        let (_, line) = one.min(other);
        // Both lines full, with four times as many as there should be: the page is not found here, which is a miss at
        // worst.
        let Some(cell) = self.place(line, 0) else { return };
        self.line(line).0[cell].store(hash, Ordering::Release);
        let count = self.count.fetch_add(1, Ordering::Release) + 1;
        if count > self.lines.load(Ordering::Relaxed) * HASHES_PER_LINE {
            self.add_line();
        }
    }

    /// The page is here no longer.
    pub(super) fn remove(&self, id: &PageId) {
        let hash = id.hashed();
        for line in lines_of(hash, self.lines.load(Ordering::Relaxed)) {
            if let Some(cell) = self.place(line, hash) {
                self.line(line).0[cell].store(0, Ordering::Release);
                self.count.fetch_sub(1, Ordering::Release);
                return;
            }
        }
    }

    /// The page is here; as [`Self::among`], of one page.
    pub fn has(&self, id: &PageId) -> bool {
        self.among(id.namespace, id.epoch, &[id.key])[0]
    }

    /// Adds a line: it takes over the hashes of another one that choose it from now on.
    fn add_line(&self) {
        let new = self.lines.load(Ordering::Relaxed);
        if new / LINES_PER_PIECE >= self.pieces.len() {
            return;
        }
        self.make(new / LINES_PER_PIECE);
        let old = new ^ (1 << new.ilog2());
        let moves = |hash: u64| hash != 0 && !lines_of(hash, new + 1).contains(&old);
        let moving = (0..CELLS).filter(|cell| moves(self.cell(old, *cell)));
        let moving: Vec<usize> = moving.collect();
        for cell in &moving {
            self.line(new).0[*cell].store(self.cell(old, *cell), Ordering::Relaxed);
        }
        // In this order: who does not find a hash in the old line any more sees that there is a new one.
        self.lines.store(new + 1, Ordering::Release);
        for cell in moving {
            self.line(old).0[cell].store(0, Ordering::Release);
        }
    }

    fn make(&self, piece: usize) {
        self.pieces[piece].get_or_init(|| (0..LINES_PER_PIECE).map(|_| Line::default()).collect());
    }

    fn line(&self, line: usize) -> &Line {
        let piece = self.pieces[line / LINES_PER_PIECE].get().expect("lines in use have memory");
        &piece[line % LINES_PER_PIECE]
    }

    fn cell(&self, line: usize, cell: usize) -> u64 {
        self.line(line).0[cell].load(Ordering::Acquire)
    }

    /// Where a hash is in a line; 0 for a cell without one.
    fn place(&self, line: usize, hash: u64) -> Option<usize> {
        let cells = &self.line(line).0;
        (0..CELLS).find(|cell| cells[*cell].load(Ordering::Acquire) == hash)
    }

    fn used(&self, line: usize) -> usize {
        (0..CELLS).filter(|cell| self.cell(line, *cell) != 0).count()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    const ARENA_BYTES: u64 = 1 << 28;

    fn id(number: u64) -> PageId {
        let key = EntryKey(xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes()).to_le_bytes());
        PageId { namespace: number as u32 % 3, epoch: number as u32 % 2, key }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Against a set, while lines are added: one page at a time, and by sixteen of one namespace.
        #[test]
        fn they_are_the_pages_that_came_and_did_not_go(steps in prop::collection::vec((any::<bool>(), 0u64..9_000, 1u64..400), 1..60)) {
            let (residents, mut model) = (Residents::new(ARENA_BYTES), BTreeSet::new());
            for (come, from, many) in steps {
                for page in (from..from + many).map(id) {
                    if come && model.insert(page) {
                        residents.add(&page);
                    } else if !come && model.remove(&page) {
                        residents.remove(&page);
                    }
                }
            }
            for number in 0..9_400 {
                prop_assert_eq!(residents.has(&id(number)), model.contains(&id(number)), "page {}", number);
            }
            let keys: Vec<EntryKey> = (0..KEYS_AT_ONCE as u64).map(|number| id(number * 6).key).collect();
            let expected: Vec<bool> = (0..KEYS_AT_ONCE as u64).map(|number| model.contains(&id(number * 6))).collect();
            prop_assert_eq!(residents.among(0, 0, &keys).to_vec(), expected);
        }
    }

    #[test]
    fn a_full_arena_of_the_smallest_pages_is_all_found() {
        let residents = Residents::new(ARENA_BYTES);
        let pages = ARENA_BYTES / FRAME_ALIGN_BYTES;
        (0..pages).for_each(|number| residents.add(&id(number)));
        assert!((0..pages).all(|number| residents.has(&id(number))));
        assert!((pages..2 * pages).all(|number| !residents.has(&id(number))));
        (0..pages).for_each(|number| residents.remove(&id(number)));
        assert!((0..pages).all(|number| !residents.has(&id(number))));
    }

    /// Pages that are here throughout are never missed by who asks while others come and lines are added.
    #[test]
    fn who_asks_while_lines_are_added_misses_no_page() {
        let (residents, over) = (Residents::new(ARENA_BYTES), AtomicBool::new(false));
        let there = 0..500u64;
        there.clone().for_each(|number| residents.add(&id(number)));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        assert!(there.clone().all(|number| residents.has(&id(number))));
                    }
                });
            }
            (1_000..100_000).for_each(|number| residents.add(&id(number)));
            over.store(true, Ordering::Relaxed);
        });
    }
}
