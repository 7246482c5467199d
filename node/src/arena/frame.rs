//! Frames as values: one writer, or many readers.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::Arc;

use super::segment::Segment;
use super::{FrameClass, Region, SegmentId, SegmentShare, SegmentWatch};

/// Name of a frame within its arena. With a generation it names one use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId {
    pub segment: SegmentId,
    pub index: u32,
}

/// One holder of a frame; the frame is free when the last one drops.
struct Held {
    segment: Arc<Segment>,
    index: u32,
    len: usize,
    generation: u64,
}

impl Held {
    fn id(&self) -> FrameId {
        FrameId { segment: self.segment.id(), index: self.index }
    }

    fn quarantine(self) -> Quarantined {
        self.segment.quarantine(self.index);
        Quarantined(ManuallyDrop::new(self))
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        self.segment.join(self.index);
        Self { segment: self.segment.clone(), index: self.index, len: self.len, generation: self.generation }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.segment.leave(self.index);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} generation {}, {} bytes", self.segment.id(), self.index, self.generation, self.len)
    }
}

/// A frame with one owner, who writes it.
#[derive(Debug)]
pub struct FrameMut(Held);

impl FrameMut {
    /// Takes a free frame; `len` is at most the segment's frame size.
    pub(super) fn new(segment: Arc<Segment>, index: u32, len: u64) -> Self {
        let generation = segment.begin(index);
        Self(Held { segment, index, len: len as usize, generation })
    }

    /// Its bytes: zeros or what an earlier page of the same tenant left, until written.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: this FrameMut is the frame's only holder, and a writer would borrow it mutably.
        unsafe { self.0.segment.bytes(self.0.index, self.0.len) }
    }

    /// Its bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: this FrameMut is the frame's only holder (it is not Clone, and becomes a Frame only by value), and it
        // is borrowed mutably for as long as the slice lives.
        unsafe { self.0.segment.bytes_mut(self.0.index, self.0.len) }
    }

    /// Bytes of the frame, as allocated.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Never: a frame has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    pub fn id(&self) -> FrameId {
        self.0.id()
    }

    /// Which use of the frame this is; from 1.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Whose frame it is, and of which size.
    pub fn class(&self) -> FrameClass {
        self.0.segment.class()
    }

    /// The region it lies in, and where: what an I/O by another process names it with.
    pub fn region(&self) -> (&Region, u64) {
        (self.0.segment.region(), self.0.segment.frame_offset(self.0.index))
    }

    /// Cuts it into parts, each with a writer of its own.
    ///
    /// Panics if a part begins before the one in front of it ends, or lies beyond the frame.
    pub fn split(self, parts: impl IntoIterator<Item = Range<usize>>) -> Vec<FramePart> {
        let (whole, mut free_from) = (Arc::new(self), 0);
        let part = |part: Range<usize>| {
            assert!(
                free_from <= part.start && part.start <= part.end && part.end <= whole.len(),
                "{part:?} of {whole:?}"
            );
            free_from = part.end;
            FramePart { whole: whole.clone(), part }
        };
        parts.into_iter().map(part).collect()
    }

    /// The frame whose parts these are. None unless these are all that are left of it: another one may still be
    /// written.
    pub fn join(parts: Vec<FramePart>) -> Option<Self> {
        let mut wholes = parts.into_iter().map(|part| part.whole);
        let whole = wholes.next()?;
        wholes.all(|other| Arc::ptr_eq(&whole, &other)).then(|| Arc::into_inner(whole)).flatten()
    }

    /// Ends the writing: from now on nobody changes the bytes.
    pub fn freeze(self) -> Frame {
        Frame(self.0)
    }

    /// Sets the frame aside because its I/O was never answered.
    pub fn quarantine(self) -> Quarantined {
        self.0.quarantine()
    }
}

/// A part of a frame with one owner, who writes it. The frame is free when the last part drops.
#[derive(Debug)]
pub struct FramePart {
    /// Nobody looks at its bytes before it is one again: it was taken by value, and comes back through
    /// [`FrameMut::join`] only.
    whole: Arc<FrameMut>,
    part: Range<usize>,
}

impl FramePart {
    /// The part's bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let held = &self.whole.0;
        // SAFETY: parts of a frame do not overlap (FrameMut::split), a part is not Clone, and it is borrowed mutably
        // for as long as the slice lives; the whole is out of reach until all its parts are gone.
        unsafe { held.segment.part_mut(held.index, self.part.clone()) }
    }
}

/// A frame that is only read; clones hold the same one.
#[derive(Debug, Clone)]
pub struct Frame(Held);

impl Frame {
    /// Its bytes. They do not change while anyone holds the frame.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: this Frame is a holder, and a frame whose FrameMut was frozen has no writer until all holders are
        // gone.
        unsafe { self.0.segment.bytes(self.0.index, self.0.len) }
    }

    /// Bytes of the frame, as allocated.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Never: a frame has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    pub fn id(&self) -> FrameId {
        self.0.id()
    }

    /// Which use of the frame this is; from 1.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Whose frame it is, and of which size.
    pub fn class(&self) -> FrameClass {
        self.0.segment.class()
    }

    /// Holders right now, this one included. 1: nobody else can become one but through this Frame.
    pub fn holders(&self) -> usize {
        self.0.segment.holders(self.0.index)
    }

    /// The region it lies in, and where: what an I/O by another process names it with.
    pub fn region(&self) -> (&Region, u64) {
        (self.0.segment.region(), self.0.segment.frame_offset(self.0.index))
    }

    /// The generation in shared memory, as another process reads it: equal to [`Self::generation`] while this holder
    /// lives.
    pub fn shared_generation(&self) -> u64 {
        self.0.segment.generation(self.0.index)
    }

    /// What another process maps to see the frame's segment. None: its memory cannot be shared. Errors: no descriptor
    /// is left.
    pub fn share(&self) -> io::Result<Option<SegmentShare>> {
        self.0.segment.share()
    }

    /// Whether the frame's segment is still in its arena, for who has no frame of it any more.
    pub fn segment_watch(&self) -> SegmentWatch {
        self.0.segment.watch()
    }

    /// Sets this holder's frame aside because its I/O was never answered.
    pub fn quarantine(self) -> Quarantined {
        self.0.quarantine()
    }
}

/// A frame that another process may still read or write for an I/O whose completion was lost.
///
/// Dropping it does not free the frame: only [`Self::completed`] does. A frame whose Quarantined was dropped comes back
/// when its segment is retired ([`super::Arena::retire_segment`]).
#[derive(Debug)]
pub struct Quarantined(ManuallyDrop<Held>);

impl Quarantined {
    pub fn id(&self) -> FrameId {
        self.0.id()
    }

    /// Whether its segment has left the arena: nothing waits for this frame any more, and dropping this lets its memory
    /// go.
    pub fn segment_is_retired(&self) -> bool {
        self.0.segment.is_retired()
    }

    /// The completion came, or the other process is known to be gone: the frame is free once its other holders leave.
    pub fn completed(self) {
        let held = self.into_held();
        held.segment.end_quarantine(held.index);
    }

    fn into_held(self) -> Held {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used nor dropped again, so the Held is moved out exactly once.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl Drop for Quarantined {
    fn drop(&mut self) {
        // The holder's count stays, so the frame is never free again; only the tie to the segment goes, so that a
        // retired segment's memory can. SAFETY: the Held is neither used nor dropped again, so the Arc is moved out
        // exactly once.
        let segment = unsafe { std::ptr::read(&self.0.segment) };
        drop(segment);
    }
}
