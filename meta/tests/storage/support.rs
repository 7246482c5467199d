//! Worlds to run engines in, and short ways to drive a log store.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use foreword_meta::consensus::types::{Entry, EntryBatch, LogId, TypeConfig};
use foreword_meta::storage::conformance::World;
use foreword_meta::storage::mark::MemoryMark;
use foreword_meta::storage::memory_engine::{MemoryDisk, MemoryEngine};
use foreword_meta::storage::sled_engine::SledEngine;
use foreword_meta::storage::{LogEngine, LogStore, OpenError, Recovered};
use foreword_seams::on_a_task;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload};

/// sled in a temporary directory; a crash keeps what the files hold without the buffers of the process.
pub(crate) struct SledWorld {
    dir: tempfile::TempDir,
    crashes: u32,
}

impl SledWorld {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), crashes: 0 }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(self.crashes.to_string())
    }
}

impl World for SledWorld {
    fn open(&mut self) -> io::Result<Box<dyn LogEngine>> {
        Ok(Box::new(SledEngine::open(&self.path()).map_err(io::Error::other)?))
    }

    fn crash(&mut self, engine: Box<dyn LogEngine>) {
        let before = self.path();
        self.crashes += 1;
        // sled flushes when it is dropped, so the copy is made before: that is what kill -9 would leave.
        copy_dir(&before, &self.path());
        drop(engine);
        assert!(std::fs::read_dir(before.join("blobs")).unwrap().next().is_none(), "sled made a blob it never syncs");
    }
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A memory disk; each crash keeps another share of the unsynced writes.
#[derive(Default)]
pub(crate) struct MemoryWorld {
    pub(crate) disk: MemoryDisk,
    crashes: usize,
}

impl World for MemoryWorld {
    fn open(&mut self) -> io::Result<Box<dyn LogEngine>> {
        Ok(Box::new(self.open_engine()))
    }

    fn crash(&mut self, engine: Box<dyn LogEngine>) {
        drop(engine);
        self.crashes += 1;
        let share = self.crashes * 7 % 11;
        self.disk.crash(|unsynced| unsynced * share / 10);
    }
}

impl MemoryWorld {
    pub(crate) fn open_engine(&self) -> MemoryEngine {
        self.disk.open()
    }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term, 1), index }
}

/// An entry whose commands follow from its index.
pub(crate) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let batch = Bytes::from_iter((0..bytes).map(|i| (i as u64 ^ index) as u8));
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(EntryBatch(batch)) }
}

pub(crate) async fn append(store: &mut LogStore, entries: impl IntoIterator<Item = Entry>) -> Result<(), String> {
    let entries = Vec::from_iter(entries);
    RaftLogStorageExt::<TypeConfig>::blocking_append(store, entries).await.map_err(|error| error.to_string())
}

/// Drops the store and waits until its files are closed.
pub(crate) async fn close(store: LogStore) {
    let end = store.end();
    drop(store);
    end.wait().await;
}

pub(crate) async fn last(store: &mut LogStore) -> Option<LogId> {
    store.get_log_state().await.unwrap().last_log_id
}

/// A log store's disks in memory: what outlives its process.
#[derive(Default, Clone)]
pub(crate) struct MemoryReplica {
    pub(crate) disk: MemoryDisk,
    pub(crate) mark: MemoryMark,
}

impl MemoryReplica {
    pub(crate) fn open(&self) -> Result<(LogStore, Recovered), OpenError> {
        LogStore::open(Box::new(self.disk.open()), Box::new(self.mark.clone()), &on_a_task())
    }
}
