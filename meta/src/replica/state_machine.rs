//! openraft's view of the state: applying entries, building and installing snapshots.

use std::sync::Arc;

use bytes::Bytes;
use foreword_proto::ClusterId;
use foreword_proto::limits::FEATURE_LEVEL_MAX;
use foreword_proto::versions::{Foreign, OtherVersion};
use foreword_seams::{Files, Marker, sometimes};
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, RaftSnapshotBuilder, Snapshot, StorageError,
    StorageIOError,
};

use super::applied::{Applied, Position};
use super::halt::Halt;
use super::level::Level;
use crate::consensus::types::{EntryOutcome, SnapshotHandle, SnapshotMeta, StoredMembership, TypeConfig};
use crate::state::codec::decode_batch;
use crate::state::command::Command;
use crate::state::{DecodeError, RestoreError, Restorer, State};
use crate::storage::{SnapshotError, SnapshotHeader, SnapshotReader, SnapshotWriter};

/// Snapshots kept on disk: the newest, and the one before it while a follower may still be reading it.
const SNAPSHOTS_KEPT: usize = 2;
const PREFIX: &str = "snapshot-";

/// The snapshots of one replica.
#[derive(Clone)]
pub struct Snapshots {
    files: Arc<dyn Files>,
    cluster_id: ClusterId,
}

/// What a start finds of snapshots.
#[derive(Default)]
pub struct Newest {
    /// The newest that verifies, as a state at its position.
    pub loaded: Option<(State, Position)>,
    /// Newer ones that are damaged.
    pub unusable: Vec<String>,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Why snapshots could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// One is whole, and another version's: it is neither used nor passed over.
    #[error("data_dir.{0}")]
    OtherVersion(OtherVersion),
    /// One is damaged, or the disk failed.
    #[error("{0}")]
    Unusable(Fault),
}

impl From<SnapshotError> for LoadError {
    fn from(error: SnapshotError) -> Self {
        match error.other_version() {
            Some(other) => Self::OtherVersion(other),
            None => Self::Unusable(error.into()),
        }
    }
}

impl Snapshots {
    /// The snapshots in `files`.
    pub fn new(files: Arc<dyn Files>, cluster_id: ClusterId) -> Self {
        Self { files, cluster_id }
    }

    /// Names, oldest first: they sort by index.
    async fn names(&self) -> std::io::Result<Vec<String>> {
        let names = self.files.list().await?;
        Ok(names.into_iter().filter(|name| name.starts_with(PREFIX)).collect())
    }

    /// The newest snapshot that verifies. One that is damaged is reported and passed over; nothing is changed.
    pub async fn load_newest(&self) -> Result<Newest, LoadError> {
        let mut newest = Newest::default();
        let names = self.names().await.map_err(|error| LoadError::Unusable(error.into()))?;
        for name in names.into_iter().rev() {
            match self.load(&name).await {
                Ok(loaded) => {
                    newest.loaded = Some(loaded);
                    break;
                }
                Err(other @ LoadError::OtherVersion(_)) => return Err(other),
                Err(LoadError::Unusable(error)) => {
                    sometimes(Marker::SnapshotPassedOver);
                    tracing::error!(%error, name, "this snapshot cannot be used");
                    newest.unusable.push(name);
                }
            }
        }
        Ok(newest)
    }

    /// Removes damaged snapshots: the newest file is what a follower is offered.
    pub async fn remove(&self, unusable: &[String]) -> std::io::Result<()> {
        for name in unusable {
            self.files.remove(name).await?;
        }
        Ok(())
    }

    async fn load(&self, name: &str) -> Result<(State, Position), LoadError> {
        let unusable = |error: RestoreError| match &error {
            RestoreError::Decode(decode) => foreign(decode, format!("snapshots/{name}"))
                .map_or_else(|| LoadError::Unusable(error.into()), LoadError::OtherVersion),
            _ => LoadError::Unusable(error.into()),
        };
        let mut reader = SnapshotReader::open(&*self.files, name, self.cluster_id).await?;
        let meta = reader.meta().clone();
        let mut restorer = Restorer::new();
        while let Some(frame) = reader.next_frame().await? {
            restorer.push(frame).map_err(unusable)?;
            tokio::task::yield_now().await;
        }
        let position = Position { last_applied: meta.last_log_id, membership: meta.last_membership };
        let state = restorer.finish().map_err(unusable)?;
        let level = Foreign::check_level(state.feature_level(), FEATURE_LEVEL_MAX);
        level.map_err(|what| LoadError::OtherVersion(what.of(format!("snapshots/{name}"))))?;
        Ok((state, position))
    }

    async fn newest(&self) -> Result<Option<Snapshot<TypeConfig>>, Fault> {
        let Some(name) = self.names().await?.pop() else { return Ok(None) };
        let reader = SnapshotReader::open(&*self.files, &name, self.cluster_id).await?;
        let bytes = self.files.open(&name).await?.len();
        let handle = SnapshotHandle { name, bytes, files: self.files.clone() };
        Ok(Some(Snapshot { meta: reader.meta().clone(), snapshot: Box::new(handle) }))
    }

    async fn remove_old(&self) -> std::io::Result<()> {
        let names = self.names().await?;
        for name in names.iter().take(names.len().saturating_sub(SNAPSHOTS_KEPT)) {
            self.files.remove(name).await?;
        }
        Ok(())
    }
}

/// The error of whole bytes that another version wrote; None for damage.
fn foreign(error: &DecodeError, file: String) -> Option<OtherVersion> {
    error.foreign().map(|what| what.of(file))
}

fn name_of(last_log_id: Option<LogId<u64>>) -> String {
    let (index, term) = last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{PREFIX}{index:020}-{term}")
}

fn snapshot_error(verb: ErrorVerb, error: impl std::fmt::Display) -> StorageError<u64> {
    StorageError::from_io_error(ErrorSubject::Snapshot(None), verb, std::io::Error::other(error.to_string()))
}

/// The state machine openraft drives.
pub struct StateMachine {
    applied: Arc<Applied>,
    snapshots: Snapshots,
    halt: Arc<Halt>,
    level: Level,
    spool: u64,
}

impl StateMachine {
    /// Drives `applied`; what another version wrote goes to `halt`, a committed level to `level`.
    pub fn new(applied: Arc<Applied>, snapshots: Snapshots, halt: Arc<Halt>, level: Level) -> Self {
        Self { applied, snapshots, halt, level, spool: 0 }
    }

    fn apply_one(&self, entry: Entry<TypeConfig>) -> Result<EntryOutcome, StorageError<u64>> {
        let outcomes = match entry.payload {
            EntryPayload::Blank => {
                self.applied.apply_empty(entry.log_id, None);
                Vec::new()
            }
            EntryPayload::Membership(membership) => {
                let membership = StoredMembership::new(Some(entry.log_id), membership);
                self.applied.apply_empty(entry.log_id, Some(membership));
                Vec::new()
            }
            EntryPayload::Normal(batch) => {
                let commands = self.commands(entry.log_id, batch.0)?;
                self.applied.apply_commands(entry.log_id, &commands)
            }
        };
        Ok(EntryOutcome(outcomes))
    }

    /// An entry's commands. One that this binary cannot read, or does not know, stops the replica: going on would diverge from the
    /// others.
    fn commands(&self, log_id: LogId<u64>, batch: Bytes) -> Result<Vec<Command>, StorageError<u64>> {
        let fault = |error: &dyn std::error::Error| {
            StorageError::from(StorageIOError::apply(log_id, AnyError::error(error.to_string())))
        };
        let here = format!("log entry {}", log_id.index);
        let commands = decode_batch(batch).map_err(|error| {
            if let Some(other) = foreign(&error, here.clone()) {
                self.halt.stop(other);
            }
            fault(&error)
        })?;
        for command in &commands {
            if let Command::RaiseFeatureLevel { level } = command
                && let Err(what) = Foreign::check_level(*level, FEATURE_LEVEL_MAX)
            {
                self.halt.stop(what.clone().of(here));
                return Err(fault(&what));
            }
            if let Command::RaiseFeatureLevel { level } = command {
                self.level.reached(*level).map_err(|error| fault(&error))?;
            }
        }
        Ok(commands)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership), StorageError<u64>> {
        Ok(self.applied.read_with_position(|_, position| (position.last_applied, position.membership.clone())))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<EntryOutcome>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            outcomes.push(self.apply_one(entry)?);
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { applied: self.applied.clone(), snapshots: self.snapshots.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotHandle>, StorageError<u64>> {
        self.spool += 1;
        let name = format!("received-{}", self.spool);
        Ok(Box::new(SnapshotHandle { name, bytes: 0, files: self.snapshots.files.clone() }))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotHandle>,
    ) -> Result<(), StorageError<u64>> {
        let (state, position) = self.snapshots.load(&snapshot.name).await.map_err(|error| {
            if let LoadError::OtherVersion(other) = &error {
                self.halt.stop(other.clone());
            }
            snapshot_error(ErrorVerb::Write, error)
        })?;
        if position.last_applied != meta.last_log_id {
            let message =
                format!("the file ends at {:?}, its offer said {:?}", position.last_applied, meta.last_log_id);
            return Err(snapshot_error(ErrorVerb::Read, message));
        }
        let reached = self.level.reached(state.feature_level());
        reached.map_err(|error| snapshot_error(ErrorVerb::Write, error))?;
        // Under its own name it is the newest snapshot, also after a restart.
        copy(&snapshot, &name_of(meta.last_log_id)).await.map_err(|error| snapshot_error(ErrorVerb::Write, error))?;
        self.applied.replace(state, position);
        sometimes(Marker::SnapshotInstalled);
        self.snapshots.remove_old().await.map_err(|error| snapshot_error(ErrorVerb::Delete, error))?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        self.snapshots.newest().await.map_err(|error| snapshot_error(ErrorVerb::Read, error))
    }
}

/// Gives a received file its final name and removes the spool.
async fn copy(from: &SnapshotHandle, to: &str) -> std::io::Result<()> {
    let mut reader = from.files.open(&from.name).await?;
    let mut writer = from.files.create(to).await?;
    let mut offset = 0;
    while offset < reader.len() {
        let chunk = reader.read_at(offset, foreword_proto::limits::SNAPSHOT_CHUNK_BYTES).await?;
        offset += chunk.len() as u64;
        writer.append(chunk).await?;
    }
    writer.seal().await?;
    from.files.remove(&from.name).await
}

/// Writes a snapshot from a frozen view while entries go on being applied.
pub struct SnapshotBuilder {
    applied: Arc<Applied>,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let freeze = |state: &State, position: &Position| (state.feature_level(), state.freeze(), position.clone());
        let (level, frozen, position) = self.applied.read_with_position(freeze);
        let name = name_of(position.last_applied);
        let meta = SnapshotMeta {
            last_log_id: position.last_applied,
            last_membership: position.membership,
            snapshot_id: name.clone(),
        };
        let fault = |error: &dyn std::fmt::Display| snapshot_error(ErrorVerb::Write, error);
        let snapshots = &self.snapshots;
        let header = SnapshotHeader { cluster_id: snapshots.cluster_id, meta: meta.clone() };
        let writer = SnapshotWriter::create(snapshots.files.clone(), &name, level, &header).await;
        let mut writer = writer.map_err(|error| fault(&error))?;
        for chunk in frozen.chunks() {
            writer.append(chunk).await.map_err(|error| fault(&error))?;
            tokio::task::yield_now().await;
        }
        let handle = writer.seal().await.map_err(|error| fault(&error))?;
        sometimes(Marker::SnapshotBuilt);
        snapshots.remove_old().await.map_err(|error| fault(&error))?;
        Ok(Snapshot { meta, snapshot: Box::new(handle) })
    }
}
