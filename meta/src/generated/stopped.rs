//! Members of a group that have stopped: a snapshot of the state, an empty log behind it, a vote, and an identity that
//! has taken part.
//!
//! On disks of any kind, through the code that keeps them: real ones ([`super::directories`]), or a simulator's.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use foreword_proto::limits::SNAPSHOT_CHUNK_BYTES;
use foreword_proto::{BadInput, Revision};
use foreword_seams::{Files, Telemetry};
use openraft::storage::RaftLogStorage;
use openraft::{CommittedLeaderId, Membership};

use super::state::TERM;
use crate::consensus::types::{LogId, Member, StorageError, StoredMembership, Vote};
use crate::replica::applied::{Applied, Position};
use crate::replica::snapshots::{BuildError, Snapshots};
use crate::state::State;
use crate::storage::{Identity, IdentityFile, LogStore};

/// Why the disks are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    #[error(transparent)]
    Bad(#[from] BadInput),
    #[error("data_dir: {0}")]
    Storage(#[from] StorageError),
    #[error("data_dir: {0}")]
    Snapshot(#[from] BuildError),
    #[error("data_dir: {0}")]
    Io(#[from] io::Error),
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    pub revision: Revision,
    pub digest: u64,
    pub snapshot_bytes: u64,
}

/// What one member keeps on its disk, opened, and used by nobody yet.
pub struct Opened {
    pub identity: Identity,
    pub identity_file: Arc<dyn IdentityFile>,
    pub log: LogStore,
    pub snapshots: Arc<dyn Files>,
}

/// Leaves the disks of all members of a new group as if they had applied their way to this state, voted, and stopped.
///
/// Errors: `data_dir` without a member.
pub async fn stop(state: State, mut members: Vec<Opened>) -> Result<Generated, StopError> {
    let Some(first) = members.first() else { return Err(BadInput::new("data_dir", "at least one").into()) };
    let (revision, digest) = (state.revision(), state.digest());
    let last = LogId::new(CommittedLeaderId::new(TERM, first.identity.replica_id), revision);
    let position = Position { last_applied: Some(last), membership: membership(&members) };
    let (cluster_id, source) = (first.identity.cluster_id, first.snapshots.clone());
    for member in &mut members {
        member.log.save_vote(&Vote::new(TERM, last.leader_id.node_id)).await?;
        member.log.purge(last).await?;
        member.identity_file.members_are(&member.identity.members)?;
    }
    // The snapshot that a replica would take now.
    let snapshots = Snapshots::new(source.clone(), cluster_id);
    let snapshot = snapshots.build_now(&Applied::new(state, position, Vec::new(), &Telemetry::new())).await?;
    for member in members.iter().skip(1) {
        copy(&snapshot.name, &*source, &*member.snapshots).await?;
    }
    for Opened { log, .. } in members {
        let end = log.end();
        drop(log);
        end.wait().await;
    }
    Ok(Generated { revision, digest, snapshot_bytes: snapshot.bytes })
}

fn membership(members: &[Opened]) -> StoredMembership {
    let member = |Opened { identity, .. }: &Opened| {
        let address = identity.members.get(&identity.replica_id).cloned().unwrap_or_default();
        (identity.replica_id, Member { peer: address.clone(), client: address, directory: identity.directory })
    };
    let members: BTreeMap<u64, Member> = members.iter().map(member).collect();
    let voters = members.keys().copied().collect();
    // The group's first entry, as when it is formed.
    StoredMembership::new(Some(LogId::default()), Membership::new(vec![voters], members))
}

async fn copy(name: &str, from: &dyn Files, to: &dyn Files) -> io::Result<()> {
    let (mut reader, mut writer) = (from.open(name).await?, to.create(name).await?);
    let mut copied = 0;
    while copied < reader.len() {
        let bytes = reader.read_at(copied, SNAPSHOT_CHUNK_BYTES).await?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        copied += bytes.len() as u64;
        writer.append(bytes).await?;
    }
    writer.seal().await
}
