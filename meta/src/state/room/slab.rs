//! One slab: what each of its slots is used for. 12 bytes and two bits a slot, in chunks that a frozen view shares
//! until they change.

use std::sync::Arc;

use foreword_proto::key::ParentHint;
use foreword_proto::{Generation, Slot, SlotRef};
use xxhash_rust::xxh3::xxh3_64;

use crate::state::codec::{Decode, Encode, Sink, unknown_kind};
use crate::state::input::{DecodeError, Input};

/// Slots of one chunk; a chunk no slot of which was ever granted takes no memory.
const SLOTS_PER_CHUNK: u32 = 4096;

/// Who holds a granted slot: the number of its session among all there ever were, never given out twice. The session's id would
/// not fit the slot's record.
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
#[derive(Debug, Clone, Copy, Default)]
struct SlotRecord {
    generation: Generation,
    word: [u32; 2],
}

const _: () = assert!(size_of::<SlotRecord>() == 12);

#[derive(Debug, Clone)]
struct Chunk {
    records: Box<[SlotRecord]>,
    /// Two planes of the slots' kinds, 64 slots a pair; both bits clear is free.
    kinds: Box<[[u64; 2]]>,
    free: u32,
}

impl Chunk {
    fn new(slots: u32) -> Self {
        let words = slots.div_ceil(64) as usize;
        Self {
            records: vec![SlotRecord::default(); slots as usize].into(),
            kinds: vec![[0; 2]; words].into(),
            free: slots,
        }
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

    /// The first free slot at or after `from`.
    fn next_free(&self, from: usize) -> Option<usize> {
        let mut word = from / 64;
        let mut mask = u64::MAX << (from % 64);
        while word < self.kinds.len() {
            let [low, high] = self.kinds[word];
            let free = !(low | high) & mask;
            if free != 0 {
                let at = word * 64 + free.trailing_zeros() as usize;
                return (at < self.records.len()).then_some(at);
            }
            mask = u64::MAX;
            word += 1;
        }
        None
    }
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
    chunks: Vec<Option<Arc<Chunk>>>,
}

impl Slab {
    pub(super) fn new(slot_bytes: u64, slots: Slot) -> Self {
        let chunks = vec![None; slots.div_ceil(SLOTS_PER_CHUNK) as usize];
        let counts = SlotCounts { free: slots.into(), ..SlotCounts::default() };
        Self { slot_bytes, slots, counts, chunks }
    }

    /// Bytes of a slot, and the number of slots: all that is not in its slots.
    pub(super) fn size(&self) -> (u64, Slot) {
        let Self { slot_bytes, slots, counts: _, chunks: _ } = self;
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
        let Some(chunk) = &self.chunks[(slot / SLOTS_PER_CHUNK) as usize] else { return Some((0, SlotUse::Free)) };
        Some(chunk.slot((slot % SLOTS_PER_CHUNK) as usize))
    }

    /// Sets a slot, which the slab must have.
    pub(super) fn set(&mut self, slot: Slot, generation: Generation, new: SlotUse) {
        let number = slot / SLOTS_PER_CHUNK;
        let slots = SLOTS_PER_CHUNK.min(self.slots - number * SLOTS_PER_CHUNK);
        let chunk = self.chunks[number as usize].get_or_insert_with(|| Arc::new(Chunk::new(slots)));
        let chunk = Arc::make_mut(chunk);
        let at = (slot % SLOTS_PER_CHUNK) as usize;
        let old_kind = chunk.kind(at);
        let word = new.word();
        chunk.records[at] = SlotRecord { generation, word: [word as u32, (word >> 32) as u32] };
        chunk.set_kind(at, new.kind());
        *self.counts.of_kind(old_kind) -= 1;
        *self.counts.of_kind(new.kind()) += 1;
        chunk.free = chunk.free - u32::from(old_kind == 0) + u32::from(new.kind() == 0);
    }

    /// The first free slot at or after `from`.
    pub(super) fn next_free(&self, from: Slot) -> Option<Slot> {
        let first = from / SLOTS_PER_CHUNK;
        for number in first..self.chunks.len() as u32 {
            let start = number * SLOTS_PER_CHUNK;
            let within = if number == first { from % SLOTS_PER_CHUNK } else { 0 };
            let found = match &self.chunks[number as usize] {
                None => (start + within < self.slots).then_some(within),
                Some(chunk) if chunk.free == 0 => None,
                Some(chunk) => chunk.next_free(within as usize).map(|at| at as u32),
            };
            if let Some(at) = found {
                return Some(start + at);
            }
        }
        None
    }

    /// All slots that were ever granted: slot, generation, use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, Generation, SlotUse)> + '_ {
        self.chunks.iter().enumerate().flat_map(|(number, chunk)| {
            let chunk = chunk.as_deref();
            chunk.into_iter().flat_map(move |chunk| {
                let slots = (0..chunk.records.len()).map(|at| chunk.slot(at));
                number_granted(number, slots)
            })
        })
    }

    /// The same; what has been passed is let go of.
    pub(super) fn into_slots(self) -> impl Iterator<Item = (Slot, Generation, SlotUse)> {
        self.chunks.into_iter().enumerate().filter_map(|(number, chunk)| Some((number, chunk?))).flat_map(
            |(number, chunk)| {
                let slots = (0..chunk.records.len()).map(move |at| chunk.slot(at));
                number_granted(number, slots)
            },
        )
    }

    /// Heap bytes, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        let of_chunk = |chunk: &Arc<Chunk>| {
            chunk.records.len() * size_of::<SlotRecord>() + chunk.kinds.len() * 16 + size_of::<Chunk>() + 16
        };
        self.chunks.capacity() * size_of::<Option<Arc<Chunk>>>()
            + self.chunks.iter().flatten().map(of_chunk).sum::<usize>()
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
