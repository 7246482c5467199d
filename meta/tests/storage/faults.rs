//! Lost tails, damaged items, unreadable marks, failing disks, databases that do not open.

use std::io;
use std::path::Path;
use std::time::Duration;

use foreword_meta::consensus::types::Vote;
use foreword_meta::storage::mark::MARK_BYTES;
use foreword_meta::storage::{DataDir, LocalMark, LogStore, OpenError, SledEngine, SledOpenError};
use foreword_seams::on_a_thread;
use openraft::storage::RaftLogStorage;
use tokio::time::Instant;

use crate::data_dir::identity;
use crate::support::{MemoryReplica, append, close, copy_dir, entry, last, log_id};

/// Opens a log whose last handle is gone: sled's threads give its lock back a moment later.
fn open_unlocked(path: &Path) -> Result<SledEngine, SledOpenError> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match SledEngine::open(path) {
            Err(SledOpenError::Io(error)) if error.to_string().contains("acquire lock") && Instant::now() < until => {}
            opened => return opened,
        }
    }
}

async fn replica_of(entries: u64) -> MemoryReplica {
    let replica = MemoryReplica::default();
    let (mut store, _) = replica.open().unwrap();
    store.save_vote(&Vote::new(1, 1)).await.unwrap();
    for index in 0..entries {
        append(&mut store, [entry(1, index, 500)]).await.unwrap();
    }
    close(store).await;
    replica
}

#[tokio::test]
async fn a_lost_tail_is_recognised() {
    let replica = replica_of(10).await;
    replica.disk.lose_tail(1);
    let error = replica.open().unwrap_err();
    assert!(matches!(error, OpenError::Lost(_)), "{error}");
    assert!(error.to_string().contains("acknowledged was entry 9 of term 1"), "{error}");
    // It stays lost: opening changed nothing.
    assert!(matches!(replica.open().unwrap_err(), OpenError::Lost(_)));

    let replica = replica_of(10).await;
    replica.disk.lose_tail(10);
    assert!(matches!(replica.open().unwrap_err(), OpenError::Lost(_)));
}

#[tokio::test]
async fn an_empty_log_with_a_mark_is_a_lost_one() {
    let replica = replica_of(3).await;
    let emptied = MemoryReplica { mark: replica.mark, ..MemoryReplica::default() };
    let error = emptied.open().unwrap_err();
    assert!(error.to_string().contains("vote"), "{error}");
}

#[tokio::test]
async fn a_tail_that_went_back_to_an_older_term_is_lost() {
    let replica = replica_of(5).await;
    let (mut store, _) = replica.open().unwrap();
    store.truncate(log_id(1, 3)).await.unwrap();
    append(&mut store, [entry(2, 3, 10), entry(2, 4, 10)]).await.unwrap();
    close(store).await;
    let before = replica_of(5).await;
    let reverted = MemoryReplica { disk: before.disk, mark: replica.mark };
    let error = reverted.open().unwrap_err();
    assert!(matches!(&error, OpenError::Lost(what) if what.contains("term 2")), "{error}");
}

#[tokio::test]
async fn a_truncation_is_no_loss() {
    let replica = replica_of(10).await;
    let (mut store, _) = replica.open().unwrap();
    store.truncate(log_id(1, 4)).await.unwrap();
    close(store).await;
    let (_, recovered) = replica.open().unwrap();
    assert_eq!(recovered.last, Some(log_id(1, 3)));
}

#[tokio::test]
async fn a_damaged_item_is_named() {
    let replica = replica_of(10).await;
    assert!(replica.disk.damage(4, |item| item[100] ^= 1));
    let error = replica.open().unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt(corrupt) if corrupt.index == 4), "{error}");
    assert!(error.to_string().starts_with("log entry 4: checksum "), "{error}");

    let replica = replica_of(10).await;
    assert!(replica.disk.damage(4, |item| item[4] = 9));
    assert!(matches!(replica.open().unwrap_err(), OpenError::Corrupt(corrupt) if corrupt.index == 4));
}

#[tokio::test]
async fn an_unreadable_mark_is_a_lost_replica() {
    let replica = replica_of(10).await;
    replica.mark.damage(|bytes| *bytes = [0xab; MARK_BYTES]);
    let error = replica.open().unwrap_err();
    assert!(matches!(error, OpenError::Lost(_)) && error.to_string().contains("mark"), "{error}");
}

#[tokio::test]
async fn a_failing_disk_acknowledges_nothing_and_stays_failed() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let replica = replica_of(3).await;
        let (mut store, _) = replica.open().unwrap();
        replica.disk.set_fault(Some(kind));
        let error = append(&mut store, [entry(1, 3, 10)]).await.unwrap_err();
        assert!(error.contains("an injected disk fault"), "{error}");
        assert!(store.save_vote(&Vote::new(9, 1)).await.is_err());
        replica.disk.set_fault(None);
        // The disk is well again, but what it holds is unknown until the next start.
        assert!(append(&mut store, [entry(1, 4, 10)]).await.is_err());
        assert!(store.save_vote(&Vote::new(9, 1)).await.is_err());
        assert!(store.truncate(log_id(1, 2)).await.is_err());
        assert!(store.purge(log_id(1, 2)).await.is_err());
        assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new(1, 1)));
        close(store).await;
        let (_, recovered) = replica.open().unwrap();
        assert_eq!((recovered.last, recovered.vote), (Some(log_id(1, 2)), Some(Vote::new(1, 1))));
    }
}

#[tokio::test]
async fn a_sled_log_that_went_back_in_time_is_lost_and_one_that_does_not_open_too() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mark) = (dir.path().join("log"), dir.path().join("MARK"));
    let open = || -> Result<LogStore, String> {
        let engine = open_unlocked(&log).map_err(|error| error.to_string())?;
        let mark = LocalMark::open(&mark).unwrap();
        let opened = LogStore::open(Box::new(engine), Box::new(mark), &on_a_thread("log"));
        Ok(opened.map_err(|error| error.to_string())?.0)
    };
    let mut store = open().unwrap();
    append(&mut store, (0..50).map(|index| entry(1, index, 3000))).await.unwrap();
    close(store).await;
    copy_dir(&log, &dir.path().join("older"));
    let mut store = open().unwrap();
    append(&mut store, [entry(1, 50, 10)]).await.unwrap();
    assert_eq!(last(&mut store).await, Some(log_id(1, 50)));
    close(store).await;
    assert!(open().is_ok());

    std::fs::remove_dir_all(&log).unwrap();
    copy_dir(&dir.path().join("older"), &log);
    let error = open().unwrap_err();
    assert!(error.contains("acknowledged was entry 50"), "{error}");

    // Cut in the middle, and overwritten in the middle: an error either way, never a panic and never a shorter log.
    let db = log.join("db");
    let bytes = std::fs::read(&db).unwrap();
    std::fs::write(&db, &bytes[..bytes.len() / 3]).unwrap();
    assert!(open().is_err());
    let mut overwritten = bytes.clone();
    let middle = bytes.len() / 3;
    overwritten[middle..middle + 200_000.min(bytes.len() - middle)].fill(0x5a);
    std::fs::write(&db, &overwritten).unwrap();
    assert!(open().is_err());
    std::fs::write(log.join("conf"), b"nonsense that is long enough").unwrap();
    assert!(open().is_err());
}

#[tokio::test]
async fn a_lost_replica_is_set_aside_and_starts_empty() {
    fn open(dir: &DataDir) -> Result<LogStore, OpenError> {
        let engine = SledEngine::open(&dir.log())?;
        let mark = LocalMark::open(&dir.mark())?;
        Ok(LogStore::open(Box::new(engine), Box::new(mark), &on_a_thread("log"))?.0)
    }
    let root = tempfile::tempdir().unwrap();
    let mut dir = DataDir::init(&root.path().join("replica"), &identity()).unwrap();
    let mut store = open(&dir).unwrap();
    append(&mut store, (0..100).map(|index| entry(1, index, 3000))).await.unwrap();
    close(store).await;
    let db = std::fs::File::options().write(true).open(dir.log().join("db")).unwrap();
    db.set_len(4096).unwrap();
    drop(db);
    assert!(matches!(open(&dir).unwrap_err(), OpenError::Lost(_)));
    dir.set_log_aside().unwrap();
    let mut store = open(&dir).unwrap();
    assert_eq!(last(&mut store).await, None);
    append(&mut store, [entry(2, 0, 10)]).await.unwrap();
    close(store).await;
    assert!(dir.identity().rejoining);
    assert_eq!(last(&mut open(&dir).unwrap()).await, Some(log_id(2, 0)));
}

#[test]
fn an_error_of_the_system_is_not_a_lost_log() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("log");
    let held = SledEngine::open(&path).unwrap();
    assert!(matches!(SledEngine::open(&path), Err(SledOpenError::Io(_))));
    drop(held);
    open_unlocked(&path).unwrap();
    std::fs::write(root.path().join("file"), b"").unwrap();
    assert!(matches!(SledEngine::open(&root.path().join("file")), Err(SledOpenError::Io(_))));
}
