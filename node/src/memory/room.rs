//! Room: how many bytes of pages may be on their way at once.

use std::sync::Arc;

use foreword_proto::limits::SHARD_ALIGN_BYTES;
use tokio::time::Instant;

use crate::fair_semaphore::{FairPermit, FairSemaphore};
use crate::plan::fair_shares::Asker;

/// Room is counted in units of this.
const ROOM_UNIT_BYTES: u64 = SHARD_ALIGN_BYTES;

/// The part that a tenant, and a namespace of it, leaves to others, where there are any.
const KEPT_PART: u32 = 4;

/// A part of the arena, counted in bytes of pages that may be on their way at once; namespaces share it.
pub(crate) struct Room(Arc<FairSemaphore>);

impl Room {
    pub(crate) fn new(bytes: u64) -> Self {
        let units = (bytes / ROOM_UNIT_BYTES).clamp(1, u64::from(u32::MAX >> 4)) as u32;
        Self(FairSemaphore::new(units, units - units / KEPT_PART))
    }

    /// There is this namespace: some room is kept for it.
    pub(crate) fn enter(&self, asker: Asker) {
        self.0.enter(asker);
    }

    /// Ends one [`Self::enter`].
    pub(crate) fn leave(&self, asker: Asker) {
        self.0.leave(asker);
    }

    /// Room for a page, in its turn. None: not before the deadline.
    pub(crate) async fn take(&self, asker: Asker, bytes: u64, deadline: Instant) -> Option<FairPermit> {
        self.0.take(asker, self.units(bytes), deadline).await
    }

    /// Room for a page if there is some now.
    pub(crate) fn take_now(&self, asker: Asker, bytes: u64) -> Option<FairPermit> {
        self.0.take_now(asker, self.units(bytes))
    }

    /// Units taken now.
    pub(crate) fn used(&self) -> u64 {
        self.0.used().into()
    }

    /// Pages of this size that fit at once.
    pub(crate) fn pages(&self, bytes: u64) -> usize {
        (self.0.units_max() / self.units(bytes)) as usize
    }

    /// Units for one page of this size; a page larger than the room takes all of it.
    fn units(&self, bytes: u64) -> u32 {
        bytes.div_ceil(ROOM_UNIT_BYTES).clamp(1, u64::from(self.0.units_max())) as u32
    }
}
