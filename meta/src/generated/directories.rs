//! Data directories that hold a generated state, as three replicas leave them when they stop: a snapshot, an empty log behind it, a
//! vote, and an identity that has taken part.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foreword_proto::{BadInput, Revision};
use foreword_seams::{Endpoint, OsEntropy, Telemetry, TokioNet};
use openraft::storage::RaftLogStorage;
use openraft::{CommittedLeaderId, Membership};

use super::Plan;
use super::state::{TERM, generate};
use crate::config::MetaConfig;
use crate::consensus::types::{LogId, Member, StorageError, StoredMembership, Vote};
use crate::open::{OpenDirError, open_data_dir};
use crate::replica::applied::{Applied, Position};
use crate::replica::snapshots::{BuildError, Snapshots};
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
    #[error("data_dir: {0}")]
    Storage(#[from] StorageError),
    #[error("data_dir: {0}")]
    Snapshot(#[from] BuildError),
    #[error("data_dir: {0}")]
    Io(#[from] io::Error),
}

impl GenerateError {
    /// Whether the caller asked for what cannot be, and nothing was changed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Bad(_) => true,
            Self::Dir(error) => matches!(error, DataDirError::Bad(_) | DataDirError::OtherVersion(_)),
            Self::Open(error) => error.is_refusal(),
            _ => false,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    pub revision: Revision,
    pub digest: u64,
    pub snapshot_bytes: u64,
}

/// Fills the data directories of all members of a new group, as `foreword meta init` made them and before any of them was started.
///
/// Errors: `data_dir` for a directory that has taken part in a group; see also [`generate`].
pub async fn fill(plan: &Plan, dirs: &[PathBuf]) -> Result<Generated, GenerateError> {
    let identities = dirs.iter().map(|dir| pristine(dir)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = identities.first() else { return Err(BadInput::new("data_dir", "at least one").into()) };
    let directories = identities.iter().map(|identity| (identity.replica_id, identity.directory)).collect();
    let state = generate(plan, &first.settings, &directories)?;
    let (revision, digest) = (state.revision(), state.digest());
    let last = LogId::new(CommittedLeaderId::new(TERM, first.replica_id), revision);
    let position = Position { last_applied: Some(last), membership: membership(&identities) };
    let first_stopped = stopped_at(&dirs[0], first, last).await?;
    // The snapshot that a replica would take now.
    let snapshots = Snapshots::new(first_stopped.snapshots.clone(), identities[0].cluster_id);
    let snapshot = snapshots.build_now(&Applied::new(state, position, Vec::new(), &Telemetry::new())).await?;
    close(first_stopped).await;
    let name = Path::new("snapshots").join(&snapshot.name);
    for (dir, identity) in dirs.iter().zip(&identities).skip(1) {
        close(stopped_at(dir, identity, last).await?).await;
        std::fs::copy(dirs[0].join(&name), dir.join(&name))?;
    }
    Ok(Generated { revision, digest, snapshot_bytes: snapshot.bytes })
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

fn membership(identities: &[Identity]) -> StoredMembership {
    let member = |identity: &Identity| {
        let address = identity.members.get(&identity.replica_id).cloned().unwrap_or_default();
        (identity.replica_id, Member { peer: address.clone(), client: address, directory: identity.directory })
    };
    let members: BTreeMap<u64, Member> = identities.iter().map(member).collect();
    let voters = members.keys().copied().collect();
    // The group's first entry, as when it is formed.
    StoredMembership::new(Some(LogId::default()), Membership::new(vec![voters], members))
}

/// Opens a directory, and leaves its log as one that was purged up to `last`, and its identity as a member's.
async fn stopped_at(dir: &Path, identity: &Identity, last: LogId) -> Result<Deps, GenerateError> {
    let mut deps = open(dir).await?;
    deps.log.save_vote(&Vote::new(TERM, last.leader_id.node_id)).await?;
    deps.log.purge(last).await?;
    deps.identity_file.members_are(&identity.members)?;
    Ok(deps)
}

async fn open(dir: &Path) -> Result<Deps, OpenDirError> {
    let config = MetaConfig::new(dir, Endpoint::Tcp("127.0.0.1:0".into()));
    open_data_dir(&config, Arc::new(TokioNet), Arc::new(OsEntropy), Telemetry::new()).await
}

async fn close(deps: Deps) {
    let end = deps.log.end();
    drop(deps);
    end.wait().await;
}
