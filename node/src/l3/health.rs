//! Whether L3 is asked: breakers of reads and of writes, of slabs and of the whole, fed by what became of each I/O that
//! went ahead.

use std::sync::Arc;

use foreword_proto::SlabId;
use foreword_seams::{Marker, sometimes};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::counters::Counters;
use crate::plan::breaker::BreakerState;
use crate::plan::health::{Direction, SideHealth, Ticket};
use crate::store::StoreError;

/// L3's health, as its I/Os tell.
pub(super) struct Health {
    started: Instant,
    reads: Mutex<SideHealth>,
    writes: Mutex<SideHealth>,
    counters: Arc<Counters>,
}

impl Health {
    /// Nothing is known yet: everything goes ahead.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { started: Instant::now(), reads: Mutex::default(), writes: Mutex::default(), counters }
    }

    /// Forgets what is known: it is another L3 now.
    pub(super) fn begin_anew(&self) {
        *self.reads.lock() = SideHealth::default();
        *self.writes.lock() = SideHealth::default();
    }

    /// Where the breakers of the whole stand: of reads, and of writes.
    pub(super) fn states(&self) -> (BreakerState, BreakerState) {
        let now_ms = self.now_ms();
        (self.reads.lock().state(now_ms), self.writes.lock().state(now_ms))
    }

    /// Which slabs a read goes ahead on now.
    pub(super) fn readable(&self) -> Readable<'_> {
        let (reads, now_ms) = (self.reads.lock(), self.now_ms());
        if reads.is_sound(now_ms) { Readable::All } else { Readable::Some(reads, now_ms) }
    }

    /// Slabs whose next read is a probe; at most `most`.
    pub(super) fn due_probes(&self, most: usize) -> Vec<SlabId> {
        self.reads.lock().due(self.now_ms(), most)
    }

    /// Lets an I/O go ahead, or not. `probe`: it may be the one that decides whether L3 is asked again.
    pub(super) fn admit(&self, direction: Direction, slab: SlabId, probe: bool) -> Option<Admitted<'_>> {
        let now_ms = self.now_ms();
        let ticket = {
            let mut side = self.side(direction).lock();
            if probe || side.serves(slab, now_ms) { side.admit(slab, now_ms) } else { None }
        };
        // Made only after the lock is free again: dropping one takes it.
        ticket.map(|ticket| Admitted { health: self, direction, slab, ticket, reported: false })
    }

    fn side(&self, direction: Direction) -> &Mutex<SideHealth> {
        match direction {
            Direction::Read => &self.reads,
            Direction::Write => &self.writes,
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// Which slabs are read now.
pub enum Readable<'a> {
    All,
    Some(MutexGuard<'a, SideHealth>, u64),
}

impl Readable<'_> {
    /// Whether a get of a page there would ask L3.
    pub fn has(&self, slab: SlabId) -> bool {
        match self {
            Self::All => true,
            Self::Some(reads, now_ms) => reads.serves(slab, *now_ms),
        }
    }
}

/// An I/O that goes ahead: it reports exactly once. Dropped without a report, it says nothing.
pub(super) struct Admitted<'a> {
    health: &'a Health,
    direction: Direction,
    slab: SlabId,
    ticket: Ticket,
    reported: bool,
}

impl Admitted<'_> {
    /// The slab it is on.
    pub(super) fn slab(&self) -> SlabId {
        self.slab
    }

    /// It came back from L3, whatever its bytes were.
    pub(super) fn answered(mut self) {
        self.reported = true;
        let now_ms = self.health.now_ms();
        if self.health.side(self.direction).lock().answered(self.slab, now_ms) {
            sometimes(Marker::BreakerClosed);
            tracing::info!(direction = ?self.direction, "L3 answers again");
        }
    }

    /// It timed out, or failed with an errno.
    pub(super) fn failed(mut self) {
        self.reported = true;
        let (direction, slab, now_ms) = (self.direction, self.slab, self.health.now_ms());
        let opened = self.health.side(direction).lock().failed(slab, self.ticket, now_ms);
        if opened.whole {
            sometimes(Marker::BreakerOpened);
            self.health.counters.breaker_openings.add(1);
            tracing::warn!(?direction, "L3 fails: it is not asked for a while");
        } else if opened.slab {
            sometimes(Marker::SlabGivenUp);
            self.health.counters.slab_breaker_openings.add(1);
            tracing::warn!(?direction, slab, "a slab of L3 fails: it is not asked for a while");
        }
    }

    /// It gave this error, for some of which L3 is not to blame.
    pub(super) fn judge(self, error: &StoreError) {
        match error {
            // It was not asked, or nobody has written there.
            StoreError::Unregistered | StoreError::Errno(libc::EAGAIN) | StoreError::NoSlab(_) => {}
            error if is_no_room(error) => {}
            _ => self.failed(),
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.health.side(self.direction).lock().abandoned(self.slab);
        }
    }
}

/// No room is back-pressure: it says nothing of what is there, nor of what there will be room for.
pub(super) fn is_no_room(error: &StoreError) -> bool {
    matches!(error, StoreError::NoRoom(_) | StoreError::Errno(libc::ENOSPC | libc::EDQUOT))
}
