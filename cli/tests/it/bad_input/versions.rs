//! Files of another version under a whole group: every replica refuses to start, touches nothing, and goes on once the
//! binary that reads them is back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use foreword_proto::limits::FORMAT_VERSION;

use super::live::{Live, spec};
use super::run::run;

const HALF_BYTES: usize = 2048;
/// Where a half's version stands, and the checksum over all before it.
const VERSION_AT: usize = 8;
const CHECKSUM_AT: usize = 53;

/// Every file below a directory, with its bytes.
fn tree(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| match path.is_dir() {
        true => tree(&path),
        false => BTreeMap::from([(path.clone(), fs::read(&path).unwrap())]),
    });
    below.collect()
}

/// Makes both halves of a mark another version's, with right checksums.
fn newer_mark(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    for half in bytes.chunks_mut(HALF_BYTES) {
        half[VERSION_AT..VERSION_AT + 4].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        let crc = crc32fast::hash(&half[..CHECKSUM_AT]);
        half[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(file, bytes).unwrap();
}

/// At caf6e1c all three set log, mark and snapshots aside and waited for each other for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_of_another_version_on_all_replicas_lose_nothing() {
    let mut live = Live::start(spec(3, 1)).await;
    let key = live.works("the start").await;
    live.cluster.kill_all_replicas();
    let dirs: Vec<PathBuf> = live.cluster.replica_ids().into_iter().map(|id| live.cluster.data_dir(id)).collect();
    let kept: Vec<Vec<u8>> = dirs.iter().map(|dir| fs::read(dir.join("MARK")).unwrap()).collect();
    for dir in &dirs {
        newer_mark(&dir.join("MARK"));
        let before = tree(dir);
        let flag = format!("--data-dir={}", dir.display());
        let mark = dir.join("MARK").display().to_string();
        let named = [format!("expected {FORMAT_VERSION},"), format!("{mark} has {}", FORMAT_VERSION + 1)];
        for _ in 0..2 {
            let ended = run(&["meta", "run", &flag, "--listen=127.0.0.1:0"]).await;
            ended.refused(2, "data_dir.format_version", &[&named[0], &named[1]]);
        }
        let after = tree(dir);
        let changed: Vec<_> = before.keys().chain(after.keys()).filter(|f| before.get(*f) != after.get(*f)).collect();
        assert!(changed.is_empty(), "{changed:?} changed");
    }
    for (dir, mark) in dirs.iter().zip(kept) {
        fs::write(dir.join("MARK"), mark).unwrap();
    }
    live.cluster.restart_all_replicas().await.unwrap();
    live.readable(&key, true).await;
    live.works("their own version again").await;
    live.cluster.check().unwrap();
}
