//! grpcio, the gRPC of Python, beside this build: over a unix socket it needs an option (tests/grpc).

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::bad_input::live::{Live, spec};
use crate::tell;

/// Names a virtual environment with grpcio. Who sets it wants the test to run.
const VENV: &str = "FOREWORD_GRPCIO_VENV";

#[tokio::test]
async fn grpcio_reaches_an_agent_on_its_unix_socket() {
    let Some(venv) = std::env::var_os(VENV).filter(|venv| !venv.is_empty()) else {
        tell(&format!("SKIPPED: grpcio over a unix socket: {VENV} names no virtual environment\n"));
        return;
    };
    let live = Live::start(spec(1, 1)).await;
    let socket = live.cluster.agent_endpoints()[0].to_string();
    assert!(socket.starts_with("unix:"), "{socket}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/grpc/ask.py");
    let python = Path::new(&venv).join("bin/python");
    let output = Command::new(&python).arg(&script).arg(&socket).stdin(Stdio::null()).output().await;
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", python.display()));
    let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("answer_bytes"), "{said}{why}");
}
