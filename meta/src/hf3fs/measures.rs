//! What a replica measures of its calls.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_seams::Telemetry;
use metrics::{Counter, Histogram};
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
