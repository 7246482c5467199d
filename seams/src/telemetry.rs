//! Metrics through a recorder that is passed in: a global one would mix simulated hosts.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Bucket bounds of durations, in seconds: 10 µs to 10 s.
const SECONDS_BUCKETS: [f64; 13] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0];

/// The same of work that others wait for: 10 µs to 1 s, finer around the 5 ms that no lock may be held for.
const HELD_SECONDS_BUCKETS: [f64; 17] =
    [1e-5, 3e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 7e-3, 1e-2, 2e-2, 5e-2, 1e-1, 3e-1, 1.0];
/// How the names of histograms with such bounds end.
const HELD_SECONDS: &str = "_held_seconds";
const HELD_CPU_SECONDS: &str = "_held_cpu_seconds";

const METADATA: Metadata<'static> = Metadata::new("foreword", Level::INFO, None);

fn with_buckets() -> Result<PrometheusBuilder, BuildError> {
    let mut builder = PrometheusBuilder::new().set_buckets(&SECONDS_BUCKETS)?;
    for name in [HELD_SECONDS, HELD_CPU_SECONDS] {
        builder = builder.set_buckets_for_metric(Matcher::Suffix(name.to_owned()), &HELD_SECONDS_BUCKETS)?;
    }
    Ok(builder)
}

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
        let recorder = with_buckets().unwrap_or_default().build_recorder();
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
