//! The two servers: a Foreword group of three replicas, and SGLang's server from its wheel.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use foreword_cli::cluster::{Cluster, L3Spec, Spec};
use foreword_cli::human::Span;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const REPLICAS: usize = 3;

/// A group whose rests and protections are short: the load takes a page for each key and gives none back.
pub(crate) async fn foreword(binary: &Path, dir: &Path) -> anyhow::Result<Cluster> {
    let spec = Spec {
        binary: binary.to_owned(),
        dir: Some(dir.to_owned()),
        keep: false,
        replicas: REPLICAS,
        agents: 1,
        l3: L3Spec::Posix,
        l3_bytes: 64 << 20,
        slab_bytes: 8 << 20,
        chunk_bytes: 4096,
        arena_bytes: 8 << 20,
        lease: Span(Duration::from_secs(5)),
        read_rest: Span(Duration::from_secs(1)),
        write_rest: Span(Duration::from_secs(1)),
        config: "[meta]\nhf3fs = \"127.0.0.1:0\"\n".into(),
        generated: None,
    };
    Cluster::start(spec, |line| eprintln!("{line}")).await
}

/// Where a replica serves SGLang's clients.
pub(crate) fn address_of(cluster: &Cluster, replica: u64) -> anyhow::Result<String> {
    let announced = cluster.replica_announced(replica).context("a replica that runs")?;
    announced.hf3fs.clone().context("a replica that serves SGLang's clients")
}

/// SGLang's server in a process of its own.
pub(crate) struct Sglang {
    // Killed when dropped.
    _child: Child,
    pub(crate) address: String,
}

impl Sglang {
    /// Starts it and waits until it listens. `saved`: the file it loads at its start, and saves to every `save_s` seconds.
    pub(crate) async fn start(python: &Path, launcher: &Path, saved: Option<(&Path, u32)>) -> anyhow::Result<Self> {
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
pub(crate) struct Venv {
    pub(crate) python: PathBuf,
    pub(crate) launcher: PathBuf,
    pub(crate) client: PathBuf,
}

impl Venv {
    pub(crate) fn at(venv: &Path) -> anyhow::Result<Self> {
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
