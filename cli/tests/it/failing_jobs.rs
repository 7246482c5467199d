//! Over a daemon like 3FS's, of whose jobs some fail as a whole: nearly all that could be hit is hit, and no byte is
//! wrong.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Each at two jobs in a hundred: it fails, it is never completed.
const FAULTS: &str = "--fault=eio=2%,drop=2%";

#[tokio::test]
async fn jobs_that_fail_cost_few_hits_and_no_byte() {
    let (root, fuse) = (rustix::process::geteuid().is_root(), std::path::Path::new("/dev/fuse").exists());
    if !root || !fuse {
        return crate::tell("skipped: jobs that fail need root and /dev/fuse\n");
    }
    let _room = crate::CLUSTERS.acquire().await.expect("a semaphore that is never closed");
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_foreword"));
    demo.args(["demo", "--l3=usrbio", "--requests=300", "--no-kill", "--json", FAULTS]).arg("--dir").arg(dir.path());
    let ran = tokio::task::spawn_blocking(move || demo.stdin(Stdio::null()).output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    let last = String::from_utf8(ran.stdout).unwrap().lines().last().unwrap().to_owned();
    let report: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(report["wrong_bytes"], 0, "{last}");
    let standin = &report["usrbio"]["standin"];
    assert!(standin["fault_eio"].as_u64() > Some(0) && standin["fault_drop"].as_u64() > Some(0), "{last}");
    // Without faults a run with nobody killed and room for all reaches the ideal (`a_small_demo_proves_every_byte`).
    let (got, best) = (report["hit_ratio"].as_f64().unwrap(), report["ideal_hit_ratio"].as_f64().unwrap());
    assert!(got >= 0.9 * best, "{got} of {best}: {said}{last}");
}
