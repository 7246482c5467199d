//! What every command of the binary shares with its process: logs, signals, the parent, and the one line a server
//! prints.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use foreword_proto::BadInput;
use foreword_seams::Telemetry;
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// The environment variable that filters the log: `info`, `foreword_meta=debug,warn`, ...
pub const LOG_ENV: &str = "FOREWORD_LOG";

/// The one line a server prints on stdout once it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// `meta`, `node` or `usrbiod`.
    pub role: String,
    /// The replica id of a meta, the name of a node.
    pub name: String,
    /// Where its gRPC really listens; a stand-in has none.
    #[serde(default)]
    pub grpc: String,
    /// A node's unix socket.
    pub socket: Option<String>,
    /// Where its HTTP (/metrics, /healthz, /readyz, /status) really listens.
    pub http: Option<String>,
    /// Where a meta really serves SGLang's hf3fs metadata clients.
    #[serde(default)]
    pub hf3fs: Option<String>,
    pub pid: u32,
}

impl Announcement {
    /// Prints the line and flushes it: a parent waits for it.
    pub fn print(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, self)?;
        writeln!(out)?;
        out.flush().context("stdout: expected a reader of the announcement")
    }
}

/// openraft writes four lines for each try at a peer that is down, ten tries a second; `foreword_meta::network` has our
/// own. What is fatal to it ends a replica with a reason of ours.
const OPENRAFT_QUIET: &str = "openraft=off";

/// Lines of log that wait for whoever reads them; each is some hundred bytes. More are dropped, and counted.
const LOG_LINES_WAITING_MAX: usize = 8192;

/// Of the server's log; none in other commands.
static LINES_DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// While it lives, what is logged is written.
pub type LogsEnd = WorkerGuard;

/// Logs to stderr, filtered by `FOREWORD_LOG`, else by `default`. openraft is quiet unless the filter names it. A
/// server never waits for whoever reads its log: what is beyond [`LOG_LINES_WAITING_MAX`] is dropped.
///
/// Errors: a filter that does not parse.
pub fn init_logs(default: &str, serves: bool) -> anyhow::Result<Option<LogsEnd>> {
    let text = std::env::var(LOG_ENV).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned());
    let quiet = if text.contains("openraft") { "" } else { OPENRAFT_QUIET };
    let filter = EnvFilter::try_new(format!("{quiet},{text}"))
        .map_err(|error| BadInput::new(LOG_ENV, format!("a log filter, got {text:?}: {error}")))?;
    let ansi = std::io::stderr().is_terminal();
    // A second call (tests in one process) keeps the first subscriber.
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi);
    if !serves {
        let _ = logs.with_writer(std::io::stderr).try_init();
        return Ok(None);
    }
    let queue = NonBlockingBuilder::default().buffered_lines_limit(LOG_LINES_WAITING_MAX);
    let (writer, end) = queue.finish(std::io::stderr());
    let _ = LINES_DROPPED.set(writer.error_counter());
    let _ = logs.with_writer(writer).try_init();
    Ok(Some(end))
}

/// Raises the soft limit of open files to the hard one: each connection takes a descriptor.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let (from, to) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => tracing::info!(from, to, "raised the soft limit of open files to the hard one"),
        Err(error) => tracing::warn!(from, to, %error, "could not raise the soft limit of open files"),
    }
}

/// Tells of open descriptors, their limit, and lost lines of log, for as long as the process runs.
pub fn report_process(telemetry: &Telemetry) {
    const EVERY: Duration = Duration::from_secs(5);
    let open = telemetry.gauge("foreword_descriptors_open", "Files, sockets and pipes that this process has open");
    let max = telemetry.gauge("foreword_descriptors_max", "How many it may have open");
    let lost = telemetry.gauge("foreword_log_lines_dropped", "Lines of log that nobody took in time");
    tokio::spawn(async move {
        loop {
            lost.set(LINES_DROPPED.get().map_or(0.0, |lines| lines.dropped_lines() as f64));
            let limit = getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |limit| limit as f64);
            max.set(limit);
            // Listing takes a descriptor itself: where there is none, all are open.
            let listed = tokio::task::spawn_blocking(|| std::fs::read_dir("/proc/self/fd").map(Iterator::count)).await;
            open.set(listed.ok().and_then(Result::ok).map_or(limit, |count| count as f64 - 1.0));
            tokio::time::sleep(EVERY).await;
        }
    });
}

/// Asks the kernel to kill this process when `parent` dies, and ends it at once if that has happened already.
pub fn die_with_parent(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl(PR_SET_PDEATHSIG)")?;
    // The parent may have died before the call above: then nobody would ever send the signal.
    let alive = getppid().map(Pid::as_raw_pid) == Some(parent as i32);
    anyhow::ensure!(alive, "die-with-parent: expected process {parent} as the parent, it is gone");
    Ok(())
}

/// Completes at the first SIGTERM or SIGINT.
pub async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
