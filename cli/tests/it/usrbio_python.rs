//! The independent USRBIO client (tests/usrbio, Python) against the stand-in of this build.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the runner ends with where it cannot run: no root, no /dev/fuse.
const CANNOT_RUN: i32 = 77;

#[test]
fn the_python_client_agrees_with_the_stand_in() {
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/usrbio/run.py");
    let output = Command::new("python3")
        .arg(&runner)
        .args(["--foreword", env!("CARGO_BIN_EXE_foreword")])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("python3 {}: {error}", runner.display()));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(CANNOT_RUN) {
        assert!(!must_run(), "CI as root has to run this: {said}");
        // Not `eprintln!`: the harness would swallow it, and a skip has to be seen.
        let _ = write!(std::io::stderr(), "{said}");
        return;
    }
    assert!(output.status.success(), "python3 {} ended with {}:\n{said}", runner.display(), output.status);
}

/// Root in CI has what the test needs, or the environment is broken.
fn must_run() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true") && rustix::process::geteuid().is_root()
}
