//! `foreword bench`, with a group so small that its figures mean nothing: it prints them, holds floors, and leaves
//! nothing behind.

use std::process::Stdio;

use serde_json::Value;

const ONLY: &str = "--only=publish_pages_per_s,replica_rss_bytes_per_page";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bench_prints_what_it_was_asked_for_holds_its_floors_and_leaves_nothing() {
    let _room = crate::CLUSTERS.acquire().await.expect("a semaphore that is never closed");
    let dir = tempfile::tempdir().unwrap();
    let floors = dir.path().join("floors");
    std::fs::write(&floors, "publish_pages_per_s >= 1\nreplica_rss_bytes_per_page <= 1\n").unwrap();
    let work = dir.path().join("work");
    let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_foreword"))
        .args(["bench", "--json", "--quick", "--pages=5000", "--runs=1", ONLY])
        .args([format!("--floors={}", floors.display()), format!("--dir={}", work.display())])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (out, said) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    let figures: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["replica_rss_bytes_per_page", "publish_pages_per_s"], "{said}");
    for figure in &figures {
        let [least, middle, most] = ["min", "median", "max"].map(|key| figure[key].as_f64().unwrap());
        assert!(0.0 < least && least <= middle && middle <= most, "{figure}");
    }
    // No group of 5,000 pages takes a byte a page: the other floor holds, and is not named.
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("replica_rss_bytes_per_page: expected at most 1 B, got"), "{said}");
    assert!(!said.contains("publish_pages_per_s: expected"), "{said}");
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "what the bench made is gone");
}
