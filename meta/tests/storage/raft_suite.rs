//! openraft's own suite, over each engine.

use std::sync::Arc;

use foreword_meta::consensus::types::{
    Entry, EntryOutcome, LogId, SnapshotHandle, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};
use foreword_meta::storage::mark::MemoryMark;
use foreword_meta::storage::memory_engine::MemoryDisk;
use foreword_meta::storage::sled_engine::SledEngine;
use foreword_meta::storage::{LocalMark, LogStore};
use foreword_seams::{LocalFiles, on_a_task, on_a_thread};
use openraft::storage::RaftStateMachine;
use openraft::testing::{StoreBuilder, Suite};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;

/// The least state machine there is: what was applied last.
#[derive(Clone)]
struct Applied {
    state: Arc<Mutex<State>>,
    files: Arc<LocalFiles>,
}

#[derive(Default)]
struct State {
    last: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

impl Applied {
    fn handle(&self) -> Box<SnapshotHandle> {
        Box::new(SnapshotHandle::sealed("snapshot".to_owned(), 0, self.files.clone()))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Applied {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let mut state = self.state.lock();
        let meta = SnapshotMeta {
            last_log_id: state.last,
            last_membership: state.membership.clone(),
            snapshot_id: format!("{:?}", state.last),
        };
        state.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: self.handle() })
    }
}

impl RaftStateMachine<TypeConfig> for Applied {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let state = self.state.lock();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<EntryOutcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.state.lock();
        let apply = |entry: Entry| {
            state.last = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                state.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            EntryOutcome::default()
        };
        Ok(entries.into_iter().map(apply).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotHandle>, StorageError> {
        Ok(self.handle())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _: Box<SnapshotHandle>) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        *state =
            State { last: meta.last_log_id, membership: meta.last_membership.clone(), snapshot: Some(meta.clone()) };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let meta = self.state.lock().snapshot.clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: self.handle() }))
    }
}

struct OnMemory;
struct OnSled;

type Built = Result<(tempfile::TempDir, LogStore, Applied), StorageError>;

fn state_machine(dir: &tempfile::TempDir) -> Applied {
    let files = LocalFiles::new(dir.path().join("snapshots")).unwrap();
    Applied { state: Arc::default(), files: Arc::new(files) }
}

impl StoreBuilder<TypeConfig, LogStore, Applied, tempfile::TempDir> for OnMemory {
    async fn build(&self) -> Built {
        let dir = tempfile::tempdir().unwrap();
        let engine = MemoryDisk::default().open();
        let (store, _) = LogStore::open(Box::new(engine), Box::new(MemoryMark::default()), &on_a_task()).unwrap();
        let applied = state_machine(&dir);
        Ok((dir, store, applied))
    }
}

impl StoreBuilder<TypeConfig, LogStore, Applied, tempfile::TempDir> for OnSled {
    async fn build(&self) -> Built {
        let dir = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(&dir.path().join("log")).unwrap();
        let mark = LocalMark::open(&dir.path().join("MARK")).unwrap();
        let (store, _) = LogStore::open(Box::new(engine), Box::new(mark), &on_a_thread("log")).unwrap();
        let applied = state_machine(&dir);
        Ok((dir, store, applied))
    }
}

#[test]
fn openrafts_suite_on_memory() {
    Suite::test_all(OnMemory).unwrap();
}

#[test]
fn openrafts_suite_on_sled() {
    Suite::test_all(OnSled).unwrap();
}
