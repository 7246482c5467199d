//! What a replica measures of its calls.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_proto::status::{Hf3fsStatus, PageFileStatus};
use foreword_seams::Telemetry;
use metrics::{Counter, Gauge, Histogram};
use parking_lot::Mutex;

use super::Operation;

/// Calls by operation and status, and their time by operation.
pub(super) struct Measures {
    telemetry: Telemetry,
    seconds: Vec<Histogram>,
    requests: Mutex<BTreeMap<(Operation, u16), Counter>>,
}

impl Measures {
    pub(super) fn new(telemetry: Telemetry) -> Self {
        let seconds = Operation::ALL.map(|operation| {
            telemetry.seconds_with(
                "foreword_meta_hf3fs_seconds",
                "Time to the answer of an hf3fs call, by operation",
                "operation",
                operation.name(),
            )
        });
        Self { telemetry, seconds: seconds.into(), requests: Mutex::default() }
    }

    pub(super) fn answered(&self, operation: Operation, status: u16, took: Duration) {
        self.seconds[operation as usize].record(took.as_secs_f64());
        let mut requests = self.requests.lock();
        let counter = requests.entry((operation, status)).or_insert_with(|| {
            self.telemetry.counter_by(
                "foreword_meta_hf3fs_requests_total",
                "hf3fs calls answered, by operation and status",
                [("operation", operation.name().to_owned()), ("status", status.to_string())],
            )
        });
        counter.increment(1);
    }
}

type Count = fn(&PageFileStatus) -> u64;

/// What is read off the state when Prometheus asks: sums over all page files.
#[derive(Clone)]
pub struct PageFileGauges {
    protected: Gauge,
    pages: [(Gauge, Count); 4],
    totals: [(Counter, Count); 5],
}

impl PageFileGauges {
    /// Registers them.
    pub fn new(telemetry: &Telemetry) -> Self {
        Self {
            protected: telemetry
                .gauge("foreword_meta_hf3fs_protected_pages", "Pages that readers were told of, at the leader"),
            pages: [
                (telemetry.gauge("foreword_meta_hf3fs_confirmed_pages", "Pages that are written"), |f| f.confirmed),
                (telemetry.gauge("foreword_meta_hf3fs_reserved_pages", "Pages that a writer has"), |f| f.reserved),
                (telemetry.gauge("foreword_meta_hf3fs_resting_pages", "Pages at rest"), |f| f.resting),
                (telemetry.gauge("foreword_meta_hf3fs_unused_pages", "Pages not used yet"), |f| f.unused),
            ],
            totals: [
                (telemetry.counter("foreword_meta_hf3fs_evicted_total", "Pages evicted for another key"), |f| {
                    f.evicted
                }),
                (telemetry.counter("foreword_meta_hf3fs_expired_total", "Reservations that ended"), |f| f.expired),
                (telemetry.counter("foreword_meta_hf3fs_no_page_total", "Keys that got no page"), |f| f.no_page),
                (
                    telemetry
                        .counter("foreword_meta_hf3fs_ignored_confirms_total", "Confirms that fitted no reservation"),
                    |f| f.ignored_confirms,
                ),
                (
                    telemetry
                        .counter("foreword_meta_hf3fs_ignored_releases_total", "Releases that fitted no reservation"),
                    |f| f.ignored_releases,
                ),
            ],
        }
    }

    /// Sets them.
    pub fn set(&self, status: Option<&Hf3fsStatus>) {
        let files = status.map_or(&[][..], |status| &status.files);
        let sum = |count: &Count| files.iter().map(count).sum::<u64>();
        self.protected.set(status.and_then(|status| status.protected_pages).unwrap_or(0) as f64);
        self.pages.iter().for_each(|(gauge, count)| gauge.set(sum(count) as f64));
        self.totals.iter().for_each(|(counter, count)| counter.absolute(sum(count)));
    }
}
