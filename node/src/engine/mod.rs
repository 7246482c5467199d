//! Sessions with engines in shared memory: the second client of [`EngineApi`], beside gRPC.
//!
//! An engine connects to the agent's unix socket and says hello ([`door`] tells it from HTTP/2); it is given its
//! session's memory ([`welcome`]), and from then on asks in that memory. One thread looks at all sessions' slots
//! ([`host`]) and answers what needs no waiting; the rest goes to the runtime ([`work`]). What an engine writes is
//! copied before it is checked; one that writes what makes no sense has its session closed, and nobody else notices. An
//! engine's death is its socket's end.

mod attached;
mod door;
mod host;
mod serve;
mod staged;
mod welcome;
mod work;

use std::sync::Arc;

use foreword_seams::seldom::Seldom;
use foreword_seams::{Net, Telemetry};
use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::EngineApi;
use crate::config::NodeConfig;

pub(crate) use door::Door;
use host::Host;

/// Connections that asked for a session and were not seen to yet.
const ASKED_MAX: usize = 64;

/// What sessions with engines share.
pub(crate) struct Engines {
    api: Arc<dyn EngineApi>,
    host: Host,
    staging_bytes: usize,
    sessions_max: usize,
    stop: CancellationToken,
    counts: Counts,
    lines: Mutex<Lines>,
}

/// Lines of the log that a client could have written any number of times.
#[derive(Default)]
struct Lines {
    refused: Seldom,
    closed: Seldom,
}

struct Counts {
    sessions: Gauge,
    refused: Counter,
    /// Sessions that the agent ended: the engine had written what makes no sense, or did not let go of a segment.
    closed: Counter,
    calls: Counter,
}

impl Counts {
    fn new(telemetry: &Telemetry) -> Self {
        Self {
            sessions: telemetry.gauge("foreword_agent_engine_sessions", "Sessions with engines in shared memory"),
            refused: telemetry
                .counter("foreword_agent_engine_sessions_refused_total", "Engines that were refused a session"),
            closed: telemetry
                .counter("foreword_agent_engine_sessions_closed_total", "Sessions that the agent had to end"),
            calls: telemetry.counter("foreword_agent_engine_calls_total", "Calls that came in shared memory"),
        }
    }
}

impl Engines {
    /// None yet.
    pub(crate) fn new(
        api: Arc<dyn EngineApi>,
        config: &NodeConfig,
        telemetry: &Telemetry,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            api,
            host: Host::default(),
            staging_bytes: usize::try_from(config.engine_staging_bytes).unwrap_or(usize::MAX),
            sessions_max: config.engine_sessions_max,
            stop,
            counts: Counts::new(telemetry),
            lines: Mutex::default(),
        })
    }

    /// Counts a session that this side ends, and says why, once a minute.
    fn closed(&self, tenant: &str, why: &str) {
        self.counts.closed.increment(1);
        if let Some(left_out) = self.lines.lock().closed.due() {
            tracing::warn!(tenant, why, left_out, "an engine's session is closed");
        }
    }

    /// Sees to those who ask, until stopped.
    pub(crate) async fn run(self: Arc<Self>, mut asking: mpsc::Receiver<UnixStream>, tracker: TaskTracker) {
        loop {
            let asked = tokio::select! {
                asked = asking.recv() => asked,
                () = self.stop.cancelled() => return self.host.wake(),
            };
            let Some(socket) = asked else { return };
            tracker.spawn(welcome::session(self.clone(), socket));
        }
    }
}

/// The network as the agent listens on it: who asks for a session on a unix socket comes out of the receiver.
pub(crate) fn door(net: Arc<dyn Net>) -> (Arc<dyn Net>, mpsc::Receiver<UnixStream>) {
    let (asked, asking) = mpsc::channel(ASKED_MAX);
    (Arc::new(Door::new(net, asked)), asking)
}
