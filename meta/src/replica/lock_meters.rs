//! How long the lock of the applied state is held: whoever wants it waits as long.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foreword_seams::Telemetry;
use foreword_seams::stopwatch::Stopwatch;
use metrics::{Gauge, Histogram};

/// Holds of this length are worth a line for who looks for them, and those of the other for everybody.
const LONG: Duration = Duration::from_millis(2);
const TOO_LONG: Duration = Duration::from_millis(250);

/// One measured duration: its distribution, and the longest since the start.
struct Meter {
    seconds: Histogram,
    max: Gauge,
    max_nanos: AtomicU64,
}

impl Meter {
    fn record(&self, took: Duration) {
        self.seconds.record(took.as_secs_f64());
        let nanos = took.as_nanos() as u64;
        if self.max_nanos.fetch_max(nanos, Ordering::Relaxed) < nanos {
            self.max.set(took.as_secs_f64());
        }
    }
}

/// The meters of one lock.
pub(super) struct LockMeters {
    wall: Meter,
    cpu: Meter,
    /// From an entry's first command to its last observer.
    entry: Histogram,
}

/// The lock is held since then.
pub(super) struct Hold(Stopwatch);

impl LockMeters {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let meter = |name, help, max, help_max| Meter {
            seconds: telemetry.seconds(name, help),
            max: telemetry.gauge(max, help_max),
            max_nanos: AtomicU64::new(0),
        };
        Self {
            wall: meter(
                "foreword_meta_lock_held_seconds",
                "How long the lock of the applied state was held at a time, lookups left out",
                "foreword_meta_lock_held_max_seconds",
                "The longest time that the lock of the applied state was held since the start",
            ),
            cpu: meter(
                "foreword_meta_lock_held_cpu_seconds",
                "CPU time of its holder meanwhile",
                "foreword_meta_lock_held_cpu_max_seconds",
                "The most CPU time that a holder of the lock used since the start",
            ),
            entry: telemetry.seconds("foreword_meta_apply_seconds", "How long it took to apply an entry"),
        }
    }

    /// The lock was taken.
    pub(super) fn begin(&self) -> Hold {
        Hold(Stopwatch::start())
    }

    /// An entry is applied since then.
    pub(super) fn applied(&self, since: &Hold) {
        self.entry.record(since.0.took().wall.as_secs_f64());
    }

    /// It is let go of by who did this.
    pub(super) fn end(&self, hold: Hold, who: &dyn Display) {
        let took = hold.0.took();
        if took.wall >= LONG {
            let ms = |span: Duration| span.as_secs_f64() * 1e3;
            let (held_ms, cpu_ms) = (ms(took.wall), ms(took.cpu));
            match took.wall >= TOO_LONG {
                true => tracing::warn!(%who, held_ms, cpu_ms, "the lock of the applied state was held for long"),
                false => tracing::debug!(%who, held_ms, cpu_ms, "the lock of the applied state was held"),
            }
        }
        self.wall.record(took.wall);
        self.cpu.record(took.cpu);
    }
}
