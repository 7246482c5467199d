//! The arena's bookkeeping: which frames are free, and whose a segment is. No memory is touched here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foreword_proto::status::ArenaStatus;

use super::segment::Segment;
use super::{ArenaSettings, FrameClass, SegmentId};

/// How a segment is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentUse {
    pub id: SegmentId,
    pub class: FrameClass,
    pub frames: u32,
    /// Frames with a holder, the quarantined ones included.
    pub frames_used: u32,
    pub frames_quarantined: u32,
    pub draining: bool,
}

/// What an allocation does next.
pub(super) enum Step {
    Use(Arc<Segment>, u32),
    /// Make a segment of so many frames under this id, after dropping the segments it replaces.
    Make {
        id: SegmentId,
        frames: u32,
        replaced: Vec<Arc<Segment>>,
    },
    NoRoom,
}

pub(super) struct Books {
    settings: ArenaSettings,
    /// Frame bytes of all segments, those being made included.
    bytes: u64,
    next_id: SegmentId,
    /// Segments of lower ids are outdated: none of their frames are given out.
    first_current: SegmentId,
    segments: BTreeMap<SegmentId, SegmentBook>,
    /// Segments with free frames that are not draining. The lowest id first: high ones get a chance to become free.
    open: BTreeMap<FrameClass, BTreeSet<SegmentId>>,
    /// Segments without used frames.
    empty: BTreeSet<SegmentId>,
}

struct SegmentBook {
    segment: Arc<Segment>,
    free: Vec<u32>,
    quarantined: u32,
    draining: bool,
}

impl Books {
    pub(super) fn new(settings: ArenaSettings) -> Self {
        Self {
            settings,
            bytes: 0,
            next_id: 0,
            first_current: 0,
            segments: BTreeMap::new(),
            open: BTreeMap::new(),
            empty: BTreeSet::new(),
        }
    }

    /// A free frame; else room for a segment, if need be in place of empty ones.
    pub(super) fn next(&mut self, class: FrameClass) -> Step {
        let open = self.open.get(&class).and_then(BTreeSet::first).copied();
        if let Some((segment, index)) = open.and_then(|id| self.take_from(id)) {
            return Step::Use(segment, index);
        }
        let wanted = class.frame_bytes.max(self.settings.segment_bytes / class.frame_bytes * class.frame_bytes);
        if self.bytes_left() + self.empty_bytes() < class.frame_bytes {
            return Step::NoRoom;
        }
        let mut replaced = Vec::new();
        while self.bytes_left() < wanted {
            let Some(id) = self.empty.first().copied() else { break };
            replaced.extend(self.retire(id));
        }
        let frames = wanted.min(self.bytes_left()) / class.frame_bytes;
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        assert!(frames > 0, "room for a frame was there a moment ago");
        let id = self.next_id;
        self.next_id += 1;
        self.bytes += bytes_of(class, frames);
        Step::Make { id, frames, replaced }
    }

    /// A segment that `next` asked for was made.
    pub(super) fn enter(&mut self, segment: Arc<Segment>) {
        let (id, class) = (segment.id(), segment.class());
        let free = (0..segment.frames()).rev().collect();
        self.segments.insert(id, SegmentBook { segment, free, quarantined: 0, draining: false });
        if id >= self.first_current {
            self.open.entry(class).or_default().insert(id);
        }
        self.empty.insert(id);
    }

    /// A segment that `next` asked for could not be made.
    pub(super) fn give_back(&mut self, class: FrameClass, frames: u32) {
        self.bytes -= bytes_of(class, frames);
    }

    /// A free frame of this segment.
    fn take_from(&mut self, id: SegmentId) -> Option<(Arc<Segment>, u32)> {
        let book = self.segments.get_mut(&id)?;
        let index = book.free.pop()?;
        let segment = book.segment.clone();
        let full = book.free.is_empty();
        self.empty.remove(&id);
        if full {
            self.close(id, segment.class());
        }
        Some((segment, index))
    }

    /// A frame lost its last holder. A segment without used frames is no longer drained.
    pub(super) fn free(&mut self, id: SegmentId, index: u32) {
        // A retired segment is in nobody's books.
        let Some(book) = self.segments.get_mut(&id) else { return };
        book.free.push(index);
        if book.free.len() as u32 == book.segment.frames() {
            book.draining = false;
            self.empty.insert(id);
        }
        if book.is_open() && id >= self.first_current {
            self.open.entry(book.segment.class()).or_default().insert(id);
        }
    }

    pub(super) fn quarantined(&mut self, id: SegmentId, change: i32) {
        if let Some(book) = self.segments.get_mut(&id) {
            book.quarantined = book.quarantined.saturating_add_signed(change);
        }
    }

    pub(super) fn set_draining(&mut self, id: SegmentId, draining: bool) {
        let Some(book) = self.segments.get_mut(&id) else { return };
        let class = book.segment.class();
        // An empty segment has nothing to drain.
        book.draining = draining && (book.free.len() as u32) < book.segment.frames();
        if book.is_open() && id >= self.first_current {
            self.open.entry(class).or_default().insert(id);
        } else {
            self.close(id, class);
        }
    }

    /// No frame of the segments made so far is given out any more; each may be replaced once its frames are free. Gives the id from
    /// which on segments are current.
    pub(super) fn outdate(&mut self) -> SegmentId {
        self.first_current = self.next_id;
        self.open.clear();
        self.first_current
    }

    /// Takes a segment out; the caller drops it outside of the lock.
    pub(super) fn retire(&mut self, id: SegmentId) -> Option<Arc<Segment>> {
        let book = self.segments.remove(&id)?;
        self.bytes -= bytes_of(book.segment.class(), book.segment.frames());
        self.empty.remove(&id);
        self.close(id, book.segment.class());
        Some(book.segment)
    }

    pub(super) fn segment(&self, id: SegmentId) -> Option<SegmentUse> {
        self.segments.get(&id).map(SegmentBook::usage)
    }

    pub(super) fn segments(&self) -> Vec<SegmentUse> {
        self.segments.values().map(SegmentBook::usage).collect()
    }

    pub(super) fn status(&self) -> ArenaStatus {
        let mut status = ArenaStatus {
            arena_bytes: self.settings.arena_bytes,
            segments: self.segments.len() as u64,
            ..ArenaStatus::default()
        };
        for usage in self.segments.values().map(SegmentBook::usage) {
            status.frame_bytes_used += bytes_of(usage.class, usage.frames_used);
            status.quarantined_bytes += bytes_of(usage.class, usage.frames_quarantined);
        }
        status
    }

    fn close(&mut self, id: SegmentId, class: FrameClass) {
        if let Some(open) = self.open.get_mut(&class) {
            open.remove(&id);
            if open.is_empty() {
                self.open.remove(&class);
            }
        }
    }

    fn bytes_left(&self) -> u64 {
        self.settings.arena_bytes.saturating_sub(self.bytes)
    }

    fn empty_bytes(&self) -> u64 {
        self.empty
            .iter()
            .map(|id| &self.segments[id].segment)
            .map(|segment| bytes_of(segment.class(), segment.frames()))
            .sum()
    }
}

impl SegmentBook {
    fn is_open(&self) -> bool {
        !self.draining && !self.free.is_empty()
    }

    fn usage(&self) -> SegmentUse {
        let frames = self.segment.frames();
        SegmentUse {
            id: self.segment.id(),
            class: self.segment.class(),
            frames,
            frames_used: frames - self.free.len() as u32,
            frames_quarantined: self.quarantined,
            draining: self.draining,
        }
    }
}

fn bytes_of(class: FrameClass, frames: u32) -> u64 {
    class.frame_bytes * u64::from(frames)
}
