//! What watchers cost, for /metrics.

use foreword_seams::Telemetry;
use metrics::{Counter, Gauge, Histogram};

/// The metrics of one replica's watch streams.
#[derive(Clone)]
pub(super) struct Measures {
    pub(super) streams: Gauge,
    pub(super) namespaces: Gauge,
    pub(super) resyncs_running: Gauge,
    pub(super) resyncs_waiting: Gauge,
    pub(super) resyncs: Counter,
    pub(super) resync_bytes: Counter,
    pub(super) buckets_sent: Counter,
    pub(super) buckets_equal: Counter,
    pub(super) fell_behind: Counter,
    pub(super) stuck: Counter,
    pub(super) hub_bytes: Gauge,
    pub(super) encoded: Histogram,
}

impl Measures {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let gauge = |name, help| telemetry.gauge(name, help);
        let counter = |name, help| telemetry.counter(name, help);
        Self {
            streams: gauge("foreword_meta_watch_streams", "Watch streams, one an agent"),
            namespaces: gauge("foreword_meta_watch_namespaces", "Namespaces watched, over all streams"),
            resyncs_running: gauge("foreword_meta_watch_resyncs_running", "Mirrors that are being resynced"),
            resyncs_waiting: gauge("foreword_meta_watch_resyncs_waiting", "Mirrors that wait for their resync"),
            resyncs: counter("foreword_meta_watch_resyncs_total", "Resyncs that began"),
            resync_bytes: counter("foreword_meta_watch_resync_bytes_total", "Bytes of pages sent by resyncs"),
            buckets_sent: counter("foreword_meta_watch_buckets_sent_total", "Buckets that resyncs sent"),
            buckets_equal: counter(
                "foreword_meta_watch_buckets_equal_total",
                "Buckets that resyncs did not send, because the mirror's digest was equal",
            ),
            fell_behind: counter(
                "foreword_meta_watch_fell_behind_total",
                "Watched namespaces whose next event was not kept any more",
            ),
            stuck: counter("foreword_meta_watch_stuck_total", "Watchers dropped because they took nothing"),
            hub_bytes: gauge("foreword_meta_watch_kept_bytes", "Bytes of events kept for watchers"),
            encoded: telemetry.seconds("foreword_meta_watch_encode_seconds", "Encoding an entry's events"),
        }
    }
}

/// One of what a gauge counts, as long as it lives.
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn one(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
