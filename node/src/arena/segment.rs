//! One segment: a region cut into frames of one size, with their generations behind them and their holders beside them.
//!
//! ```text
//! region   frame 0 | frame 1 | … | frame n-1 | generation 0 … n-1 (u64 each, native order) | to a multiple of 4,096
//! private  holders of each frame, quarantines of each frame
//! ```

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Weak;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

use super::shared::Shared;
use super::{FRAME_ALIGN_BYTES, FrameClass, Region, SegmentId, SegmentShare, SegmentWatch};

const GENERATION_BYTES: u64 = size_of::<AtomicU64>() as u64;

pub(super) struct Segment {
    id: SegmentId,
    class: FrameClass,
    region: Region,
    frames: Box<[FrameState]>,
    /// Frames with more than one holder. It may lag behind the holders for a moment, and be negative then.
    frames_shared: AtomicI32,
    arena: Weak<Shared>,
}

/// What this process alone knows of a frame.
#[derive(Default)]
struct FrameState {
    /// FrameMut, Frames and Quarantineds of it. 0: free.
    holders: AtomicU32,
    /// Quarantineds of it.
    quarantines: AtomicU32,
}

impl Segment {
    /// Bytes of a region for `frames` frames and their generations.
    pub(super) fn region_bytes(class: FrameClass, frames: u32) -> u64 {
        let frames = u64::from(frames);
        frames * class.frame_bytes + (frames * GENERATION_BYTES).next_multiple_of(FRAME_ALIGN_BYTES)
    }

    /// Cuts a fresh region.
    pub(super) fn new(id: SegmentId, class: FrameClass, frames: u32, region: Region, arena: Weak<Shared>) -> Self {
        let needed = Self::region_bytes(class, frames);
        assert!(region.bytes() as u64 >= needed, "a region of {} bytes, {needed} wanted", region.bytes());
        let frames = (0..frames).map(|_| FrameState::default()).collect();
        Self { id, class, region, frames, frames_shared: AtomicI32::new(0), arena }
    }

    pub(super) fn id(&self) -> SegmentId {
        self.id
    }

    pub(super) fn class(&self) -> FrameClass {
        self.class
    }

    pub(super) fn frames(&self) -> u32 {
        self.frames.len() as u32
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    /// The first holder of a free frame; gives the frame's new generation.
    pub(super) fn begin(&self, index: u32) -> u64 {
        let before = self.state(index).holders.swap(1, Ordering::Acquire);
        assert_eq!(before, 0, "frame {index} of segment {} was given out while held", self.id);
        let generation = self.generation_cell(index).fetch_add(1, Ordering::Relaxed) + 1;
        // The bump is seen before any byte written after it: who reads such a byte and then the generation sees a
        // change.
        fence(Ordering::Release);
        generation
    }

    /// One more holder of a held frame.
    pub(super) fn join(&self, index: u32) {
        let before = self.state(index).holders.fetch_add(1, Ordering::Relaxed);
        assert!(before > 0 && before < u32::MAX / 2, "frame {index} of segment {} has {before} holders", self.id);
        if before == 1 {
            self.frames_shared.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A holder goes; the last one frees the frame, the last but one may leave it to L1 alone.
    pub(super) fn leave(&self, index: u32) {
        match self.state(index).holders.fetch_sub(1, Ordering::Release) {
            1 => {
                // All that the other holders did with the bytes happened before the next use.
                fence(Ordering::Acquire);
                if let Some(arena) = self.arena.upgrade() {
                    arena.books.lock().free(self.id, index);
                    arena.frames_changed();
                }
            }
            2 => {
                self.frames_shared.fetch_sub(1, Ordering::Relaxed);
                if let Some(arena) = self.arena.upgrade() {
                    arena.frames_changed();
                }
            }
            _ => {}
        }
    }

    /// Frames with more than one holder, about.
    pub(super) fn frames_shared(&self) -> u32 {
        self.frames_shared.load(Ordering::Relaxed).max(0) as u32
    }

    /// Holders of a frame right now.
    pub(super) fn holders(&self, index: u32) -> usize {
        self.state(index).holders.load(Ordering::Acquire) as usize
    }

    /// The frame's generation, as other processes see it.
    pub(super) fn generation(&self, index: u32) -> u64 {
        self.generation_cell(index).load(Ordering::Acquire)
    }

    /// A holder's I/O lost its completion.
    pub(super) fn quarantine(&self, index: u32) {
        if self.state(index).quarantines.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(arena) = self.arena.upgrade()
        {
            arena.books.lock().quarantined(self.id, 1);
        }
    }

    /// The completion came after all.
    pub(super) fn end_quarantine(&self, index: u32) {
        if self.state(index).quarantines.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(arena) = self.arena.upgrade()
        {
            arena.books.lock().quarantined(self.id, -1);
        }
    }

    /// Whether it has left its arena.
    pub(super) fn is_retired(&self) -> bool {
        self.watch().is_retired()
    }

    pub(super) fn watch(&self) -> SegmentWatch {
        SegmentWatch::new(self.id, self.arena.clone())
    }

    /// What another process maps to see it.
    pub(super) fn share(&self) -> io::Result<Option<SegmentShare>> {
        let Some(descriptor) = self.region.share()? else { return Ok(None) };
        let (region_bytes, frame_bytes) = (self.region.bytes() as u64, self.class.frame_bytes);
        Ok(Some(SegmentShare { id: self.id, descriptor, region_bytes, frame_bytes, frames: self.frames() }))
    }

    /// Offset of a frame in the region.
    pub(super) fn frame_offset(&self, index: u32) -> u64 {
        assert!(index < self.frames(), "frame {index} of {}", self.frames());
        u64::from(index) * self.class.frame_bytes
    }

    /// The first `len` bytes of a frame, to read.
    ///
    /// # Safety
    /// The caller is a holder of the frame for as long as the slice lives, and no holder writes to the frame meanwhile.
    pub(super) unsafe fn bytes(&self, index: u32, len: usize) -> &[u8] {
        let start = self.frame_ptr(index, len);
        // SAFETY: frame_ptr checked that the range lies within the frame; the region is initialised and outlives self;
        // nobody writes, by the caller's promise.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// The first `len` bytes of a frame, to write.
    ///
    /// # Safety
    /// The caller is the only holder of the frame, and hands the slice out under a borrow that excludes any other.
    #[expect(
        clippy::mut_from_ref,
        reason = "the frame's exclusive owner borrows itself mutably; see FrameMut::bytes_mut"
    )]
    pub(super) unsafe fn bytes_mut(&self, index: u32, len: usize) -> &mut [u8] {
        let start = self.frame_ptr(index, len);
        // SAFETY: frame_ptr checked that the range lies within the frame, frames do not overlap, and the caller is
        // alone.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// A part of a frame, to write.
    ///
    /// # Safety
    /// The caller holds the frame, nobody else touches this part of it, and the slice is handed out under a borrow that
    /// excludes any other of the part.
    #[expect(
        clippy::mut_from_ref,
        reason = "the part's exclusive owner borrows itself mutably; see FramePart::bytes_mut"
    )]
    pub(super) unsafe fn part_mut(&self, index: u32, part: Range<usize>) -> &mut [u8] {
        let start = self.frame_ptr(index, part.end);
        // SAFETY: frame_ptr checked that the part lies within the frame, and the caller is alone in it.
        unsafe { std::slice::from_raw_parts_mut(start.add(part.start).as_ptr(), part.len()) }
    }

    fn frame_ptr(&self, index: u32, len: usize) -> NonNull<u8> {
        let offset = self.frame_offset(index);
        assert!(len as u64 <= self.class.frame_bytes, "{len} bytes of a frame of {}", self.class.frame_bytes);
        // SAFETY: index is below frames(), so the offset lies within the region, whose size new() checked.
        unsafe { self.region.base().add(offset as usize) }
    }

    fn generation_cell(&self, index: u32) -> &AtomicU64 {
        assert!(index < self.frames(), "frame {index} of {}", self.frames());
        let offset = u64::from(self.frames()) * self.class.frame_bytes + u64::from(index) * GENERATION_BYTES;
        // SAFETY: the generations lie behind the frames, within the region (new() checked its size), 8-aligned because
        // the region is 4,096-aligned and frames are multiples of that; this process touches them only as atomics.
        unsafe { self.region.base().add(offset as usize).cast::<AtomicU64>().as_ref() }
    }

    fn state(&self, index: u32) -> &FrameState {
        &self.frames[index as usize]
    }
}
