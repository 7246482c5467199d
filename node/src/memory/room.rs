//! Room: how many bytes of pages may be on their way at once.

use std::sync::Arc;

use foreword_proto::limits::SHARD_ALIGN_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Room is counted in units of this.
const ROOM_UNIT_BYTES: u64 = SHARD_ALIGN_BYTES;

/// A part of the arena, counted in bytes of pages that may be on their way at once.
pub(crate) struct Room {
    units: Arc<Semaphore>,
    units_max: u32,
}

impl Room {
    pub(crate) fn new(bytes: u64) -> Self {
        let units_max = (bytes / ROOM_UNIT_BYTES).clamp(1, u64::from(u32::MAX >> 4)) as u32;
        Self { units: Arc::new(Semaphore::new(units_max as usize)), units_max }
    }

    /// Room for a page, in the order of asking. None: not before the deadline.
    pub(crate) async fn take(&self, bytes: u64, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let waiting = self.units.clone().acquire_many_owned(self.units(bytes));
        tokio::time::timeout_at(deadline, waiting).await.ok()?.ok()
    }

    /// Room for a page if there is some now.
    pub(crate) fn take_now(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.units.clone().try_acquire_many_owned(self.units(bytes)).ok()
    }

    /// Units taken now.
    pub(crate) fn used(&self) -> u64 {
        u64::from(self.units_max) - self.units.available_permits() as u64
    }

    /// Pages of this size that fit at once.
    pub(crate) fn pages(&self, bytes: u64) -> usize {
        (self.units_max / self.units(bytes)) as usize
    }

    /// Units for one page of this size; a page larger than the room takes all of it.
    fn units(&self, bytes: u64) -> u32 {
        bytes.div_ceil(ROOM_UNIT_BYTES).clamp(1, u64::from(self.units_max)) as u32
    }
}
