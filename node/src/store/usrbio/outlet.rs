//! What all rings of one store share: where completions go, and what is counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::store::completions::Completions;
use crate::store::{IOS_QUEUED_MAX, Io, StoreError};

/// Shared by a store and the threads of its rings.
pub(super) struct Outlet {
    pub(super) completions: Completions,
    /// How long an I/O may go without a completion.
    pub(super) patience: Duration,
    pub(super) counts: Counts,
    /// I/Os that wait for room in a ring.
    queued: AtomicUsize,
}

impl Outlet {
    pub(super) fn new(patience: Duration) -> Self {
        Self { completions: Completions::default(), patience, counts: Counts::default(), queued: AtomicUsize::new(0) }
    }

    /// Completes an I/O.
    pub(super) fn finish(&self, io: Io, result: Result<u64, StoreError>) {
        self.completions.push(io.done(result));
    }

    /// Takes a place in the queues; false: all are taken.
    pub(super) fn enqueue(&self) -> bool {
        let room = |queued| (queued < IOS_QUEUED_MAX).then_some(queued + 1);
        self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// Frees so many places.
    pub(super) fn dequeue(&self, count: usize) {
        self.queued.fetch_sub(count, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) lost: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) strays: AtomicU64,
    pub(super) overlong: AtomicU64,
    pub(super) rings_replaced: AtomicU64,
}

/// What happened to a store's I/Os apart from being done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsrbioCounters {
    /// I/Os given up because their completions did not come; their frames are in quarantine until they do.
    pub lost: u64,
    /// Completions of I/Os that had been given up.
    pub late: u64,
    /// Completions that no I/O was waiting for: ignored.
    pub strays: u64,
    /// Results longer than what was asked for: answered as EIO.
    pub overlong: u64,
    /// Rings replaced because half of their slots were lost.
    pub rings_replaced: u64,
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> UsrbioCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UsrbioCounters {
            lost: of(&self.lost),
            late: of(&self.late),
            strays: of(&self.strays),
            overlong: of(&self.overlong),
            rings_replaced: of(&self.rings_replaced),
        }
    }
}
