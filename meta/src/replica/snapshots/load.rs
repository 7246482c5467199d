//! A snapshot's file into a state.

use bytes::Bytes;
use foreword_proto::limits::FEATURE_LEVEL_MAX;
use foreword_proto::versions::{Foreign, OtherVersion};
use foreword_seams::{Marker, sometimes};

use super::{Sealed, Snapshots};
use crate::replica::applied::Position;
use crate::state::{DecodeError, RestoreError, Restorer, State};
use crate::storage::{SnapshotError, SnapshotReader};

/// What a start finds of snapshots.
#[derive(Default)]
pub struct Newest {
    /// The newest that verifies, as a state at its position.
    pub loaded: Option<(State, Position)>,
    /// Its file.
    pub(crate) sealed: Option<Sealed>,
    /// Newer ones that are damaged.
    pub unusable: Vec<String>,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Why a snapshot is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is whole, and another version's: it is neither used nor passed over.
    #[error("data_dir.{0}")]
    OtherVersion(OtherVersion),
    /// It is damaged, or the disk failed.
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

/// The error of whole bytes that another version wrote; None for damage.
pub(crate) fn foreign(error: &DecodeError, file: String) -> Option<OtherVersion> {
    error.foreign().map(|what| what.of(file))
}

/// A state that is built up from the frames of a snapshot.
pub(super) struct Restoring {
    name: String,
    restorer: Restorer,
}

impl Restoring {
    /// `name`: the file's, for errors.
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), restorer: Restorer::new() }
    }

    pub(super) fn push(&mut self, frame: Bytes) -> Result<(), LoadError> {
        self.restorer.push(frame).map_err(|error| unusable(&self.name, error))
    }

    pub(super) fn finish(self) -> Result<State, LoadError> {
        let Self { name, restorer } = self;
        let state = restorer.finish().map_err(|error| unusable(&name, error))?;
        let level = Foreign::check_level(state.feature_level(), FEATURE_LEVEL_MAX);
        level.map_err(|what| LoadError::OtherVersion(what.of(format!("snapshots/{name}"))))?;
        Ok(state)
    }
}

fn unusable(name: &str, error: RestoreError) -> LoadError {
    let other = match &error {
        RestoreError::Decode(decode) => foreign(decode, format!("snapshots/{name}")),
        _ => None,
    };
    other.map_or_else(|| LoadError::Unusable(error.into()), LoadError::OtherVersion)
}

impl Snapshots {
    /// The newest snapshot that verifies. One that is damaged is reported and passed over; nothing is changed.
    pub async fn load_newest(&self) -> Result<Newest, LoadError> {
        let mut newest = Newest::default();
        let names = self.names().await.map_err(|error| LoadError::Unusable(error.into()))?;
        for name in names.into_iter().rev() {
            match self.load(&name).await {
                Ok((state, sealed)) => {
                    newest.loaded = Some((state, position_of(&sealed)));
                    newest.sealed = Some(sealed);
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

    async fn load(&self, name: &str) -> Result<(State, Sealed), LoadError> {
        let mut reader = SnapshotReader::open(&*self.files, name, self.cluster_id).await?;
        let sealed = Sealed { meta: reader.meta().clone(), name: name.to_owned(), bytes: reader.file_bytes() };
        let mut restoring = Restoring::new(name);
        while let Some(frame) = reader.next_frame().await? {
            restoring.push(frame)?;
            tokio::task::yield_now().await;
        }
        Ok((restoring.finish()?, sealed))
    }
}

/// The position of a snapshot's state.
fn position_of(sealed: &Sealed) -> Position {
    Position { last_applied: sealed.meta.last_log_id, membership: sealed.meta.last_membership.clone() }
}
