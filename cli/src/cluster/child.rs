//! One server process: started from the binary, waited for, killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use foreword_seams::{Endpoint, Net, TokioNet};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::process::Announcement;

/// How long a server may take to announce itself, and then to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// How long one /readyz may take.
const READYZ_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a log's end that an error shows.
const LOG_TAIL_BYTES: u64 = 2000;

/// A running server. Dropping it kills the process and waits for its end.
#[derive(Debug)]
pub(super) struct Child {
    process: Process,
    name: String,
    log: PathBuf,
    pub(super) announced: Announcement,
}

impl Child {
    /// Starts `binary` with these arguments and waits for the line it prints once it listens. Its stderr goes to `log`.
    ///
    /// The child is in a process group of its own, so that a Ctrl-C in a terminal reaches only us, and dies with us.
    pub(super) async fn start(binary: &Path, name: &str, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let stderr = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let mut process = Command::new(binary)
            .args(args)
            .arg(format!("--die-with-parent={}", std::process::id()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name}: could not start {}", binary.display()))?;
        let stdout = process.stdout.take().context("a child without stdout")?;
        let placeholder = Announcement {
            role: String::new(),
            name: name.to_owned(),
            grpc: String::new(),
            socket: None,
            http: None,
            hf3fs: None,
            pid: process.id(),
        };
        // From here on a failure drops the child, which kills it.
        let mut child = Self { process, name: name.to_owned(), log: log.to_owned(), announced: placeholder };
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = timeout(START_TIMEOUT, line).await;
        let Ok(line) = line else { bail!("{name}: announced nothing in {START_TIMEOUT:?}\n{}", child.log_tail()) };
        let line = line??;
        if line.is_empty() {
            let status = child.process.wait()?;
            bail!("{name}: ended at its start ({status})\n{}", child.log_tail());
        }
        child.announced =
            serde_json::from_str(&line).with_context(|| format!("{name}: an announcement, got {line:?}"))?;
        Ok(child)
    }

    /// Waits until /readyz says yes.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let Some(http) = self.announced.http.clone() else { return Ok(()) };
        let endpoint: Endpoint = http.parse()?;
        let until = Instant::now() + START_TIMEOUT;
        loop {
            if readyz(&endpoint).await {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("{}: ended before it was ready ({status})\n{}", self.name, self.log_tail());
            }
            if Instant::now() >= until {
                bail!("{}: not ready in {START_TIMEOUT:?}\n{}", self.name, self.log_tail());
            }
            sleep(POLL).await;
        }
    }

    /// SIGKILL, without waiting for the end.
    pub(super) fn signal_kill(&mut self) {
        // An error means that it has ended and was waited for.
        let _ = self.process.kill();
    }

    /// SIGKILL, and waits for the end.
    pub(super) fn kill(&mut self) {
        self.signal_kill();
        let _ = self.process.wait();
    }

    /// Sends the process a signal.
    pub(super) fn signal(&self, signal: Signal) {
        // An error means that it has ended already.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal);
    }

    /// SIGTERM, and waits so long for the end; then SIGKILL.
    pub(super) fn terminate(mut self, patience: Duration) {
        self.signal(Signal::TERM);
        let (ended, waiting) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let process = rustix::process::Pid::from_child(&self.process);
            scope.spawn(move || {
                // Does not reap it: the process id stays its own until the wait below.
                let _ = rustix::process::waitid(
                    rustix::process::WaitId::Pid(process),
                    rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
                );
                let _ = ended.send(());
            });
            if waiting.recv_timeout(patience).is_err() {
                self.signal_kill();
            }
        });
        let _ = self.process.wait();
    }

    /// Whether the process has ended by itself, and how.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.process.try_wait().ok()??;
        Some(match status.signal() {
            Some(signal) => format!("{}: killed by signal {signal}", self.name),
            None => format!("{}: {status}", self.name),
        })
    }

    fn log_tail(&self) -> String {
        let read = || {
            let mut file = File::open(&self.log)?;
            let bytes = file.metadata()?.len();
            file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            std::io::Result::Ok(String::from_utf8_lossy(&tail).into_owned())
        };
        read().unwrap_or_else(|error| format!("{}: {error}", self.log.display()))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether `GET /readyz` answers 200.
async fn readyz(endpoint: &Endpoint) -> bool {
    let call = async {
        let mut stream = TokioNet.connect(endpoint).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: foreword\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    matches!(timeout(READYZ_TIMEOUT, call).await, Ok(Ok(true)))
}
