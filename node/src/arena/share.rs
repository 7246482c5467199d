//! A segment as another process sees it: read-only, for as long as it has it mapped.

use std::os::fd::OwnedFd;
use std::sync::Weak;

use super::SegmentId;
use super::shared::Shared;

/// What another process maps to see a segment: its frames one after the other, then their generations, 8 bytes each.
#[derive(Debug)]
pub struct SegmentShare {
    pub id: SegmentId,
    /// Nobody can write through it.
    pub descriptor: OwnedFd,
    pub region_bytes: u64,
    pub frame_bytes: u64,
    pub frames: u32,
}

/// Tells whether a segment is still in its arena, and keeps nothing of it alive.
#[derive(Clone)]
pub struct SegmentWatch {
    id: SegmentId,
    arena: Weak<Shared>,
}

impl SegmentWatch {
    pub(super) fn new(id: SegmentId, arena: Weak<Shared>) -> Self {
        Self { id, arena }
    }

    /// True once it was replaced: who has it mapped is to let it go.
    pub fn is_retired(&self) -> bool {
        self.arena.upgrade().is_none_or(|arena| arena.books.lock().segment(self.id).is_none())
    }
}
