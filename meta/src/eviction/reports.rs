//! Agents' reports of what was asked for, until the policy reads them. They are advice: one that finds no room is
//! dropped.

use std::collections::VecDeque;

use foreword_proto::limits::HEAT_REPORTS_BYTES_MAX;
use foreword_proto::{EntryKey, Epoch, NamespaceId};
use foreword_seams::Telemetry;
use metrics::Counter;
use parking_lot::Mutex;

use super::EntryId;

/// One report: the accesses of one namespace, oldest first.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) namespace: NamespaceId,
    pub(super) epoch: Epoch,
    pub(super) keys: Vec<EntryKey>,
}

impl Report {
    pub(super) fn entries(&self) -> impl Iterator<Item = EntryId> {
        self.keys.iter().map(|key| EntryId { namespace: self.namespace, epoch: self.epoch, key: *key })
    }

    fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<EntryKey>()
    }
}

/// Reports that wait, oldest first.
pub(super) struct Reports {
    waiting: Mutex<(VecDeque<Report>, usize)>,
    dropped: Counter,
}

impl Reports {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let dropped = telemetry.counter(
            "foreword_meta_heat_reports_dropped_total",
            "Reports of heat that the eviction policy had no time to read",
        );
        Self { waiting: Mutex::default(), dropped }
    }

    pub(super) fn push(&self, report: Report) {
        let mut waiting = self.waiting.lock();
        let bytes = waiting.1 + report.bytes();
        if bytes > HEAT_REPORTS_BYTES_MAX {
            self.dropped.increment(1);
        } else if !report.keys.is_empty() {
            waiting.1 = bytes;
            waiting.0.push_back(report);
        }
    }

    pub(super) fn next(&self) -> Option<Report> {
        let mut waiting = self.waiting.lock();
        let report = waiting.0.pop_front()?;
        waiting.1 -= report.bytes();
        Some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_that_find_no_room_are_dropped() {
        let reports = Reports::new(&Telemetry::new());
        let report = || Report { namespace: 1, epoch: 1, keys: vec![EntryKey([1; 16]); 1024] };
        let fit = HEAT_REPORTS_BYTES_MAX / report().bytes();
        for _ in 0..fit + 3 {
            reports.push(report());
        }
        assert_eq!(std::iter::from_fn(|| reports.next()).count(), fit);
        reports.push(report());
        assert!(reports.next().is_some(), "there is room again");
    }
}
