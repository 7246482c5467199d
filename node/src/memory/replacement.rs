//! Which segments are replaced when lost completions hold too much of the arena.

use std::cmp::Reverse;

use foreword_proto::status::ArenaStatus;

use crate::arena::{SegmentId, SegmentUse};

/// The part of the arena that quarantined frames may hold: 1/4. Then segments are replaced until they hold half of
/// that.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::FrameClass;

    fn segment(id: SegmentId, frames_quarantined: u32) -> SegmentUse {
        let class = FrameClass { tenant: 0, frame_bytes: 4096 };
        SegmentUse { id, class, frames: 16, frames_used: 16, frames_quarantined, frames_shared: 0, draining: false }
    }

    fn replaced(quarantined: &[u32]) -> Vec<SegmentId> {
        let segments: Vec<SegmentUse> = (0..).zip(quarantined).map(|(id, frames)| segment(id, *frames)).collect();
        let quarantined_bytes: u64 = quarantined.iter().map(|frames| u64::from(*frames) * 4096).sum();
        let status = ArenaStatus { arena_bytes: 64 * 4096, quarantined_bytes, ..ArenaStatus::default() };
        segments_to_replace(&status, segments)
    }

    #[test]
    fn from_a_quarter_on_those_that_hold_most_go_until_an_eighth_is_left() {
        assert_eq!(replaced(&[4, 7, 2, 2]), [0; 0]);
        assert_eq!(replaced(&[4, 8, 2, 2]), [1]);
        assert_eq!(replaced(&[4, 7, 3, 3]), [1, 0]);
    }
}
