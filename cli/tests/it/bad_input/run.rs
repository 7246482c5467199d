//! The binary as a process: one that ends by itself, and one that serves.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use foreword_cli::process::Announcement;
use foreword_seams::{Endpoint, Net, TokioNet};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long anything here may take before it counts as hanging.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// The binary, deaf to the variables of whoever runs the tests.
pub(super) fn foreword() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreword"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FOREWORD_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    what: String,
    code: Option<i32>,
    pub(super) stdout: String,
    stderr: String,
}

/// Runs the binary with these arguments to its end.
pub(super) async fn run(args: &[&str]) -> Ended {
    run_with(args, &[]).await
}

/// The same with these environment variables.
pub(super) async fn run_with(args: &[&str], env: &[(&str, &str)]) -> Ended {
    let what = format!("{env:?} foreword {}", args.join(" "));
    let output = foreword().args(args).envs(env.iter().copied()).output();
    let output = timeout(PATIENCE, output).await.unwrap_or_else(|_| panic!("{what}: still runs")).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended { what, code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ended {
    /// Exit code, the field, and what else the message must say, on stderr.
    pub(super) fn refused(&self, code: i32, field: &str, says: &[&str]) {
        let Self { what, stderr, .. } = self;
        assert_eq!(self.code, Some(code), "{what}\n{stderr}");
        assert!(!stderr.contains("panicked"), "{what}\n{stderr}");
        // A flag's own parser shows the usage below its message: what stands there names nothing.
        let message = stderr.split("\nUsage:").next().unwrap_or_default();
        let named = format!("{field}:");
        let flag = format!("--{} ", field.replace('_', "-"));
        assert!(message.contains(&named) || message.contains(&flag), "{what}: expected the field {field}\n{stderr}");
        for said in says {
            assert!(stderr.contains(said), "{what}: expected {said:?}\n{stderr}");
        }
    }

    /// Exit code 0.
    #[track_caller]
    pub(super) fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.what, self.stderr);
        self
    }

    /// Exit code 3: not there.
    #[track_caller]
    pub(super) fn not_there(&self) {
        assert_eq!(self.code, Some(3), "{}\n{}", self.what, self.stderr);
    }
}

/// A server of its own, beside a cluster. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    what: String,
    log: PathBuf,
    pub(super) announced: Announcement,
}

impl Server {
    /// Starts the binary with these arguments; returns when it has announced itself. Its stderr goes to `log`.
    pub(super) async fn start(args: &[&str], log: &Path) -> Self {
        let what = args.join(" ");
        let stderr = File::options().create(true).append(true).open(log).unwrap();
        let parent = format!("--die-with-parent={}", std::process::id());
        let mut child = foreword().args(args).arg(parent).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap_or_else(|_| panic!("{what}: silent\n{}", said()));
        let line = line.unwrap().unwrap_or_else(|| panic!("{what}: ended at its start\n{}", said()));
        let announced = serde_json::from_str(&line).unwrap();
        Self { child, what, log: log.to_owned(), announced }
    }

    /// Waits until /readyz says yes.
    pub(super) async fn ready(&mut self) {
        let http: Endpoint = self.announced.http.as_ref().unwrap().parse().unwrap();
        self.until("ready", async || http_status(&http, b"GET /readyz HTTP/1.1").await == Some(200)).await;
    }

    /// Waits until its log says so.
    pub(super) async fn says(&mut self, text: &str) {
        let log = self.log.clone();
        self.until(text, async || std::fs::read_to_string(&log).is_ok_and(|said| said.contains(text))).await;
    }

    async fn until(&mut self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is().await {
            let ended = self.child.try_wait().unwrap();
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(ended.is_none(), "{}: ended, {ended:?}\n{said}", self.what);
            assert!(Instant::now() < until, "{}: never {what}\n{said}", self.what);
            sleep(POLL).await;
        }
    }

    /// SIGKILL, and waits for the end.
    pub(super) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The status that an HTTP server answers this request line with; None when it closes without a word.
pub(super) async fn http_status(endpoint: &Endpoint, line: &[u8]) -> Option<u16> {
    let mut stream = TokioNet.connect(endpoint).await.ok()?;
    // A server that has read enough of it closes with the rest unread, which resets the connection: what it said before
    // counts.
    let _ = stream.write_all(&[line, b"\r\nhost: foreword\r\nconnection: close\r\n\r\n"].concat()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer or the end");
    let answer = String::from_utf8_lossy(&answer);
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// Waits until `is` holds.
pub(super) async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is().await {
        assert!(Instant::now() < until, "never: {what}");
        sleep(POLL).await;
    }
}
