//! One slab: what each of its slots is used for. 12 bytes and two bits a slot, in chunks that a frozen view shares
//! until they change.

use foreword_proto::key::ParentHint;
use foreword_proto::{Generation, Slot, SlotRef};
use xxhash_rust::xxh3::xxh3_64;

use crate::state::codec::{Decode, Encode, Sink, unknown_kind};
use crate::state::input::{DecodeError, Input};
use foreword_index::{Copies, Grid};

/// Slots of one chunk: 6 KiB, which is what the first change after a freeze copies. A chunk no slot of which was ever
/// granted takes no memory.
const SLOTS_PER_CHUNK: u32 = 512;
const WORDS_PER_CHUNK: usize = SLOTS_PER_CHUNK as usize / 64;

/// Who holds a granted slot: the number of its session among all there ever were, never given out twice. The session's
/// id would not fit the slot's record.
pub(in crate::state) type Holder = u64;

/// What a slot is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::state) enum SlotUse {
    Free,
    Granted(Holder),
    /// Holds a page; its parent's hint is kept here.
    Published(ParentHint),
    Resting,
}

impl SlotUse {
    /// 0 free, 1 granted, 2 published, 3 resting.
    fn kind(&self) -> u8 {
        match self {
            Self::Free => 0,
            Self::Granted(_) => 1,
            Self::Published(_) => 2,
            Self::Resting => 3,
        }
    }

    /// The holder, or the parent's hint; else 0.
    fn word(&self) -> u64 {
        match self {
            Self::Granted(word) | Self::Published(word) => *word,
            Self::Free | Self::Resting => 0,
        }
    }

    /// From kind and word.
    fn from_parts(kind: u8, word: u64) -> Option<Self> {
        Some(match kind {
            0 => Self::Free,
            1 => Self::Granted(word),
            2 => Self::Published(word),
            3 => Self::Resting,
            _ => return None,
        })
    }
}

impl Encode for SlotUse {
    fn encode(&self, out: &mut impl Sink) {
        (self.kind(), self.word()).encode(out);
    }
}

impl Decode for SlotUse {
    const BYTES_MIN: usize = 9;

    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let (kind, word) = Decode::decode(input)?;
        Self::from_parts(kind, word).ok_or_else(|| unknown_kind("slot use", kind))
    }
}

/// The generation of a slot and its word, kept at 4-byte alignment.
#[derive(Debug, Clone, Copy)]
struct SlotRecord {
    generation: Generation,
    word: [u32; 2],
}

const _: () = assert!(size_of::<SlotRecord>() == 12);

#[derive(Debug, Clone)]
struct Chunk {
    records: [SlotRecord; SLOTS_PER_CHUNK as usize],
    /// Two planes of the slots' kinds, 64 slots a pair; both bits clear is free.
    kinds: [[u64; 2]; WORDS_PER_CHUNK],
    free: u32,
}

impl Chunk {
    /// `slots`: those there are; a slab's last chunk has fewer than there is room for.
    fn new(slots: u32) -> Self {
        let records = [SlotRecord { generation: 0, word: [0; 2] }; SLOTS_PER_CHUNK as usize];
        Self { records, kinds: [[0; 2]; WORDS_PER_CHUNK], free: slots }
    }

    fn slot(&self, at: usize) -> (Generation, SlotUse) {
        let SlotRecord { generation, word } = self.records[at];
        let word = u64::from(word[0]) | u64::from(word[1]) << 32;
        (generation, SlotUse::from_parts(self.kind(at), word).unwrap_or(SlotUse::Free))
    }

    fn kind(&self, at: usize) -> u8 {
        let [low, high] = self.kinds[at / 64];
        ((low >> (at % 64)) & 1) as u8 | (((high >> (at % 64)) & 1) << 1) as u8
    }

    fn set_kind(&mut self, at: usize, kind: u8) {
        let bit = 1u64 << (at % 64);
        let [low, high] = &mut self.kinds[at / 64];
        *low = if kind & 1 == 0 { *low & !bit } else { *low | bit };
        *high = if kind & 2 == 0 { *high & !bit } else { *high | bit };
    }

    /// Sets a slot; what it was.
    fn replace(&mut self, at: usize, generation: Generation, new: SlotUse) -> (Generation, SlotUse) {
        let old = self.slot(at);
        let word = new.word();
        self.records[at] = SlotRecord { generation, word: [word as u32, (word >> 32) as u32] };
        self.set_kind(at, new.kind());
        self.free = self.free - u32::from(old.1 == SlotUse::Free) + u32::from(new == SlotUse::Free);
        old
    }

    /// The first free slot at or after `from`, perhaps one that there is only room for.
    fn next_free(&self, from: usize) -> Option<usize> {
        let free = self.kinds.map(|[low, high]| !(low | high));
        next_bit(&free, from)
    }
}

/// The first bit that is set at or after `from`.
fn next_bit(words: &[u64], from: usize) -> Option<usize> {
    let mut mask = u64::MAX << (from % 64);
    for (number, word) in words.iter().enumerate().skip(from / 64) {
        if word & mask != 0 {
            return Some(number * 64 + (word & mask).trailing_zeros() as usize);
        }
        mask = u64::MAX;
    }
    None
}

/// Hash of one slot: 0 for one that was never granted.
pub(super) fn hash_of_slot(slot: SlotRef, used: SlotUse) -> u64 {
    if slot.generation == 0 {
        return 0;
    }
    let mut bytes = [0; 21];
    bytes[..4].copy_from_slice(&slot.slab.to_le_bytes());
    bytes[4..8].copy_from_slice(&slot.slot.to_le_bytes());
    bytes[8..12].copy_from_slice(&slot.generation.to_le_bytes());
    bytes[12..20].copy_from_slice(&used.word().to_le_bytes());
    bytes[20] = used.kind();
    xxh3_64(&bytes)
}

/// Slots of a slab by use; they add up to all of its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotCounts {
    pub free: u64,
    pub granted: u64,
    pub published: u64,
    pub resting: u64,
}

impl SlotCounts {
    /// All slots.
    pub fn total(&self) -> u64 {
        self.free + self.granted + self.published + self.resting
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.free += other.free;
        self.granted += other.granted;
        self.published += other.published;
        self.resting += other.resting;
    }

    fn of_kind(&mut self, kind: u8) -> &mut u64 {
        match kind {
            0 => &mut self.free,
            1 => &mut self.granted,
            2 => &mut self.published,
            _ => &mut self.resting,
        }
    }
}

/// A slab file and its slots.
#[derive(Debug, Clone)]
pub(super) struct Slab {
    pub(super) slot_bytes: u64,
    pub(super) slots: Slot,
    pub(super) counts: SlotCounts,
    chunks: Grid<Chunk>,
    /// A bit for each chunk: it has a free slot.
    has_free: Vec<u64>,
}

/// Chunks of a slab, copied ahead of their change.
#[derive(Debug)]
pub(super) struct ChunkCopies(Copies<Chunk>);

impl ChunkCopies {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Slab {
    pub(super) fn new(slot_bytes: u64, slots: Slot) -> Self {
        let chunks = slots.div_ceil(SLOTS_PER_CHUNK) as usize;
        let counts = SlotCounts { free: slots.into(), ..SlotCounts::default() };
        let mut has_free = vec![u64::MAX; chunks.div_ceil(64)];
        if let Some(last) = has_free.last_mut().filter(|_| !chunks.is_multiple_of(64)) {
            *last = (1 << (chunks % 64)) - 1;
        }
        Self { slot_bytes, slots, counts, chunks: Grid::default(), has_free }
    }

    /// Bytes of a slot, and the number of slots: all that is not in its slots.
    pub(super) fn size(&self) -> (u64, Slot) {
        let Self { slot_bytes, slots, counts: _, chunks: _, has_free: _ } = self;
        (*slot_bytes, *slots)
    }

    /// Bytes of the slab's file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.slot_bytes * u64::from(self.slots)
    }

    /// A slot's generation (0: never granted) and use; None for a slot the slab does not have.
    pub(super) fn get(&self, slot: Slot) -> Option<(Generation, SlotUse)> {
        if slot >= self.slots {
            return None;
        }
        let chunk = self.chunks.get((slot / SLOTS_PER_CHUNK) as usize);
        Some(chunk.map_or((0, SlotUse::Free), |chunk| chunk.slot((slot % SLOTS_PER_CHUNK) as usize)))
    }

    /// Sets a slot, which the slab must have; what it was.
    pub(super) fn replace(&mut self, slot: Slot, generation: Generation, new: SlotUse) -> (Generation, SlotUse) {
        let number = (slot / SLOTS_PER_CHUNK) as usize;
        let slots = SLOTS_PER_CHUNK.min(self.slots - number as u32 * SLOTS_PER_CHUNK);
        let chunk = self.chunks.get_mut(number, || Chunk::new(slots));
        let old = chunk.replace((slot % SLOTS_PER_CHUNK) as usize, generation, new);
        let bit = 1 << (number % 64);
        match chunk.free {
            0 => self.has_free[number / 64] &= !bit,
            _ => self.has_free[number / 64] |= bit,
        }
        *self.counts.of_kind(old.1.kind()) -= 1;
        *self.counts.of_kind(new.kind()) += 1;
        old
    }

    /// The chunks of these slots that a frozen view shares, copied ahead of their change.
    pub(super) fn copies_for(&self, slots: Vec<Slot>) -> ChunkCopies {
        ChunkCopies(self.chunks.copies(slots.into_iter().map(|slot| (slot / SLOTS_PER_CHUNK) as usize).collect()))
    }

    /// Puts such copies in; nothing was changed since they were made.
    pub(super) fn put_copies(&mut self, copies: ChunkCopies) {
        self.chunks.put_copies(copies.0);
    }

    /// The first free slot at or after `from`.
    pub(super) fn next_free(&self, from: Slot) -> Option<Slot> {
        let (mut number, mut within) = ((from / SLOTS_PER_CHUNK) as usize, (from % SLOTS_PER_CHUNK) as usize);
        loop {
            let found = match self.chunks.get(number) {
                None => Some(within),
                Some(chunk) if chunk.free == 0 => None,
                Some(chunk) => chunk.next_free(within),
            };
            let slot = found.map(|at| number as u32 * SLOTS_PER_CHUNK + at as u32);
            if let Some(slot) = slot.filter(|slot| *slot < self.slots) {
                return Some(slot);
            }
            (number, within) = (next_bit(&self.has_free, number + 1)?, 0);
        }
    }

    /// All slots that were ever granted: slot, generation, use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, Generation, SlotUse)> + '_ {
        self.chunks.iter().flat_map(|(number, chunk)| {
            let slots = (0..chunk.records.len()).map(|at| chunk.slot(at));
            number_granted(number, slots)
        })
    }

    /// The same; what has been passed is let go of.
    pub(super) fn into_slots(self) -> impl Iterator<Item = (Slot, Generation, SlotUse)> {
        self.chunks.into_numbered().flat_map(|(number, chunk)| {
            let slots = (0..chunk.records.len()).map(move |at| chunk.slot(at));
            number_granted(number, slots)
        })
    }

    /// Heap bytes, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        self.chunks.heap_bytes() + self.has_free.capacity() * size_of::<u64>()
    }
}

/// Those of a chunk's slots that were ever granted, with their numbers in the slab.
fn number_granted(
    chunk: usize,
    slots: impl Iterator<Item = (Generation, SlotUse)>,
) -> impl Iterator<Item = (Slot, Generation, SlotUse)> {
    let numbers = chunk as u32 * SLOTS_PER_CHUNK..;
    numbers
        .zip(slots)
        .filter(|(_, (generation, _))| *generation > 0)
        .map(|(slot, (generation, used))| (slot, generation, used))
}
