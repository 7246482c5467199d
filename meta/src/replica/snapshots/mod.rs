//! The snapshots of one replica: the files, and which of them is the newest.
//!
//! openraft takes an error of a snapshot for the end of the replica. So it is asked for nothing that can fail: the
//! [`keeper`] builds the files beside it and again when that failed; [`super::state_machine`] hands over what is
//! sealed.
//!
//! ```text
//! keeper      when one is due, and what of the log may go     policy   the same as functions of numbers
//! build       a frozen view into a file                       load     a file into a state
//! receiving   what another replica sends, kept when the stream breaks
//! ```

mod build;
pub(crate) mod keeper;
pub(crate) mod load;
mod policy;
pub(crate) mod receiving;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::ClusterId;
use foreword_seams::Files;
use openraft::Snapshot;
use parking_lot::Mutex;

pub use build::BuildError;
pub use load::{LoadError, Newest};

use crate::consensus::types::{LogId, SnapshotHandle, SnapshotMeta, TypeConfig};

/// Snapshots kept on disk: the newest, and the one before it while a follower may still be reading it.
const SNAPSHOTS_KEPT: usize = 2;
const PREFIX: &str = "snapshot-";
/// What is sealed of another replica's snapshots until they are installed.
const RECEIVED: &str = "received-";
/// Pauses before a failed step is tried again: the first, doubled each time up to the longest.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A snapshot on disk.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) meta: SnapshotMeta,
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

impl Sealed {
    /// The last entry it covers; 0 for none.
    pub(crate) fn covers(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |id| id.index)
    }
}

/// The snapshots of one replica; clones are the same ones.
#[derive(Clone)]
pub struct Snapshots {
    files: Arc<dyn Files>,
    cluster_id: ClusterId,
    newest: Arc<Mutex<Option<Sealed>>>,
}

impl Snapshots {
    /// The snapshots in `files`. None counts as the newest before [`Self::is_sealed`] says so.
    pub fn new(files: Arc<dyn Files>, cluster_id: ClusterId) -> Self {
        Self { files, cluster_id, newest: Arc::default() }
    }

    /// Names, oldest first: they sort by index.
    async fn names(&self) -> io::Result<Vec<String>> {
        let names = self.files.list().await?;
        Ok(names.into_iter().filter(|name| name.starts_with(PREFIX)).collect())
    }

    /// Removes damaged snapshots, and what a crash left of others that were to be installed.
    pub async fn clean(&self, unusable: &[String]) -> io::Result<()> {
        let names = self.files.list().await?;
        let left = names.iter().filter(|name| name.starts_with(RECEIVED));
        for name in unusable.iter().chain(left) {
            self.files.remove(name).await?;
        }
        Ok(())
    }

    /// The newest, if there is one.
    pub(crate) fn newest(&self) -> Option<Sealed> {
        self.newest.lock().clone()
    }

    /// What is sealed is the newest, unless a newer one was sealed meanwhile.
    pub(crate) fn is_sealed(&self, sealed: Sealed) {
        let mut newest = self.newest.lock();
        if newest.as_ref().is_none_or(|newest| newest.meta.last_log_id <= sealed.meta.last_log_id) {
            *newest = Some(sealed);
        }
    }

    /// The newest as openraft wants it.
    pub(crate) fn current(&self) -> Option<Snapshot<TypeConfig>> {
        self.newest().map(|sealed| {
            let handle = SnapshotHandle::sealed(sealed.name, sealed.bytes, self.files.clone());
            Snapshot { meta: sealed.meta, snapshot: Box::new(handle) }
        })
    }

    /// The same; before there is one, a snapshot of nothing, which openraft takes no notice of.
    pub(crate) fn current_or_none(&self) -> Snapshot<TypeConfig> {
        self.current().unwrap_or_else(|| {
            let nothing = SnapshotHandle::sealed(String::new(), 0, self.files.clone());
            Snapshot { meta: SnapshotMeta::default(), snapshot: Box::new(nothing) }
        })
    }

    /// Gives a received file its own name: also after a restart it is the newest then.
    pub(crate) async fn adopt(&self, received: &str, meta: &SnapshotMeta, bytes: u64) -> io::Result<()> {
        let name = name_of(meta.last_log_id);
        self.files.rename(received, &name).await?;
        self.is_sealed(Sealed { meta: meta.clone(), name, bytes });
        Ok(())
    }

    /// Removes all but the newest ones. What cannot be removed now is removed another time.
    pub(crate) async fn remove_old(&self) {
        let removing = async {
            let names = self.names().await?;
            for name in names.iter().take(names.len().saturating_sub(SNAPSHOTS_KEPT)) {
                self.files.remove(name).await?;
            }
            io::Result::Ok(())
        };
        if let Err(error) = removing.await {
            tracing::warn!(%error, "an old snapshot could not be removed");
        }
    }
}

fn name_of(last_log_id: Option<LogId>) -> String {
    let (index, term) = last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{PREFIX}{index:020}-{term}")
}

/// The pauses before each next try.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> + Send {
    std::iter::successors(Some(RETRY_MIN), |pause| Some((*pause * 2).min(RETRY_MAX)))
}
