//! Metrics through a recorder that is passed in: a global one would mix simulated hosts.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Bucket bounds of durations, in seconds: 10 µs to 10 s.
const SECONDS_BUCKETS: [f64; 13] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0];

const METADATA: Metadata<'static> = Metadata::new("foreword", Level::INFO, None);

/// A host's metrics: registers them and renders them for Prometheus.
#[derive(Clone)]
pub struct Telemetry {
    recorder: Arc<dyn Recorder + Send + Sync>,
    handle: PrometheusHandle,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// A recorder of this host's own.
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new();
        let builder = builder.set_buckets(&SECONDS_BUCKETS).unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Self { recorder: Arc::new(recorder), handle }
    }

    /// A counter `foreword_<name>`; describe it once, here.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.recorder.describe_counter(name.into(), Some(Unit::Count), SharedString::const_str(help));
        self.recorder.register_counter(&Key::from_name(name), &METADATA)
    }

    /// A counter with one label.
    pub fn counter_with(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        value: impl Into<SharedString>,
    ) -> Counter {
        self.recorder.describe_counter(name.into(), Some(Unit::Count), SharedString::const_str(help));
        let key = Key::from_parts(name, vec![Label::new(label, value.into())]);
        self.recorder.register_counter(&key, &METADATA)
    }

    /// A counter with two labels.
    pub fn counter_by(&self, name: &'static str, help: &'static str, labels: [(&'static str, String); 2]) -> Counter {
        self.recorder.describe_counter(name.into(), Some(Unit::Count), SharedString::const_str(help));
        let labels = labels.map(|(label, value)| Label::new(label, value));
        self.recorder.register_counter(&Key::from_parts(name, labels.to_vec()), &METADATA)
    }

    /// A gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.recorder.describe_gauge(name.into(), None, SharedString::const_str(help));
        self.recorder.register_gauge(&Key::from_name(name), &METADATA)
    }

    /// A gauge with one label.
    pub fn gauge_with(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        value: impl Into<SharedString>,
    ) -> Gauge {
        self.recorder.describe_gauge(name.into(), None, SharedString::const_str(help));
        let key = Key::from_parts(name, vec![Label::new(label, value.into())]);
        self.recorder.register_gauge(&key, &METADATA)
    }

    /// A histogram of seconds.
    pub fn seconds(&self, name: &'static str, help: &'static str) -> Histogram {
        self.recorder.describe_histogram(name.into(), Some(Unit::Seconds), SharedString::const_str(help));
        self.recorder.register_histogram(&Key::from_name(name), &METADATA)
    }

    /// A histogram of seconds with one label.
    pub fn seconds_with(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        value: impl Into<SharedString>,
    ) -> Histogram {
        self.recorder.describe_histogram(name.into(), Some(Unit::Seconds), SharedString::const_str(help));
        let key = Key::from_parts(name, vec![Label::new(label, value.into())]);
        self.recorder.register_histogram(&key, &METADATA)
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}
