//! What the service has done.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Figures since the start, but for `links` and `rings`, which are those of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Links, rings included.
    pub links: u64,
    pub rings: u64,
    /// Jobs whose completions were written.
    pub jobs: u64,
    /// Reads and writes answered, well or not.
    pub reads: u64,
    pub writes: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    /// I/Os answered with an errno, by a fault or else.
    pub errors: u64,
    /// Things no honest client does: impossible cursors and indexes, memory cut short.
    pub rejected: u64,
    /// I/Os that a fault changed, one figure for each kind.
    pub fault_latency: u64,
    pub fault_stall: u64,
    pub fault_eio: u64,
    pub fault_short: u64,
    pub fault_drop: u64,
    pub fault_reorder: u64,
}

/// A figure that only grows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    Jobs,
    Reads,
    Writes,
    ReadBytes,
    WriteBytes,
    Errors,
    Rejected,
    Latency,
    Stall,
    Eio,
    Short,
    Drop,
    Reorder,
}

const COUNTS: usize = Count::Reorder as usize + 1;

/// The growing figures, counted by many threads.
#[derive(Debug, Default)]
pub(super) struct Tally([AtomicU64; COUNTS]);

impl Tally {
    pub(super) fn add(&self, count: Count, number: u64) {
        self.0[count as usize].fetch_add(number, Ordering::Relaxed);
    }

    pub(super) fn counters(&self, links: u64, rings: u64) -> Counters {
        let of = |count: Count| self.0[count as usize].load(Ordering::Relaxed);
        Counters {
            links,
            rings,
            jobs: of(Count::Jobs),
            reads: of(Count::Reads),
            writes: of(Count::Writes),
            read_bytes: of(Count::ReadBytes),
            write_bytes: of(Count::WriteBytes),
            errors: of(Count::Errors),
            rejected: of(Count::Rejected),
            fault_latency: of(Count::Latency),
            fault_stall: of(Count::Stall),
            fault_eio: of(Count::Eio),
            fault_short: of(Count::Short),
            fault_drop: of(Count::Drop),
            fault_reorder: of(Count::Reorder),
        }
    }
}
