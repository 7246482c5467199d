//! What a slot asks, and how it is answered: numbers of the wire.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a slot asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Op {
    /// Leading pages that the agent could deliver now.
    Lookup = 1,
    /// Where each page is.
    Locate = 2,
    /// Pages, in order.
    Get = 3,
    /// Which pages' bytes a put would take.
    Wanted = 4,
    /// Pages whose bytes lie in staging memory.
    Put = 5,
    /// Pages that will be asked for: read into L1.
    Prefetch = 6,
}

impl Op {
    /// From the wire's number.
    pub fn from_u32(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Lookup,
            2 => Self::Locate,
            3 => Self::Get,
            4 => Self::Wanted,
            5 => Self::Put,
            6 => Self::Prefetch,
            _ => return None,
        })
    }
}

/// Flags of a question.
pub mod flags {
    /// A get goes on after a miss.
    pub const EVERY_KEY: u32 = 1;
    /// A lookup asks the group's leader first.
    pub const LINEARIZABLE: u32 = 2;
    /// A put is over when each page is published or refused.
    pub const WAIT_PUBLISHED: u32 = 4;
    /// A get reads L3 even when a nearer tier has the page.
    pub const BYPASS_CACHE: u32 = 8;
    /// A put's parent is given.
    pub const PARENT: u32 = 16;
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    Ok = 0,
    /// The question is not one; the detail names the field.
    BadInput = 1,
    UnknownNamespace = 2,
    /// The mirror did not reach the revision in time.
    Behind = 3,
    /// Not now; the detail says why.
    Unavailable = 4,
}

impl Status {
    /// From the wire's number; what is unknown is no answer to rely on.
    pub fn from_u32(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::BadInput,
            2 => Self::UnknownNamespace,
            3 => Self::Behind,
            _ => Self::Unavailable,
        }
    }
}

/// Why a page was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MissCode {
    Absent = 1,
    ReadFailed = 2,
    Checksum = 3,
    BreakerOpen = 4,
    Deadline = 5,
    NoRoom = 6,
    Behind = 7,
    /// Its frame cannot be mapped, or was used anew while it was copied.
    Gone = 8,
}

impl MissCode {
    /// From the wire's number.
    pub fn from_u32(number: u32) -> Self {
        match number {
            1 => Self::Absent,
            2 => Self::ReadFailed,
            3 => Self::Checksum,
            4 => Self::BreakerOpen,
            5 => Self::Deadline,
            6 => Self::NoRoom,
            7 => Self::Behind,
            _ => Self::Gone,
        }
    }
}

/// One page's answer to a get: a page in a frame, or a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageRecord {
    /// Tier 1 to 3; the frame `index` of a segment, in this use of it.
    Page {
        tier: u32,
        segment: u32,
        index: u32,
        generation: u64,
    },
    Miss(MissCode),
}

const PAGE: u32 = 1;
const MISS: u32 = 2;

impl PageRecord {
    /// Writes it; the third word, which the engine writes, is cleared first.
    pub fn store(self, words: &[AtomicU64]) {
        let (kind, detail, frame, generation) = match self {
            Self::Page { tier, segment, index, generation } => (PAGE, tier, pair(segment, index), generation),
            Self::Miss(code) => (MISS, code as u32, 0, 0),
        };
        words[TAKEN].store(0, Ordering::Relaxed);
        words[1].store(frame, Ordering::Relaxed);
        words[3].store(generation, Ordering::Relaxed);
        words[0].store(pair(kind, detail), Ordering::Release);
    }

    /// Reads it. None: it is neither.
    pub fn load(words: &[AtomicU64]) -> Option<Self> {
        let (kind, detail) = unpair(words[0].load(Ordering::Acquire));
        match kind {
            PAGE => {
                let (segment, index) = unpair(words[1].load(Ordering::Relaxed));
                Some(Self::Page { tier: detail, segment, index, generation: words[3].load(Ordering::Relaxed) })
            }
            MISS => Some(Self::Miss(MissCode::from_u32(detail))),
            _ => None,
        }
    }
}

/// The word of a get's record that the engine writes: it has copied the page.
const TAKEN: usize = 2;

/// The engine has copied this page.
pub fn set_taken(words: &[AtomicU64]) {
    words[TAKEN].store(1, Ordering::Release);
}

/// Whether it has.
pub fn is_taken(words: &[AtomicU64]) -> bool {
    words[TAKEN].load(Ordering::Acquire) != 0
}

/// What became of one page of a put, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum PutCode {
    /// Of a question which are wanted: its bytes are.
    Wanted = 1,
    Taken = 2,
    Published = 3,
    Exists = 4,
    Declined = 5,
    Refused = 6,
}

impl PutCode {
    /// From the wire's number; what is unknown was not taken.
    pub fn from_u32(number: u32) -> Self {
        match number {
            1 => Self::Wanted,
            2 => Self::Taken,
            3 => Self::Published,
            4 => Self::Exists,
            5 => Self::Declined,
            _ => Self::Refused,
        }
    }
}

/// Writes a put's question for one page: where in the staging memory its bytes lie.
pub fn store_staged(words: &[AtomicU64], offset: u64) {
    words[1].store(offset, Ordering::Relaxed);
}

/// Reads it.
pub fn load_staged(words: &[AtomicU64]) -> u64 {
    words[1].load(Ordering::Relaxed)
}

/// Writes a put's answer for one page; `reason` is the refusal's number, 0 for none.
pub fn store_put(words: &[AtomicU64], code: PutCode, reason: u32, revision: u64) {
    words[3].store(revision, Ordering::Relaxed);
    words[0].store(pair(code as u32, reason), Ordering::Release);
}

/// Reads it: the code, the refusal's number, the revision.
pub fn load_put(words: &[AtomicU64]) -> (PutCode, u32, u64) {
    let (code, reason) = unpair(words[0].load(Ordering::Acquire));
    (PutCode::from_u32(code), reason, words[3].load(Ordering::Relaxed))
}

/// Writes where a page is: bit 0 L1, bit 1 L2, bit 2 L3.
pub fn store_tiers(words: &[AtomicU64], tiers: u8) {
    words[0].store(u64::from(tiers), Ordering::Release);
}

/// Reads it.
pub fn load_tiers(words: &[AtomicU64]) -> u8 {
    words[0].load(Ordering::Acquire) as u8
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn unpair(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> [AtomicU64; 4] {
        Default::default()
    }

    proptest! {
        #[test]
        fn a_page_record_comes_back(tier: u32, segment: u32, index: u32, generation: u64) {
            let (words, page) = (record(), PageRecord::Page { tier, segment, index, generation });
            set_taken(&words);
            page.store(&words);
            prop_assert_eq!(PageRecord::load(&words), Some(page));
            prop_assert!(!is_taken(&words));
        }

        /// Whatever the other side writes, reading it is an answer.
        #[test]
        fn rubbish_is_read_as_something(words: [u64; 4]) {
            let words = words.map(AtomicU64::new);
            let _ = PageRecord::load(&words);
            let _ = (load_put(&words), load_tiers(&words), load_staged(&words), is_taken(&words));
        }
    }

    #[test]
    fn numbers_come_back() {
        for code in
            [PutCode::Wanted, PutCode::Taken, PutCode::Published, PutCode::Exists, PutCode::Declined, PutCode::Refused]
        {
            let words = record();
            store_put(&words, code, 3, 7);
            assert_eq!(load_put(&words), (code, 3, 7));
        }
        for op in [Op::Lookup, Op::Locate, Op::Get, Op::Wanted, Op::Put, Op::Prefetch] {
            assert_eq!(Op::from_u32(op as u32), Some(op));
        }
        assert_eq!((Op::from_u32(0), Op::from_u32(7)), (None, None));
        for status in [Status::Ok, Status::BadInput, Status::UnknownNamespace, Status::Behind, Status::Unavailable] {
            assert_eq!(Status::from_u32(status as u32), status);
        }
        for code in 1..=8 {
            assert_eq!(MissCode::from_u32(code) as u32, code);
        }
    }
}
