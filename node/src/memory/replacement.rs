//! Which segments are replaced when lost completions hold too much of the arena.

use std::cmp::Reverse;

use foreword_proto::status::ArenaStatus;

use crate::arena::{SegmentId, SegmentUse};

/// The part of the arena that quarantined frames may hold: 1/4. Then segments are replaced until they hold half of that.
const QUARANTINED_PART: u64 = 4;

/// The segments to replace, those with the most quarantined bytes first; none while there are few.
pub(super) fn segments_to_replace(status: &ArenaStatus, mut segments: Vec<SegmentUse>) -> Vec<SegmentId> {
    if status.quarantined_bytes * QUARANTINED_PART < status.arena_bytes {
        return Vec::new();
    }
    let held = |usage: &SegmentUse| u64::from(usage.frames_quarantined) * usage.class.frame_bytes;
    segments.sort_by_key(|usage| Reverse((held(usage), usage.id)));
    let mut quarantined_bytes = status.quarantined_bytes;
    let mut chosen = Vec::new();
    for usage in segments {
        if quarantined_bytes * QUARANTINED_PART * 2 <= status.arena_bytes {
            break;
        }
        quarantined_bytes -= held(&usage).min(quarantined_bytes);
        chosen.push(usage.id);
    }
    chosen
}
