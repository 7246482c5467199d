//! Data directories that hold a generated state, as the replicas of a group leave them when they stop
//! ([`super::stopped`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use foreword_proto::BadInput;
use foreword_seams::{Endpoint, OsEntropy, Telemetry, TokioNet};

use super::Plan;
use super::state::generate;
pub use super::stopped::Generated;
use super::stopped::{Opened, StopError, stop};
use crate::config::MetaConfig;
use crate::open::{OpenDirError, open_data_dir};
use crate::serve::Deps;
use crate::storage::{DataDir, DataDirError, Identity};

/// Why no directories were made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error(transparent)]
    Bad(#[from] BadInput),
    #[error(transparent)]
    Dir(#[from] DataDirError),
    #[error(transparent)]
    Open(#[from] OpenDirError),
    #[error(transparent)]
    Stop(#[from] StopError),
}

impl GenerateError {
    /// Whether the caller asked for what cannot be, and nothing was changed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Bad(_) => true,
            Self::Dir(error) => matches!(error, DataDirError::Bad(_) | DataDirError::OtherVersion(_)),
            Self::Open(error) => error.is_refusal(),
            Self::Stop(error) => matches!(error, StopError::Bad(_)),
        }
    }
}

/// Fills the data directories of all members of a new group, as `foreword meta init` made them and before any of them
/// was started.
///
/// Errors: `data_dir` for a directory that has taken part in a group; see also [`generate`].
pub async fn fill(plan: &Plan, dirs: &[PathBuf]) -> Result<Generated, GenerateError> {
    let identities = dirs.iter().map(|dir| pristine(dir)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = identities.first() else { return Err(BadInput::new("data_dir", "at least one").into()) };
    let directories = identities.iter().map(|identity| (identity.replica_id, identity.directory)).collect();
    let state = generate(plan, &first.settings, &directories)?;
    let mut members = Vec::with_capacity(dirs.len());
    for dir in dirs {
        members.push(open(dir).await?);
    }
    Ok(stop(state, members).await?)
}

/// The identity of a directory that nobody has started.
fn pristine(dir: &Path) -> Result<Identity, GenerateError> {
    let opened = DataDir::open(dir)?;
    let identity = opened.identity().clone();
    if identity.bootstrapped || opened.log().exists() {
        let expected = format!("a directory that no replica has used, {} was used", dir.display());
        return Err(BadInput::new("data_dir", expected).into());
    }
    Ok(identity)
}

async fn open(dir: &Path) -> Result<Opened, OpenDirError> {
    let config = MetaConfig::new(dir, Endpoint::Tcp("127.0.0.1:0".into()));
    let deps = open_data_dir(&config, Arc::new(TokioNet), Arc::new(OsEntropy), Telemetry::new()).await?;
    let Deps { identity, identity_file, log, snapshots, .. } = deps;
    Ok(Opened { identity, identity_file, log, snapshots })
}
