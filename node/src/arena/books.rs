//! The arena's bookkeeping: which frames are free, and whose a segment is. No memory is touched here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use foreword_proto::status::ArenaStatus;

use super::segment::Segment;
use super::{ArenaSettings, FrameClass, Missing, SegmentId};

/// The next segment is ordered when this part of a class's last open one is free: 1/2.
const AHEAD_PART: u32 = 2;

/// How a segment is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentUse {
    pub id: SegmentId,
    pub class: FrameClass,
    pub frames: u32,
    /// Frames with a holder, the quarantined ones included.
    pub frames_used: u32,
    pub frames_quarantined: u32,
    /// Frames with more than one holder, about: of the pages in L1, those that somebody else holds.
    pub frames_shared: u32,
    pub draining: bool,
}

/// A segment to be made. Its bytes are taken, those of the segments that it replaces included.
pub(super) struct Order {
    pub(super) id: SegmentId,
    pub(super) class: FrameClass,
    pub(super) frames: u32,
    /// Nobody waits for it: whoever does goes first.
    pub(super) ahead: bool,
    /// To be dropped first: they had no used frames.
    pub(super) replaced: Vec<Arc<Segment>>,
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
    /// Segments without used frames, and their frame bytes.
    empty: BTreeSet<SegmentId>,
    empty_bytes: u64,
    /// Segments to be made, in the order of asking.
    orders: VecDeque<Order>,
    /// Classes for which a segment was ordered and is not there yet.
    ordered: BTreeSet<FrameClass>,
    /// The last segment could not be made.
    stalled: bool,
    /// Segments that left while frames of theirs were held: their memory goes when nobody else holds it.
    retired: Vec<Arc<Segment>>,
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
            empty_bytes: 0,
            orders: VecDeque::new(),
            ordered: BTreeSet::new(),
            stalled: false,
            retired: Vec::new(),
        }
    }

    /// A free frame. Without one a segment is ordered, if need be in place of empty ones; and one ahead of need, where
    /// there is room.
    pub(super) fn take(&mut self, class: FrameClass) -> Result<(Arc<Segment>, u32), Missing> {
        let open = self.open.get(&class).and_then(BTreeSet::first).copied();
        if let Some(taken) = open.and_then(|id| self.take_from(id)) {
            self.order_ahead(class);
            return Ok(taken);
        }
        if self.stalled {
            return Err(Missing::Stalled);
        }
        if self.ordered.contains(&class) {
            self.orders.iter_mut().filter(|order| order.class == class).for_each(|order| order.ahead = false);
            return Err(Missing::Ordered);
        }
        if self.order(class, false) { Err(Missing::Ordered) } else { Err(Missing::Full) }
    }

    /// Orders the first segment of a class that will need one, if there is room that nobody has.
    pub(super) fn prepare(&mut self, class: FrameClass) {
        let room = self.bytes_left() >= self.wanted_bytes(class);
        if room && !self.stalled && !self.open.contains_key(&class) && !self.ordered.contains(&class) {
            self.order(class, true);
        }
    }

    /// Orders the next segment of a class when its last open one is half full, if there is room that nobody has.
    fn order_ahead(&mut self, class: FrameClass) {
        let open = self.open.get(&class);
        let last = open.filter(|open| open.len() == 1).and_then(BTreeSet::first).and_then(|id| self.segments.get(id));
        let enough = match last {
            Some(last) => last.free.len() as u32 * AHEAD_PART > last.segment.frames(),
            None => open.is_some(),
        };
        let room = self.bytes_left() >= self.wanted_bytes(class);
        if !enough && room && !self.stalled && !self.ordered.contains(&class) {
            self.order(class, true);
        }
    }

    /// Orders a segment, if need be in place of empty ones and of those ordered ahead. False: there is not room for one
    /// frame.
    fn order(&mut self, class: FrameClass, ahead: bool) -> bool {
        let wanted = self.wanted_bytes(class);
        if self.bytes_left() < wanted {
            self.cancel_ahead();
        }
        if self.bytes_left() + self.empty_bytes < class.frame_bytes {
            return false;
        }
        let mut replaced = Vec::new();
        while self.bytes_left() < wanted {
            let Some(id) = self.empty.first().copied() else { break };
            replaced.extend(self.remove(id));
        }
        let frames = wanted.min(self.bytes_left()) / class.frame_bytes;
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        assert!(frames > 0, "room for a frame was there a moment ago");
        let id = self.next_id;
        self.next_id += 1;
        self.bytes += bytes_of(class, frames);
        self.orders.push_back(Order { id, class, frames, ahead, replaced });
        self.ordered.insert(class);
        true
    }

    /// Takes back what was ordered for nobody.
    fn cancel_ahead(&mut self) {
        let (bytes, ordered) = (&mut self.bytes, &mut self.ordered);
        self.orders.retain(|order| {
            if order.ahead {
                *bytes -= bytes_of(order.class, order.frames);
                ordered.remove(&order.class);
            }
            !order.ahead
        });
    }

    /// Frame bytes of a whole segment of this class.
    fn wanted_bytes(&self, class: FrameClass) -> u64 {
        class.frame_bytes.max(self.settings.segment_bytes / class.frame_bytes * class.frame_bytes)
    }

    /// The next segment to be made: whoever takes the order enters the segment, or gives the order back.
    pub(super) fn next_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Segments are ordered.
    pub(super) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// An ordered segment was made.
    pub(super) fn enter(&mut self, segment: Arc<Segment>) {
        let (id, class) = (segment.id(), segment.class());
        let free = (0..segment.frames()).rev().collect();
        self.empty_bytes += bytes_of(class, segment.frames());
        self.segments.insert(id, SegmentBook { segment, free, quarantined: 0, draining: false });
        if id >= self.first_current {
            self.open.entry(class).or_default().insert(id);
        }
        self.empty.insert(id);
        self.ordered.remove(&class);
        self.stalled = false;
    }

    /// An ordered segment could not be made; it is tried again after the others. Until one can be made nobody waits for
    /// one, and nobody makes room for one.
    pub(super) fn give_back(&mut self, order: Order) {
        self.orders.push_back(order);
        self.stalled = true;
    }

    /// A free frame of this segment.
    fn take_from(&mut self, id: SegmentId) -> Option<(Arc<Segment>, u32)> {
        let book = self.segments.get_mut(&id)?;
        let index = book.free.pop()?;
        let segment = book.segment.clone();
        let full = book.free.is_empty();
        if self.empty.remove(&id) {
            self.empty_bytes -= bytes_of(segment.class(), segment.frames());
        }
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
            self.empty_bytes += bytes_of(book.segment.class(), book.segment.frames());
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

    /// No frame of the segments made so far is given out any more; each may be replaced once its frames are free. Gives
    /// the id from which on segments are current.
    pub(super) fn outdate(&mut self) -> SegmentId {
        self.first_current = self.next_id;
        self.open.clear();
        self.first_current
    }

    /// Takes a segment out. Its memory goes with [`Self::forgotten`], never on the thread of its last holder.
    pub(super) fn retire(&mut self, id: SegmentId) {
        let segment = self.remove(id);
        self.retired.extend(segment);
    }

    /// Retired segments whose frames nobody holds any more, for the caller to drop outside of the lock.
    pub(super) fn forgotten(&mut self) -> Vec<Arc<Segment>> {
        self.retired.extract_if(.., |segment| Arc::strong_count(segment) == 1).collect()
    }

    /// Retired segments are held still.
    pub(super) fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    fn remove(&mut self, id: SegmentId) -> Option<Arc<Segment>> {
        let book = self.segments.remove(&id)?;
        let (class, frames) = (book.segment.class(), book.segment.frames());
        self.bytes -= bytes_of(class, frames);
        if self.empty.remove(&id) {
            self.empty_bytes -= bytes_of(class, frames);
        }
        self.close(id, class);
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
            frames_shared: self.segment.frames_shared(),
            draining: self.draining,
        }
    }
}

fn bytes_of(class: FrameClass, frames: u32) -> u64 {
    class.frame_bytes * u64::from(frames)
}
