//! Where things lie in a ring's memory. Pure.
//!
//! ```text
//! @0        sqe head, sqe tail, cqe head, cqe tail   i32 each; a ring of E cells holds E - 1 I/Os
//! @16       args[E]   56 B   iov id, iov offset, file, file offset, length, userdata
//! @16+56E   cqe[E]    24 B   index, reserved, result, userdata
//! @16+80E   sqe[E]    16 B   index, padding, userdata
//! @16+96E   sem_t     32 B   posted once for each finished job
//! ```
//! The client owns sqe head and cqe tail, the daemon sqe tail and cqe head.

use crate::name::IovId;

/// Bytes of the cursors in front of the cells.
pub(crate) const CURSORS_BYTES: usize = 16;
pub const ARGS_BYTES: usize = 56;
pub const CQE_BYTES: usize = 24;
pub const SQE_BYTES: usize = 16;
/// glibc's `sem_t` on x86-64.
pub const SEMAPHORE_BYTES: usize = 32;
/// What a ring's memory has more than it needs.
pub const RING_SPARE_BYTES: usize = 4096;
/// I/Os one ring holds at most: 96 MiB of memory.
pub const ENTRIES_MAX: u32 = 1 << 20;

const CELL_BYTES: usize = ARGS_BYTES + CQE_BYTES + SQE_BYTES;
const FIXED_BYTES: usize = CURSORS_BYTES + SEMAPHORE_BYTES + RING_SPARE_BYTES;

/// The sizes and offsets of one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    cells: u32,
}

impl RingLayout {
    /// A ring for so many I/Os at once; None for 0 or more than [`ENTRIES_MAX`].
    pub fn with_entries(entries: u32) -> Option<Self> {
        (1..=ENTRIES_MAX).contains(&entries).then_some(Self { cells: entries + 1 })
    }

    /// The ring that memory of this size holds, as a daemon computes it; None if it holds no I/O, or too many.
    pub fn of_bytes(ring_bytes: u64) -> Option<Self> {
        let cells = ring_bytes.checked_sub(FIXED_BYTES as u64)? / CELL_BYTES as u64;
        Self::with_entries(u32::try_from(cells.checked_sub(1)?).ok()?)
    }

    /// Bytes of the ring's memory.
    pub fn bytes(self) -> u64 {
        (FIXED_BYTES + CELL_BYTES * self.cells as usize) as u64
    }

    /// Cells of each section; cursors go from 0 to this, exclusive.
    pub fn cells(self) -> u32 {
        self.cells
    }

    /// I/Os the ring holds at once: one less than its cells, so that full and empty differ.
    pub fn entries(self) -> u32 {
        self.cells - 1
    }

    /// Offset of the arguments of a slot.
    pub fn args_at(self, index: u32) -> usize {
        CURSORS_BYTES + ARGS_BYTES * self.checked(index)
    }

    /// Offset of a completion's cell.
    pub fn cqe_at(self, index: u32) -> usize {
        CURSORS_BYTES + ARGS_BYTES * self.cells as usize + CQE_BYTES * self.checked(index)
    }

    /// Offset of a submission's cell.
    pub fn sqe_at(self, index: u32) -> usize {
        CURSORS_BYTES + (ARGS_BYTES + CQE_BYTES) * self.cells as usize + SQE_BYTES * self.checked(index)
    }

    /// Offset of the completion semaphore.
    pub fn semaphore_at(self) -> usize {
        CURSORS_BYTES + CELL_BYTES * self.cells as usize
    }

    /// The cursor after this one.
    pub fn next(self, cursor: u32) -> u32 {
        (cursor + 1) % self.cells
    }

    /// Steps from one cursor to another.
    pub fn distance(self, from: u32, to: u32) -> u32 {
        (to + self.cells - from) % self.cells
    }

    fn checked(self, index: u32) -> usize {
        assert!(index < self.cells, "cell {index} of {}", self.cells);
        index as usize
    }
}

/// The four cursors of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// The client's: where the next submission goes.
    SqeHead,
    /// The daemon's: the first submission that is not finished.
    SqeTail,
    /// The daemon's: where the next completion goes.
    CqeHead,
    /// The client's: the first completion not taken.
    CqeTail,
}

impl Cursor {
    /// Offset in the ring's memory.
    pub fn at(self) -> usize {
        match self {
            Self::SqeHead => 0,
            Self::SqeTail => 4,
            Self::CqeHead => 8,
            Self::CqeTail => 12,
        }
    }
}

/// One I/O as the client describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoArgs {
    pub iov: IovId,
    pub iov_offset: u64,
    /// The file's number: its `st_ino` on the mount.
    pub file: u64,
    pub file_offset: u64,
    pub len: u64,
    pub userdata: u64,
}

/// One submission: which slot's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sqe {
    pub index: i32,
    pub userdata: u64,
}

/// One completion: bytes moved, or a negated errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cqe {
    pub index: i32,
    pub result: i64,
    pub userdata: u64,
}

impl IoArgs {
    /// As it lies in memory.
    pub fn to_bytes(&self) -> [u8; ARGS_BYTES] {
        let mut bytes = [0; ARGS_BYTES];
        bytes[..16].copy_from_slice(&self.iov.0);
        let words = [self.iov_offset, self.file, self.file_offset, self.len, self.userdata];
        for (word, place) in words.iter().zip(bytes[16..].chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// From memory; any bytes are some I/O.
    pub fn from_bytes(bytes: &[u8; ARGS_BYTES]) -> Self {
        let word = |at| u64::from_ne_bytes(part(bytes, at));
        Self {
            iov: IovId(part(bytes, 0)),
            iov_offset: word(16),
            file: word(24),
            file_offset: word(32),
            len: word(40),
            userdata: word(48),
        }
    }
}

impl Sqe {
    /// As it lies in memory.
    pub fn to_bytes(&self) -> [u8; SQE_BYTES] {
        let mut bytes = [0; SQE_BYTES];
        bytes[..4].copy_from_slice(&self.index.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.userdata.to_ne_bytes());
        bytes
    }

    /// From memory.
    pub fn from_bytes(bytes: &[u8; SQE_BYTES]) -> Self {
        Self { index: i32::from_ne_bytes(part(bytes, 0)), userdata: u64::from_ne_bytes(part(bytes, 8)) }
    }
}

impl Cqe {
    /// As it lies in memory.
    pub fn to_bytes(&self) -> [u8; CQE_BYTES] {
        let mut bytes = [0; CQE_BYTES];
        bytes[..4].copy_from_slice(&self.index.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.result.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.userdata.to_ne_bytes());
        bytes
    }

    /// From memory.
    pub fn from_bytes(bytes: &[u8; CQE_BYTES]) -> Self {
        Self {
            index: i32::from_ne_bytes(part(bytes, 0)),
            result: i64::from_ne_bytes(part(bytes, 8)),
            userdata: u64::from_ne_bytes(part(bytes, 16)),
        }
    }
}

/// `N` bytes from `at` on; both are constants of this file.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_ring_of_1024_lies_as_the_vendors() {
        let ring = RingLayout::with_entries(1024).unwrap();
        assert_eq!(ring.bytes(), 4144 + 96 * 1025);
        assert_eq!((ring.args_at(0), ring.args_at(1)), (16, 72));
        assert_eq!((ring.cqe_at(0), ring.sqe_at(0)), (16 + 56 * 1025, 16 + 80 * 1025));
        assert_eq!(ring.semaphore_at(), 16 + 96 * 1025);
        assert_eq!(RingLayout::of_bytes(ring.bytes()), Some(ring));
    }

    #[test]
    fn sizes_without_room_for_an_io_are_none() {
        for bytes in [0, 4095, 4143, 4144, 4144 + 96, 4144 + 191, u64::MAX] {
            assert_eq!(RingLayout::of_bytes(bytes), None, "{bytes}");
        }
        assert_eq!(RingLayout::of_bytes(4144 + 192).unwrap().entries(), 1);
        assert_eq!(RingLayout::with_entries(0), None);
        assert_eq!(RingLayout::with_entries(ENTRIES_MAX + 1), None);
    }

    #[test]
    fn records_lie_as_the_vendors() {
        let args = IoArgs { iov: IovId([7; 16]), iov_offset: 1, file: 2, file_offset: 3, len: 4, userdata: 5 };
        let bytes = args.to_bytes();
        assert_eq!((bytes[16], bytes[24], bytes[32], bytes[40], bytes[48]), (1, 2, 3, 4, 5));
        assert_eq!(Sqe { index: -2, userdata: 9 }.to_bytes()[..9], [0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9]);
        let cqe = Cqe { index: 1, result: -5, userdata: 6 }.to_bytes();
        assert_eq!((cqe[0], cqe[8], cqe[15], cqe[16]), (1, 0xfb, 0xff, 6));
    }

    proptest! {
        #[test]
        fn any_size_is_cut_within_itself(bytes in 0u64..200_000_000) {
            if let Some(ring) = RingLayout::of_bytes(bytes) {
                prop_assert!(ring.bytes() <= bytes);
                let last = ring.cells() - 1;
                prop_assert!(ring.args_at(last) + ARGS_BYTES <= ring.cqe_at(0));
                prop_assert!(ring.cqe_at(last) + CQE_BYTES <= ring.sqe_at(0));
                prop_assert!(ring.sqe_at(last) + SQE_BYTES <= ring.semaphore_at());
                prop_assert!((ring.semaphore_at() + SEMAPHORE_BYTES) as u64 <= bytes);
            }
        }

        #[test]
        fn records_come_back(bytes: [u8; 32], more: [u8; 24]) {
            let mut all = [0; ARGS_BYTES];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&more);
            prop_assert_eq!(IoArgs::from_bytes(&all).to_bytes(), all);
        }
    }
}
