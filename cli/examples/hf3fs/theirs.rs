//! SGLang's own client as load: a warm Python process that forks as many as are asked for.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use foreword_cli::commands::bench::sglang::Venv;
use foreword_cli::commands::bench::sglang::load::{Figures, KEYS, Operation, Target, key};

/// The process; it takes one line of JSON a measurement.
pub(crate) struct TheirClient {
    // Killed when dropped.
    _child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl TheirClient {
    /// Starts it: importing SGLang takes its time.
    pub(crate) async fn start(venv: &Venv) -> anyhow::Result<Self> {
        let mut child = Command::new(&venv.python)
            .arg(&venv.client)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("bench_client.py")?;
        let mut stdin = child.stdin.take().context("its stdin")?;
        let answers = BufReader::new(child.stdout.take().context("its stdout")?).lines();
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        stdin.write_all(format!("{}\n", json!({ "keys": keys })).as_bytes()).await?;
        Ok(Self { _child: child, stdin, answers })
    }

    /// Loads a server; new keys are its own.
    pub(crate) async fn run(
        &mut self,
        target: &Target,
        operation: Operation,
        keys: u64,
        clients: u64,
        span: Duration,
    ) -> anyhow::Result<Figures> {
        let url = format!("http://{}{}", target.address, target.path);
        let asked = json!({ "url": url, "operation": operation.name(), "keys": keys, "clients": clients,
                            "seconds": span.as_secs_f64() });
        self.stdin.write_all(format!("{asked}\n").as_bytes()).await?;
        let line = self.answers.next_line().await?.context("bench_client.py ended")?;
        let answer: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        let latencies = answer["latencies_ms"].as_array().with_context(|| line.clone())?;
        let latencies =
            latencies.iter().filter_map(Value::as_f64).map(|ms| Duration::from_secs_f64(ms / 1e3)).collect();
        Ok(Figures { calls_per_s: answer["calls_per_s"].as_f64().context("calls_per_s")?, latencies })
    }
}
