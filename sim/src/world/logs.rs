//! What meta and node log, as lines of the trace.

use std::cell::RefCell;
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::context::{self, Kind};

thread_local! {
    static HOST: RefCell<String> = const { RefCell::new(String::new()) };
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Names the host whose turn it is.
pub(super) fn set_host(name: &str) {
    HOST.with_borrow_mut(|host| {
        host.clear();
        host.push_str(name);
    });
}

/// Takes the log lines of this crate's hosts as events of the trace; everything else is left out.
struct TraceLogs {
    level: LevelFilter,
}

/// Makes this thread's log lines, from INFO on, part of its trace until the guard is dropped. `print`: DEBUG lines are
/// printed too, but they are no part of the trace, so that its digest is the same.
pub fn capture(print: bool) -> tracing::subscriber::DefaultGuard {
    let level = if print { LevelFilter::DEBUG } else { LevelFilter::INFO };
    tracing::subscriber::set_default(TraceLogs { level })
}

/// Panics of this thread's hosts so far: a bug panics, and tokio would hide it in a task that is gone.
pub fn panics() -> Vec<String> {
    PANICS.take()
}

/// From now on, panics on simulated threads are kept for [`panics`] instead of being printed.
pub fn catch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let host = HOST.try_with(|host| host.try_borrow().map(|host| host.clone()).unwrap_or_default());
            let host = host.unwrap_or_default();
            // A panic between the hosts' turns is the simulator's own.
            if host.is_empty() {
                return before(panic);
            }
            let what = format!("{host}: {panic}");
            PANICS.with_borrow_mut(|panics| panics.push(what));
        }));
    });
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}

impl Subscriber for TraceLogs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level && metadata.target().starts_with("foreword")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let level = event.metadata().level();
        HOST.with_borrow(|host| {
            let line = || format!("{host} {level} {}", line.0.trim_end());
            if *level > LevelFilter::INFO { context::aside(line) } else { context::event(Kind::Host, line) }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
