//! SGLang's own metadata server for its hf3fs backend, from its wheel, and a load of plain calls for whoever serves
//! that API.

pub mod load;
pub mod plain;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// SGLang's server in a process of its own.
pub struct Sglang {
    // Killed when dropped.
    _child: Child,
    pub address: String,
}

impl Sglang {
    /// Starts it and waits until it listens. `saved`: the file it loads at its start, and saves to every `save_s`
    /// seconds.
    pub async fn start(python: &Path, launcher: &Path, saved: Option<(&Path, u32)>) -> anyhow::Result<Self> {
        let mut command = Command::new(python);
        command.arg(launcher);
        if let Some((path, save_s)) = saved {
            command.arg("--persistence-path").arg(path).arg("--save-interval").arg(save_s.to_string());
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| python.display().to_string())?;
        let stdout = child.stdout.take().context("its stdout")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("SGLang's server ended at its start")?;
        let port: u16 = serde_json::from_str::<serde_json::Value>(&line)?["port"]
            .as_u64()
            .and_then(|port| port.try_into().ok())
            .with_context(|| format!("its port, got {line}"))?;
        Ok(Self { _child: child, address: format!("127.0.0.1:{port}") })
    }
}

/// The environment with SGLang, and the tests' tools for it.
pub struct Venv {
    pub python: PathBuf,
    pub launcher: PathBuf,
    pub client: PathBuf,
}

impl Venv {
    pub fn at(venv: &Path) -> anyhow::Result<Self> {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hf3fs");
        let found = Self {
            python: venv.join("bin/python"),
            launcher: tests.join("sglang_server.py"),
            client: tests.join("bench_client.py"),
        };
        for path in [&found.python, &found.launcher, &found.client] {
            ensure!(path.exists(), "VENV: expected {} to be there", path.display());
        }
        Ok(found)
    }
}
