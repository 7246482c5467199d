//! The control memory of one session: a head, and its slots.
//!
//! ```text
//! 0       head: magic, version, sizes | whether the agent sleeps | bits: slots submitted | bits: slots released
//! 4,096   slot 0: head, 4,096 bytes | 2,048 keys of 32 bytes | 2,048 records of 32 bytes
//!         slot 1 …
//! ```
//!
//! Who writes what: the engine writes a slot's question while the slot is its own, then sets the slot's bit; from there
//! on the agent writes the answer, until [`SlotHead::progress`] says that it is done. Everything is an atomic: the
//! other process may write at any time.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{KEY_BYTES, KEYS_PER_SLOT_MAX, Mapping, SLOTS, VERSION};

const MAGIC: u64 = u64::from_le_bytes(*b"FWCTRL\0\0");
const HEAD_BYTES: usize = 4096;
const SLOT_HEAD_BYTES: usize = 4096;
const KEYS_BYTES: usize = KEYS_PER_SLOT_MAX * KEY_BYTES;
const KEY_WORDS: usize = KEY_BYTES / 8;
/// Words of a record.
const RECORD_WORDS: usize = 4;
const RECORDS_BYTES: usize = KEYS_PER_SLOT_MAX * RECORD_WORDS * 8;
const SLOT_BYTES: usize = SLOT_HEAD_BYTES + KEYS_BYTES + RECORDS_BYTES;
/// Bytes of a control memory.
pub const CONTROL_BYTES: usize = HEAD_BYTES + SLOTS * SLOT_BYTES;
/// Bytes of text in an answer.
pub const DETAIL_BYTES_MAX: usize = 512;

/// In [`SlotHead::progress`]: nothing more comes.
pub const DONE: u32 = 1 << 31;

/// A cache line of its own: what one side polls is not beside what the other writes.
#[repr(C, align(64))]
pub struct Line<T>(pub T);

/// The head of the control memory.
#[repr(C)]
pub struct ControlHead {
    magic: AtomicU64,
    version: AtomicU32,
    slots: AtomicU32,
    /// 1: the agent waits for the doorbell.
    pub agent_sleeps: Line<AtomicU32>,
    /// Bit i: slot i has a question.
    pub submitted: Line<AtomicU64>,
    /// Bit i: the engine has what it wanted of slot i; or looks at what it has taken of it.
    pub released: Line<AtomicU64>,
}

/// The head of a slot.
#[repr(C)]
pub struct SlotHead {
    /// The question: written by the engine before it sets the bit.
    pub op: AtomicU32,
    pub namespace: AtomicU32,
    pub shard: AtomicU32,
    pub keys: AtomicU32,
    pub flags: AtomicU32,
    /// Microseconds that the engine will wait.
    pub wait_us: AtomicU32,
    pub min_revision: AtomicU64,
    pub parent: [AtomicU64; KEY_WORDS],
    /// By the engine while the agent answers: it wants nothing more of this slot.
    pub left: Line<AtomicU32>,
    /// How many records are answered, and [`DONE`]: the engine waits for it.
    pub progress: Line<AtomicU32>,
    /// By the engine: 1, it sleeps on `progress`.
    pub engine_sleeps: Line<AtomicU32>,
    /// The answer: written by the agent before [`DONE`].
    pub status: Line<AtomicU32>,
    pub l1_pages: AtomicU32,
    pub l3_pages: AtomicU32,
    pub pages: AtomicU32,
    pub revision: AtomicU64,
    /// Where the shard lies in a page's frame; written by the agent before the first record.
    pub shard_offset: AtomicU64,
    pub shard_bytes: AtomicU64,
    pub detail_bytes: AtomicU32,
    pub detail: [AtomicU64; DETAIL_BYTES_MAX / 8],
}

const _: () = assert!(size_of::<ControlHead>() <= HEAD_BYTES && size_of::<SlotHead>() <= SLOT_HEAD_BYTES);
const _: () = assert!(SLOT_BYTES.is_multiple_of(4096) && SLOTS <= 64);

/// One session's control memory, on either side.
pub struct Control(Mapping);

impl Control {
    /// Over fresh, zeroed memory of [`CONTROL_BYTES`]: the agent's.
    pub fn create(mapping: Mapping) -> io::Result<Self> {
        let control = Self::over(mapping)?;
        let head = control.head();
        head.version.store(VERSION, Ordering::Relaxed);
        head.slots.store(SLOTS as u32, Ordering::Relaxed);
        head.magic.store(MAGIC, Ordering::Release);
        Ok(control)
    }

    /// Over memory that an agent sent.
    pub fn open(mapping: Mapping) -> io::Result<Self> {
        let control = Self::over(mapping)?;
        let head = control.head();
        let (magic, version) = (head.magic.load(Ordering::Acquire), head.version.load(Ordering::Relaxed));
        if magic != MAGIC || version != VERSION || head.slots.load(Ordering::Relaxed) != SLOTS as u32 {
            return Err(io::Error::other(format!("expected control memory of version {VERSION}, got {version}")));
        }
        Ok(control)
    }

    fn over(mapping: Mapping) -> io::Result<Self> {
        if mapping.bytes() < CONTROL_BYTES {
            let message = format!("expected control memory of {CONTROL_BYTES} bytes, got {}", mapping.bytes());
            return Err(io::Error::other(message));
        }
        Ok(Self(mapping))
    }

    pub fn head(&self) -> &ControlHead {
        // SAFETY: the mapping is page-aligned and long enough (over()), lives as long as self, and holds only atomics
        // there.
        unsafe { self.0.base().cast::<ControlHead>().as_ref() }
    }

    /// Panics if there is no such slot.
    pub fn slot(&self, index: usize) -> SlotRef<'_> {
        assert!(index < SLOTS, "slot {index} of {SLOTS}");
        // SAFETY: the offset lies within the mapping, whose size over() checked.
        let base = unsafe { self.0.base().add(HEAD_BYTES + index * SLOT_BYTES) };
        SlotRef { base, _control: self }
    }
}

/// One slot.
#[derive(Clone, Copy)]
pub struct SlotRef<'a> {
    base: NonNull<u8>,
    _control: &'a Control,
}

// SAFETY: everything behind it is atomics in memory that lives as long as the control it borrows.
unsafe impl Send for SlotRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for SlotRef<'_> {}

impl<'a> SlotRef<'a> {
    pub fn head(self) -> &'a SlotHead {
        // SAFETY: page-aligned, within the mapping (Control::slot), atomics only, and it lives as long as the control.
        unsafe { self.base.cast::<SlotHead>().as_ref() }
    }

    fn words(self, offset: usize, words: usize) -> &'a [AtomicU64] {
        assert!(offset + words * 8 <= SLOT_BYTES, "words {offset} + {words} of a slot");
        // SAFETY: within the slot, 8-aligned (all offsets are multiples of 32), atomics only, and it lives as long as
        // the control.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast::<AtomicU64>().as_ptr(), words) }
    }

    /// Writes the question's keys. Panics if they are more than [`KEYS_PER_SLOT_MAX`].
    pub fn set_keys(self, keys: &[[u8; KEY_BYTES]]) {
        assert!(keys.len() <= KEYS_PER_SLOT_MAX, "{} keys in a slot", keys.len());
        let words = self.words(SLOT_HEAD_BYTES, keys.len() * KEY_WORDS);
        for (words, key) in words.chunks_exact(KEY_WORDS).zip(keys) {
            store_bytes(words, key);
        }
        self.head().keys.store(keys.len() as u32, Ordering::Relaxed);
    }

    /// Copies the question's keys out, as they are now. None: it claims more than there can be.
    pub fn keys(self) -> Option<Vec<[u8; KEY_BYTES]>> {
        let keys = self.head().keys.load(Ordering::Relaxed) as usize;
        if keys > KEYS_PER_SLOT_MAX {
            return None;
        }
        let words = self.words(SLOT_HEAD_BYTES, keys * KEY_WORDS);
        Some(words.chunks_exact(KEY_WORDS).map(load_bytes).collect())
    }

    /// Record `index`: four words. Panics if there is none.
    pub fn record(self, index: usize) -> &'a [AtomicU64] {
        assert!(index < KEYS_PER_SLOT_MAX, "record {index}");
        self.words(SLOT_HEAD_BYTES + KEYS_BYTES + index * RECORD_WORDS * 8, RECORD_WORDS)
    }

    /// Sets the page before the first key.
    pub fn set_parent(self, parent: &[u8; KEY_BYTES]) {
        store_bytes(&self.head().parent, parent);
    }

    /// The page before the first key.
    pub fn parent(self) -> [u8; KEY_BYTES] {
        load_bytes(&self.head().parent)
    }

    /// Says what was wrong, cut to [`DETAIL_BYTES_MAX`].
    pub fn set_detail(self, text: &str) {
        let bytes = &text.as_bytes()[..text.len().min(DETAIL_BYTES_MAX)];
        for (word, bytes) in self.head().detail.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        self.head().detail_bytes.store(bytes.len() as u32, Ordering::Relaxed);
    }

    /// What was wrong.
    pub fn detail(self) -> String {
        let bytes = (self.head().detail_bytes.load(Ordering::Relaxed) as usize).min(DETAIL_BYTES_MAX);
        let words = self.head().detail.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        String::from_utf8_lossy(&words.take(bytes).collect::<Vec<_>>()).into_owned()
    }
}

fn store_bytes(words: &[AtomicU64], bytes: &[u8; KEY_BYTES]) {
    for (word, bytes) in words.iter().zip(bytes.as_chunks::<8>().0) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
}

fn load_bytes(words: &[AtomicU64]) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *bytes = word.load(Ordering::Relaxed).to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::SharedMemory;
    use super::*;

    fn control() -> Control {
        let memory = SharedMemory::create("foreword-test", CONTROL_BYTES).unwrap();
        Control::create(memory.map_writable().unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_into_a_slot_comes_out_of_it_and_of_no_other() {
        let control = control();
        let keys: Vec<[u8; 32]> = (0..KEYS_PER_SLOT_MAX).map(|i| std::array::from_fn(|j| (i * 7 + j) as u8)).collect();
        let (last, other) = (control.slot(SLOTS - 1), control.slot(SLOTS - 2));
        last.set_keys(&keys);
        last.set_parent(&keys[5]);
        last.set_detail("namespace_id: expected one");
        last.record(KEYS_PER_SLOT_MAX - 1)[3].store(9, Ordering::Relaxed);
        assert_eq!(last.keys().unwrap(), keys);
        assert_eq!((last.parent(), last.detail()), (keys[5], "namespace_id: expected one".to_owned()));
        assert_eq!((other.keys().unwrap().len(), other.detail()), (0, String::new()));
        assert_eq!(last.record(KEYS_PER_SLOT_MAX - 1)[3].load(Ordering::Relaxed), 9);
    }

    #[test]
    fn a_slot_that_claims_more_keys_than_it_has_room_for_has_none() {
        let control = control();
        control.slot(0).head().keys.store(KEYS_PER_SLOT_MAX as u32 + 1, Ordering::Relaxed);
        assert!(control.slot(0).keys().is_none());
    }

    #[test]
    fn text_that_is_too_long_is_cut() {
        let control = control();
        control.slot(0).set_detail(&"x".repeat(2 * DETAIL_BYTES_MAX));
        assert_eq!(control.slot(0).detail().len(), DETAIL_BYTES_MAX);
        control.slot(0).head().detail_bytes.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(control.slot(0).detail().len(), DETAIL_BYTES_MAX);
    }

    #[test]
    fn memory_that_is_no_control_memory_is_refused() {
        let short = SharedMemory::create("foreword-test", 4096).unwrap().map_writable().unwrap();
        assert!(Control::create(short).is_err());
        let empty = SharedMemory::create("foreword-test", CONTROL_BYTES).unwrap().map_writable().unwrap();
        assert!(Control::open(empty).is_err());
    }
}
