//! Renews the arena where L3 has used it up: memory that a new L3 daemon does not know, and memory that lost completions hold.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use foreword_seams::{Marker, sometimes};

use super::Core;

/// The part of the arena that quarantined frames may hold: 1/4. Then segments are replaced until they hold half of that.
const QUARANTINED_PART: u64 = 4;

impl Core {
    /// After a change of L3's epoch no page enters a frame of before. What is in L1 is served on.
    pub(super) fn follow_epoch(&self) {
        let epoch = self.l3.epoch();
        // Mostly equal: a load is cheaper than a swap.
        if self.l3_epoch.load(Ordering::Acquire) == epoch || self.l3_epoch.swap(epoch, Ordering::AcqRel) == epoch {
            return;
        }
        self.l1.lock().outdate();
        self.l3.reached_anew();
        self.counters.l3_epochs.add(1);
        tracing::warn!(epoch, "L3 was reached anew: pages go to new memory");
    }

    /// When lost completions hold too much of the arena, their segments are replaced; the pages in them leave L1.
    pub(super) fn replace_quarantined(&self) {
        let mut l1 = self.l1.lock();
        let arena = l1.arena().clone();
        let status = arena.status();
        if status.quarantined_bytes * QUARANTINED_PART < status.arena_bytes {
            return;
        }
        let mut segments = arena.segments();
        let held = |frames: u32, frame_bytes: u64| u64::from(frames) * frame_bytes;
        segments.sort_by_key(|usage| Reverse((held(usage.frames_quarantined, usage.class.frame_bytes), usage.id)));
        let mut quarantined_bytes = status.quarantined_bytes;
        for usage in segments {
            if quarantined_bytes * QUARANTINED_PART * 2 <= status.arena_bytes {
                break;
            }
            let pages = l1.remove_segment(usage.id);
            arena.retire_segment(usage.id);
            quarantined_bytes -= held(usage.frames_quarantined, usage.class.frame_bytes).min(quarantined_bytes);
            self.counters.segments_replaced.add(1);
            sometimes(Marker::SegmentReplaced);
            tracing::warn!(
                segment = usage.id,
                pages,
                "lost completions hold too much of the arena: a segment is replaced"
            );
        }
    }
}
