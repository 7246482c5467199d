//! What every command of the binary shares with its process: logs, signals, the parent, and the one line a server prints.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use foreword_proto::BadInput;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
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

/// Logs to stderr, filtered by `FOREWORD_LOG`, else by `default`.
///
/// Errors: a filter that does not parse.
pub fn init_logs(default: &str) -> anyhow::Result<()> {
    let text = std::env::var(LOG_ENV).unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| BadInput::new(LOG_ENV, format!("a log filter, got {text:?}: {error}")))?;
    let ansi = std::io::stderr().is_terminal();
    // A second call (tests in one process) keeps the first subscriber.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).try_init();
    Ok(())
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
