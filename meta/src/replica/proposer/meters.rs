//! What the proposer counts.

use foreword_seams::Telemetry;
use metrics::{Counter, Gauge, Histogram};

pub(super) struct Meters {
    /// Proposals that wait to be packed, and the bytes they take in entries.
    pub(super) waiting: Gauge,
    pub(super) waiting_bytes: Gauge,
    pub(super) queue_full: Counter,
    pub(super) caller_left: Counter,
    pub(super) late: Counter,
    pub(super) unknown: Counter,
    pub(super) restarts: Counter,
    /// From proposing an entry to its outcome.
    pub(super) commit: Histogram,
}

impl Meters {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let dropped = |reason| {
            let help = "Proposals that were not proposed, by reason";
            telemetry.counter_with("foreword_meta_proposals_dropped_total", help, "reason", reason)
        };
        Self {
            waiting: telemetry.gauge("foreword_meta_proposals_waiting", "Proposals waiting at the leader"),
            waiting_bytes: telemetry.gauge("foreword_meta_proposals_waiting_bytes", "Their bytes"),
            queue_full: dropped("queue_full"),
            caller_left: dropped("caller_left"),
            late: dropped("deadline"),
            unknown: telemetry.counter(
                "foreword_meta_proposals_unknown_total",
                "Proposals in flight whose leader or term ended, or that stood still",
            ),
            restarts: telemetry
                .counter("foreword_meta_proposer_restarts_total", "Times nothing was applied for no reason"),
            commit: telemetry.seconds(
                "foreword_meta_commit_seconds",
                "How long an entry of this leader took from being proposed to being applied",
            ),
        }
    }
}
