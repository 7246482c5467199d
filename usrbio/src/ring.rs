//! A ring's memory: cursors as atomics, records copied whole. Another process writes it at the same time, perhaps out
//! of spite.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use crate::layout::{ARGS_BYTES, CQE_BYTES, Cqe, Cursor, IoArgs, RingLayout, SQE_BYTES, Sqe};
use crate::memory::Mapping;
use crate::semaphore;

const WORD: usize = size_of::<u64>();

/// One mapped ring. Every access lies within the mapping; what is read may be anything.
#[derive(Debug)]
pub struct RingMemory {
    mapping: Mapping,
    layout: RingLayout,
}

impl RingMemory {
    /// A ring in this memory; None if it is too small for one I/O or too large.
    pub fn new(mapping: Mapping) -> Option<Self> {
        let layout = RingLayout::of_bytes(mapping.bytes() as u64)?;
        Some(Self { mapping, layout })
    }

    pub fn layout(&self) -> RingLayout {
        self.layout
    }

    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// A cursor's value, whoever wrote it.
    pub fn load(&self, cursor: Cursor) -> i32 {
        self.cursor(cursor).load(Ordering::SeqCst)
    }

    /// Sets a cursor: what was written before is seen by whoever sees the value.
    pub fn store(&self, cursor: Cursor, value: i32) {
        self.cursor(cursor).store(value, Ordering::SeqCst);
    }

    /// Moves a cursor unless another has; true: moved.
    pub fn compare_exchange(&self, cursor: Cursor, from: i32, to: i32) -> bool {
        self.cursor(cursor).compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The arguments of a slot, copied once.
    pub fn args(&self, index: u32) -> IoArgs {
        IoArgs::from_bytes(&self.copy::<ARGS_BYTES>(self.layout.args_at(index)))
    }

    pub fn set_args(&self, index: u32, args: &IoArgs) {
        self.write(self.layout.args_at(index), &args.to_bytes());
    }

    /// A submission, copied once.
    pub fn sqe(&self, index: u32) -> Sqe {
        Sqe::from_bytes(&self.copy::<SQE_BYTES>(self.layout.sqe_at(index)))
    }

    pub fn set_sqe(&self, index: u32, sqe: &Sqe) {
        self.write(self.layout.sqe_at(index), &sqe.to_bytes());
    }

    /// A completion, copied once.
    pub fn cqe(&self, index: u32) -> Cqe {
        Cqe::from_bytes(&self.copy::<CQE_BYTES>(self.layout.cqe_at(index)))
    }

    pub fn set_cqe(&self, index: u32, cqe: &Cqe) {
        self.write(self.layout.cqe_at(index), &cqe.to_bytes());
    }

    /// Makes the completion semaphore: the daemon does, before the client's symlink() returns.
    pub fn init_semaphore(&self) {
        // SAFETY: semaphore() points to 32 aligned bytes of the mapping, which lives as long as self.
        unsafe { semaphore::init(self.semaphore()) }
    }

    /// Says that a job is finished.
    pub fn post(&self) {
        // SAFETY: as in init_semaphore.
        unsafe { semaphore::post(self.semaphore()) }
    }

    /// Waits for a finished job, so long at most; true: one was announced.
    pub fn wait(&self, timeout: Duration) -> bool {
        // SAFETY: as in init_semaphore.
        unsafe { semaphore::wait(self.semaphore(), timeout, false) }
    }

    fn semaphore(&self) -> NonNull<libc::sem_t> {
        self.at(self.layout.semaphore_at()).cast()
    }

    fn cursor(&self, cursor: Cursor) -> &AtomicI32 {
        // SAFETY: the four cursors lie in the first 16 bytes, aligned to 4; this process touches them only as atomics.
        unsafe { self.at(cursor.at()).cast::<AtomicI32>().as_ref() }
    }

    /// A word of a record: records lie at multiples of 8. Atomic, because the other side may write it meanwhile.
    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(WORD));
        // SAFETY: `at` is within the mapping (at() checks) and aligned to 8; this process touches records only as
        // atomics.
        unsafe { self.at(at).cast::<AtomicU64>().as_ref() }
    }

    fn copy<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        for (index, place) in bytes.chunks_exact_mut(WORD).enumerate() {
            place.copy_from_slice(&self.word(at + index * WORD).load(Ordering::Relaxed).to_ne_bytes());
        }
        bytes
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        for (index, part) in bytes.chunks_exact(WORD).enumerate() {
            let word = u64::from_ne_bytes(std::array::from_fn(|byte| part[byte]));
            self.word(at + index * WORD).store(word, Ordering::Relaxed);
        }
    }

    fn at(&self, at: usize) -> NonNull<u8> {
        assert!(at + size_of::<libc::sem_t>() <= self.mapping.bytes(), "offset {at} of {}", self.mapping.bytes());
        // SAFETY: within the mapping, as just checked.
        unsafe { self.mapping.base().add(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IovId, ShmFile};

    fn ring(entries: u32, name: &str) -> (ShmFile, RingMemory) {
        let layout = RingLayout::with_entries(entries).unwrap();
        let name = format!("foreword-test-ring-{name}-{}", std::process::id());
        let file = ShmFile::create(&name, layout.bytes(), 0o600, false).unwrap();
        let memory = RingMemory::new(file.map(layout.bytes() as usize).unwrap()).unwrap();
        (file, memory)
    }

    #[test]
    fn what_one_mapping_writes_another_reads() {
        let (file, one) = ring(3, "two");
        let other = RingMemory::new(file.map(one.mapping().bytes()).unwrap()).unwrap();
        assert_eq!(other.layout(), one.layout());
        for index in 0..one.layout().cells() {
            let number = u64::from(index) + 1;
            let args = IoArgs {
                iov: IovId([index as u8; 16]),
                iov_offset: number,
                file: number << 8,
                file_offset: number << 16,
                len: number << 24,
                userdata: number << 32,
            };
            let sqe = Sqe { index: index as i32, userdata: number };
            let cqe = Cqe { index: -(index as i32), result: -(number as i64), userdata: number };
            one.set_args(index, &args);
            one.set_sqe(index, &sqe);
            one.set_cqe(index, &cqe);
            assert_eq!((other.args(index), other.sqe(index), other.cqe(index)), (args, sqe, cqe));
        }
        one.store(Cursor::SqeHead, 2);
        assert_eq!(other.load(Cursor::SqeHead), 2);
        assert!(other.compare_exchange(Cursor::CqeTail, 0, 1) && !one.compare_exchange(Cursor::CqeTail, 0, 1));
        one.init_semaphore();
        assert!(!other.wait(Duration::ZERO));
        one.post();
        assert!(other.wait(Duration::from_secs(30)));
    }

    #[test]
    #[should_panic(expected = "cell 4 of 4")]
    fn a_cell_that_is_not_there_panics() {
        ring(3, "outside").1.sqe(4);
    }
}
