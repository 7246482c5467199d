//! kill -9 of a process that appends: whatever it acknowledged is there when its log is opened again.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use foreword_meta::storage::sled_engine::SledEngine;
use foreword_meta::storage::{LocalMark, LogStore};
use foreword_seams::on_a_thread;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use crate::support::{append, close, entry, last, log_id};

const DIR: &str = "FOREWORD_TEST_KILL_DIR";

fn open(dir: &Path) -> LogStore {
    let engine = SledEngine::open(&dir.join("log")).unwrap();
    let mark = LocalMark::open(&dir.join("MARK")).unwrap();
    LogStore::open(Box::new(engine), Box::new(mark), &on_a_thread("log")).unwrap().0
}

/// The child's side: appends, truncates and purges for ever and says what was acknowledged. Only the test below gives
/// it a directory; in an ordinary run there is nothing to do.
#[tokio::test]
async fn kill_child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let mut store = open(&dir);
    let mut next = last(&mut store).await.map_or(0, |last| last.index + 1);
    let mut out = std::io::stdout();
    loop {
        let bytes = [40, 3_000, 66_000, 400_000][next as usize % 4];
        append(&mut store, [entry(1, next, bytes), entry(1, next + 1, 10)]).await.unwrap();
        writeln!(out, "acknowledged {}", next + 1).unwrap();
        next += 2;
        if next % 16 == 0 {
            append(&mut store, (next..next + 5).map(|index| entry(1, index, 100))).await.unwrap();
            writeln!(out, "truncating {next}").unwrap();
            store.truncate(log_id(1, next)).await.unwrap();
        }
        if next % 24 == 0 {
            store.save_committed(Some(log_id(1, next - 1))).await.unwrap();
            store.purge(log_id(1, next - 20)).await.unwrap();
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Lets a child acknowledge `count` times, kills it and gives the last index it acknowledged.
fn run_child(dir: &Path, count: usize) -> u64 {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::kill_child", "--nocapture", "--test-threads", "1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let acknowledged =
        lines.filter_map(|line| line.split_once("acknowledged ").and_then(|(_, index)| index.parse::<u64>().ok()));
    let mut acknowledged = acknowledged.skip(count - 1);
    let first = acknowledged.next().expect("the child ended by itself");
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    // What it still said before it died.
    acknowledged.last().unwrap_or(first).max(first)
}

#[tokio::test]
async fn acknowledged_entries_survive_kill() {
    let dir = tempfile::tempdir().unwrap();
    for cycle in 0..6 {
        let acknowledged = run_child(dir.path(), 7 + 5 * cycle);
        let mut store = open(dir.path());
        let end = last(&mut store).await.unwrap().index;
        assert!(end >= acknowledged, "cycle {cycle}: {acknowledged} was acknowledged, the log ends at {end}");
        let first = store.get_log_state().await.unwrap().last_purged_log_id.map_or(0, |purged| purged.index + 1);
        let entries = store.try_get_log_entries(first..).await.unwrap();
        assert_eq!(entries.len() as u64, end + 1 - first);
        for (found, index) in entries.iter().zip(first..=acknowledged) {
            assert_eq!(found.log_id, log_id(1, index));
            let bytes = if index % 2 == 1 { 10 } else { [40, 3_000, 66_000, 400_000][index as usize % 4] };
            assert!(*found == entry(1, index, bytes), "cycle {cycle}: entry {index} is another");
        }
        // Entries that were appended and not yet truncated are of no interest to the next cycle.
        if end > acknowledged {
            store.truncate(log_id(1, acknowledged + 1)).await.unwrap();
        }
        assert!(store.read_committed().await.unwrap() <= last(&mut store).await);
        close(store).await;
    }
}
