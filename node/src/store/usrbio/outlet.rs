//! What all rings of one store share: where completions go, and what is counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foreword_seams::Telemetry;
use metrics::Counter;

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
    pub(super) lost: Tally,
    pub(super) late: Tally,
    pub(super) strays: Tally,
    pub(super) overlong: Tally,
    pub(super) rings_replaced: Tally,
}

/// A count that a host's telemetry sees from when it is told of it.
#[derive(Default)]
pub(super) struct Tally {
    value: AtomicU64,
    metric: OnceLock<Counter>,
}

impl Tally {
    pub(super) fn add(&self, count: usize) {
        self.value.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(metric) = self.metric.get() {
            metric.increment(count as u64);
        }
    }

    fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
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
    /// From now on the host's telemetry counts along.
    pub(super) fn report_to(&self, telemetry: &Telemetry) {
        let metrics = [
            (&self.lost, "foreword_agent_usrbio_lost_total", "L3 I/Os given up because their completions did not come"),
            (&self.late, "foreword_agent_usrbio_late_total", "Completions of L3 I/Os that had been given up"),
            (&self.strays, "foreword_agent_usrbio_strays_total", "Completions that no L3 I/O was waiting for"),
            (&self.overlong, "foreword_agent_usrbio_overlong_total", "L3 results longer than what was asked for"),
            (&self.rings_replaced, "foreword_agent_usrbio_rings_replaced_total", "Rings replaced because of lost I/Os"),
        ];
        for (tally, name, help) in metrics {
            // A second telemetry is not told.
            let _ = tally.metric.set(telemetry.counter(name, help));
        }
    }

    pub(super) fn read(&self) -> UsrbioCounters {
        let of = Tally::get;
        UsrbioCounters {
            lost: of(&self.lost),
            late: of(&self.late),
            strays: of(&self.strays),
            overlong: of(&self.overlong),
            rings_replaced: of(&self.rings_replaced),
        }
    }
}
