//! Writing a snapshot from a frozen view while entries go on being applied.

use std::io;

use bytes::Bytes;
use foreword_seams::{Marker, sometimes};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::{Sealed, Snapshots, name_of};
use crate::consensus::types::SnapshotMeta;
use crate::replica::applied::{Applied, Position};
use crate::state::{Frozen, State};
use crate::storage::{SnapshotError, SnapshotHeader, SnapshotWriter};

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Nobody waits for it any more.
    #[error("the replica stops")]
    Stopped,
    #[error("no thread to write it on: {0}")]
    NoThread(io::Error),
    #[error("it ended without an answer")]
    Died,
}

/// A state as it is written, and what is said of it.
pub(super) struct View {
    level: u32,
    frozen: Frozen,
    pub(super) meta: SnapshotMeta,
}

impl View {
    pub(super) fn of(applied: &Applied) -> Self {
        let freeze = |state: &State, position: &Position| (state.feature_level(), state.freeze(), position.clone());
        let (level, frozen, position) = applied.read_with_position(freeze);
        let meta = SnapshotMeta {
            last_log_id: position.last_applied,
            last_membership: position.membership,
            snapshot_id: name_of(position.last_applied),
        };
        Self { level, frozen, meta }
    }
}

impl Snapshots {
    /// Writes and seals a view's file, and tells `built`; ends early when nobody listens there any more. A piece at a
    /// time, after each of which it rests for as long as that took: half a core and half the disk are left to what the
    /// replica does meanwhile.
    pub(super) async fn build(self, view: View, built: oneshot::Sender<Result<Sealed, BuildError>>) {
        let result = self.write(view, Some(&built)).await;
        let _ = built.send(result);
    }

    /// The snapshot of a replica that does nothing else, without a rest.
    pub(crate) async fn build_now(&self, applied: &Applied) -> Result<Sealed, BuildError> {
        self.write::<()>(View::of(applied), None).await
    }

    async fn write<T>(&self, view: View, rests_for: Option<&oneshot::Sender<T>>) -> Result<Sealed, BuildError> {
        let View { level, frozen, meta } = view;
        let name = meta.snapshot_id.clone();
        let header = SnapshotHeader { cluster_id: self.cluster_id, meta: meta.clone() };
        let mut writer = SnapshotWriter::create(&*self.files, &name, level, &header).await?;
        let mut chunks = frozen.chunks();
        let mut next = || -> (Instant, Option<Bytes>) { (Instant::now(), chunks.next()) };
        while let (since, Some(chunk)) = next() {
            writer.append(chunk).await?;
            if let Some(built) = rests_for {
                if built.is_closed() {
                    return Err(BuildError::Stopped);
                }
                sleep(since.elapsed()).await;
            }
        }
        let bytes = writer.seal().await?;
        sometimes(Marker::SnapshotBuilt);
        Ok(Sealed { meta, name, bytes })
    }
}
