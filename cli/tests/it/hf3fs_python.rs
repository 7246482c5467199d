//! SGLang's own hf3fs metadata server and clients (tests/hf3fs, Python) beside this build.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::{CLUSTERS, tell};

/// What the runner ends with where it cannot run: no SGLang.
const CANNOT_RUN: i32 = 77;
/// Names a virtual environment with SGLang. Who sets it wants the tests to run.
const VENV: &str = "FOREWORD_SGLANG_VENV";

#[tokio::test]
async fn plain_http_calls_are_answered() {
    let output = run(&["--plain"]).await;
    assert!(output.status.success(), "ended with {}:\n{}", output.status, said(&output));
}

#[tokio::test]
async fn sglangs_clients_get_what_its_own_server_says() {
    if std::env::var_os(VENV).is_none_or(|venv| venv.is_empty()) {
        tell(&format!("SKIPPED: SGLang's hf3fs clients: {VENV} names no virtual environment\n"));
        return;
    }
    let output = run(&[]).await;
    assert_ne!(output.status.code(), Some(CANNOT_RUN), "{VENV} is set, so it has to run: {}", said(&output));
    assert!(output.status.success(), "ended with {}:\n{}", output.status, said(&output));
}

async fn run(more: &[&str]) -> Output {
    let _few = CLUSTERS.acquire().await.unwrap();
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hf3fs/run.py");
    Command::new("python3")
        .arg(&runner)
        .args(["--foreword", env!("CARGO_BIN_EXE_foreword")])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap_or_else(|error| panic!("python3 {}: {error}", runner.display()))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
