//! Memory for pages on their way: frames that L3 knows, for which L1 gives way, and the arena's upkeep.

mod replacement;
mod room;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foreword_seams::{Marker, sometimes};
use tokio::time::Instant;

use crate::arena::{FrameMut, TenantId};
use crate::counters::Counters;
use crate::l1::L1;
use crate::l3::L3;

use replacement::segments_to_replace;
pub(crate) use room::Room;

/// How soon to try again when the arena has no frame although there is room: its holders are about to leave.
const FRAME_RETRY: Duration = Duration::from_millis(2);

/// The arena as the paths through the agent use it.
pub(crate) struct Memory {
    l1: Arc<L1>,
    l3: Arc<L3>,
    /// L3's epoch as L1 knows it.
    l3_epoch: AtomicU64,
    counters: Arc<Counters>,
}

impl Memory {
    /// The memory below this L1; frames of before L3's present epoch are none of it.
    pub(crate) fn new(l1: Arc<L1>, l3: Arc<L3>, counters: Arc<Counters>) -> Self {
        Self { l3_epoch: AtomicU64::new(l3.epoch()), l1, l3, counters }
    }

    /// A frame for a page of `tenant`; L1 gives way. None: the arena stayed full until the deadline.
    pub(crate) async fn frame(&self, tenant: TenantId, frame_bytes: u64, deadline: Instant) -> Option<FrameMut> {
        self.follow_epoch();
        loop {
            if let Some(frame) = self.l1.write(|pages| pages.allocate(tenant, frame_bytes)) {
                return Some(frame);
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(FRAME_RETRY).await;
        }
    }

    /// What has to be looked at now and then.
    pub(crate) fn keep_up(&self) {
        self.follow_epoch();
        self.replace_quarantined();
    }

    /// After a change of L3's epoch no page enters a frame of before: a new L3 daemon does not know its memory. What is in L1 is
    /// served on.
    fn follow_epoch(&self) {
        let epoch = self.l3.epoch();
        // Mostly equal: a load is cheaper than a swap.
        if self.l3_epoch.load(Ordering::Acquire) == epoch || self.l3_epoch.swap(epoch, Ordering::AcqRel) == epoch {
            return;
        }
        self.l1.write(|pages| pages.outdate());
        self.l3.reached_anew();
        self.counters.l3_epochs.add(1);
        tracing::warn!(epoch, "L3 was reached anew: pages go to new memory");
    }

    /// When lost completions hold too much of the arena, their segments are replaced; the pages in them leave L1.
    fn replace_quarantined(&self) {
        let arena = self.l1.arena();
        self.l1.write(|pages| {
            for segment in segments_to_replace(&arena.status(), arena.segments()) {
                let pages = pages.remove_segment(segment);
                arena.retire_segment(segment);
                self.counters.segments_replaced.add(1);
                sometimes(Marker::SegmentReplaced);
                tracing::warn!(segment, pages, "lost completions hold too much of the arena: a segment is replaced");
            }
        });
    }
}
