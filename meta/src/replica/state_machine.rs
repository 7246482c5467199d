//! openraft's view of the state: applying entries, installing snapshots and handing them over.

use std::sync::Arc;

use bytes::Bytes;
use foreword_proto::limits::FEATURE_LEVEL_MAX;
use foreword_proto::versions::Foreign;
use foreword_seams::{Marker, Runner, Telemetry, sometimes};
use metrics::Counter;
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, RaftSnapshotBuilder, Snapshot, StorageError,
    StorageIOError,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::applied::{Applied, Position};
use super::halt::Halt;
use super::level::Level;
use super::snapshots::load::foreign;
use super::snapshots::{Snapshots, pauses};
use crate::consensus::types::{EntryOutcome, SnapshotHandle, SnapshotMeta, StoredMembership, TypeConfig};
use crate::state::codec::decode_batch;
use crate::state::command::Command;

/// What a state machine is made with.
pub(crate) struct StateMachineParts {
    pub(crate) applied: Arc<Applied>,
    pub(crate) snapshots: Snapshots,
    /// Told what another version wrote.
    pub(crate) halt: Arc<Halt>,
    /// Told committed levels.
    pub(crate) level: Level,
    /// Where states are dropped.
    pub(crate) aside: Runner,
    /// The replica ends.
    pub(crate) stopped: CancellationToken,
}

/// The state machine openraft drives.
pub struct StateMachine {
    parts: StateMachineParts,
    installs: Counter,
}

impl StateMachine {
    pub(crate) fn new(parts: StateMachineParts, telemetry: &Telemetry) -> Self {
        let installs = telemetry.counter(
            "foreword_meta_snapshot_installs_total",
            "Snapshots of another replica that took the place of this one's state",
        );
        Self { parts, installs }
    }

    fn apply_one(&self, entry: Entry<TypeConfig>) -> Result<EntryOutcome, StorageError<u64>> {
        let outcomes = match entry.payload {
            EntryPayload::Blank => {
                self.parts.applied.apply_empty(entry.log_id, None);
                Vec::new()
            }
            EntryPayload::Membership(membership) => {
                let membership = StoredMembership::new(Some(entry.log_id), membership);
                self.parts.applied.apply_empty(entry.log_id, Some(membership));
                Vec::new()
            }
            EntryPayload::Normal(batch) => {
                let commands = self.commands(entry.log_id, batch.0)?;
                self.parts.applied.apply_commands(entry.log_id, &commands)
            }
        };
        Ok(EntryOutcome(outcomes))
    }

    /// An entry's commands. One that this binary cannot read, or does not know, stops the replica: going on would
    /// diverge from the others.
    fn commands(&self, log_id: LogId<u64>, batch: Bytes) -> Result<Vec<Command>, StorageError<u64>> {
        let fault = |error: &dyn std::error::Error| {
            StorageError::from(StorageIOError::apply(log_id, AnyError::error(error.to_string())))
        };
        let here = format!("log entry {}", log_id.index);
        let commands = decode_batch(batch).map_err(|error| {
            if let Some(other) = foreign(&error, here.clone()) {
                self.parts.halt.stop(other);
            }
            fault(&error)
        })?;
        for command in &commands {
            if let Command::RaiseFeatureLevel { level } = command
                && let Err(what) = Foreign::check_level(*level, FEATURE_LEVEL_MAX)
            {
                self.parts.halt.stop(what.clone().of(here));
                return Err(fault(&what));
            }
            if let Command::RaiseFeatureLevel { level } = command {
                self.parts.level.reached(*level).map_err(|error| fault(&error))?;
            }
        }
        Ok(commands)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Newest;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership), StorageError<u64>> {
        Ok(self.parts.applied.read_with_position(|_, position| (position.last_applied, position.membership.clone())))
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

    async fn get_snapshot_builder(&mut self) -> Newest {
        Newest { snapshots: self.parts.snapshots.clone() }
    }

    /// Streams of snapshots go through [`Receiving`](super::snapshots::receiving::Receiving).
    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotHandle>, StorageError<u64>> {
        Err(install_error("expected a snapshot that was received whole"))
    }

    /// A file that cannot be given its name now is given it later: this replica applies nothing meanwhile.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotHandle>,
    ) -> Result<(), StorageError<u64>> {
        let SnapshotHandle { name, bytes, state, .. } = *snapshot;
        let state = state.ok_or_else(|| install_error("expected a snapshot that was restored"))?;
        self.parts.level.reached(state.feature_level()).map_err(install_error)?;
        let mut pauses = pauses();
        while let Err(error) = self.parts.snapshots.adopt(&name, meta, bytes).await {
            tracing::error!(%error, name, "a received snapshot cannot be given its name; trying again");
            sometimes(Marker::SnapshotFailed);
            tokio::select! {
                () = self.parts.stopped.cancelled() => return Err(install_error(error)),
                () = sleep(pauses.next().unwrap_or_default()) => {}
            }
        }
        let position = Position { last_applied: meta.last_log_id, membership: meta.last_membership.clone() };
        let before = self.parts.applied.replace(*state, position);
        // Millions of entries: not here, where the next ones wait to be applied.
        let _ = (self.parts.aside)(Box::pin(async move { drop(before) }));
        self.installs.increment(1);
        sometimes(Marker::SnapshotInstalled);
        self.parts.snapshots.remove_old().await;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        Ok(self.parts.snapshots.current())
    }
}

fn install_error(error: impl std::fmt::Display) -> StorageError<u64> {
    let error = std::io::Error::other(error.to_string());
    StorageError::from_io_error(ErrorSubject::Snapshot(None), ErrorVerb::Write, error)
}

/// What openraft takes for a builder: it hands over the newest file that is sealed, which cannot fail.
pub struct Newest {
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<TypeConfig> for Newest {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        Ok(self.snapshots.current_or_none())
    }
}
