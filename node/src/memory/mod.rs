//! Memory for pages on their way: frames that L3 knows, for which L1 gives way, and the arena's upkeep.
//!
//! Whoever finds no frame waits in [`Waiters`]. One task serves them in the order of asking, whenever the arena says
//! that a frame may be had: one came free, another holder left a page to L1 alone, or the [`SegmentMaker`] made a
//! segment. Nobody polls.

mod replacement;
mod room;
mod segment_maker;
#[cfg(test)]
mod tests;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foreword_proto::NamespaceId;
use foreword_seams::{Marker, sometimes};
use tokio::time::Instant;

use crate::arena::{FrameClass, FrameMut, TenantId};
use crate::counters::Counters;
use crate::l1::L1;
use crate::l3::L3;
use crate::namespaces::{OpenNamespace, PerNamespace};

use replacement::segments_to_replace;
pub(crate) use room::Room;
pub(crate) use segment_maker::SegmentMaker;
use waiters::Waiters;

/// The arena as the paths through the agent use it.
pub(crate) struct Memory {
    l1: Arc<L1>,
    l3: Arc<L3>,
    /// L3's epoch as L1 knows it.
    l3_epoch: AtomicU64,
    waiters: Waiters,
    counters: Arc<Counters>,
}

impl Memory {
    /// The memory below this L1; frames of before L3's present epoch are none of it.
    pub(crate) fn new(l1: Arc<L1>, l3: Arc<L3>, counters: Arc<Counters>) -> Self {
        Self { l3_epoch: AtomicU64::new(l3.epoch()), l1, l3, waiters: Waiters::default(), counters }
    }

    /// A frame for a page of `tenant`; L1 gives way. None: it came to nobody's turn before the deadline, or is larger
    /// than the arena.
    pub(crate) async fn frame(&self, tenant: TenantId, frame_bytes: u64, deadline: Instant) -> Option<FrameMut> {
        self.follow_epoch();
        let arena = self.l1.arena();
        let class = FrameClass::new(tenant, frame_bytes).filter(|_| arena.fits(frame_bytes))?;
        // While anybody waits, whoever comes later does so too.
        if arena.waiters() == 0
            && let Some(frame) = self.l1.write(|pages| pages.allocate(tenant, frame_bytes))
        {
            return Some(frame);
        }
        let waiting = self.waiters.join(class, frame_bytes);
        arena.add_waiter();
        arena.frames_changed();
        sometimes(Marker::FrameAwaited);
        tokio::time::timeout_at(deadline, waiting).await.ok()?.ok()
    }

    /// Gives frames to those who wait, whenever there may be one.
    pub(crate) async fn serve_waiters(self: Arc<Self>) {
        let arena = self.l1.arena();
        loop {
            arena.changed().await;
            arena.remove_waiters(self.waiters.forget_left());
            for class in self.waiters.classes() {
                while let Some(frame_bytes) = self.waiters.first(class) {
                    let frame = self.l1.write(|pages| pages.allocate(class.tenant, frame_bytes));
                    let Some(frame) = frame else { break };
                    self.waiters.give(class, frame);
                    arena.remove_waiters(1);
                }
            }
        }
    }

    /// What has to be looked at now and then.
    pub(crate) fn keep_up(&self) {
        self.follow_epoch();
        self.replace_quarantined();
    }

    /// After a change of L3's epoch no page enters a frame of before: a new L3 daemon does not know its memory. What is
    /// in L1 is served on.
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

impl PerNamespace for Memory {
    /// The first segment of its pages is made before the first put.
    fn opened(&self, open: &Arc<OpenNamespace>) {
        if let Some(class) = FrameClass::new(open.tenant, open.geometry.frame_bytes) {
            self.l1.arena().prepare(class);
        }
    }

    fn closed(&self, _: NamespaceId) {}
}
