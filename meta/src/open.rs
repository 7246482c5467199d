//! From a data directory to a replica's [`Deps`]: what the binary does before it serves.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use foreword_seams::{Entropy, LocalFiles, Marker, Net, Telemetry, sometimes};
use parking_lot::Mutex;

use crate::config::MetaConfig;
use crate::serve::Deps;
use crate::storage::{
    DataDir, DataDirError, IdentityFile, LocalMark, LogEngine, LogStore, MarkFile, OpenError, Recovered, Runner,
    SledEngine, on_a_thread,
};

/// The log's engine and its mark.
pub type LogParts = (Box<dyn LogEngine>, Box<dyn MarkFile>);

/// Opens a log. One that lost what it had acknowledged is set aside, never repaired, and an empty one takes its place; the
/// replica then rejoins. Answers true in that case.
pub fn open_log(
    mut parts: impl FnMut() -> Result<LogParts, OpenError>,
    runner: &Runner,
    set_aside: impl FnOnce() -> io::Result<()>,
) -> Result<(LogStore, Recovered, bool), OpenError> {
    let mut open = || {
        let (engine, mark) = parts()?;
        LogStore::open(engine, mark, runner)
    };
    match open() {
        Ok((log, recovered)) => Ok((log, recovered, false)),
        Err(OpenError::Io(error)) => Err(OpenError::Io(error)),
        Err(lost) => {
            tracing::error!(%lost, "setting the log aside; this replica rejoins empty");
            set_aside()?;
            sometimes(Marker::LogSetAside);
            let (log, recovered) = open()?;
            Ok((log, recovered, true))
        }
    }
}

/// A data directory whose identity changes as the replica lives.
struct SharedDataDir(Mutex<DataDir>);

impl IdentityFile for SharedDataDir {
    fn bootstrapped(&self) -> io::Result<()> {
        self.0.lock().set_bootstrapped().map_err(io::Error::other)
    }

    fn caught_up(&self) -> io::Result<()> {
        self.0.lock().set_rejoining(false).map_err(io::Error::other)
    }

    fn members_are(&self, members: &BTreeMap<u64, String>) -> io::Result<()> {
        self.0.lock().set_members(members).map_err(io::Error::other)
    }
}

/// Why a data directory did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenDirError {
    #[error(transparent)]
    Dir(#[from] DataDirError),
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error("data_dir: snapshots: {0}")]
    Snapshots(io::Error),
}

/// Opens a replica's data directory on local disk, with its log in sled.
///
/// Errors: one of another cluster or replica than the settings name, before anything in it is touched.
pub fn open_data_dir(
    config: &MetaConfig,
    net: Arc<dyn Net>,
    entropy: Arc<dyn Entropy>,
    telemetry: Telemetry,
) -> Result<Deps, OpenDirError> {
    let dir = DataDir::open(&config.data_dir)?;
    dir.expect(config.cluster_id, config.replica_id).map_err(DataDirError::from)?;
    let dir = Arc::new(SharedDataDir(Mutex::new(dir)));
    let parts = || {
        let dir = dir.0.lock();
        let engine = SledEngine::open(&dir.log())?;
        // A mark of another size says as little as one that cannot be read: what was acknowledged is unknown.
        let mark = LocalMark::open(&dir.mark()).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => OpenError::Lost(error.to_string()),
            _ => OpenError::Io(error),
        })?;
        Ok((Box::new(engine) as Box<dyn LogEngine>, Box::new(mark) as Box<dyn MarkFile>))
    };
    let set_aside = || {
        let moved = dir.0.lock().set_log_aside().map_err(io::Error::other)?;
        tracing::warn!(?moved, "kept for someone to look at");
        Ok(())
    };
    let (log, recovered, _) = open_log(parts, &on_a_thread(), set_aside)?;
    tracing::info!(?recovered, "opened the log");
    let (identity, snapshots) = {
        let dir = dir.0.lock();
        (dir.identity().clone(), LocalFiles::new(dir.snapshots()).map_err(OpenDirError::Snapshots)?)
    };
    Ok(Deps { net, entropy, telemetry, identity, identity_file: dir, log, snapshots: Arc::new(snapshots) })
}

/// Sets a closed replica's log and snapshots aside, after [`crate::serve::ServeError::SnapshotLost`] or
/// [`crate::serve::Failure::Diverged`]; opened again, it rejoins empty.
pub fn set_log_aside(config: &MetaConfig, why: &dyn std::error::Error) -> Result<(), DataDirError> {
    tracing::error!(%why, "setting the log aside; this replica rejoins empty");
    let moved = DataDir::open(&config.data_dir)?.set_log_aside()?;
    tracing::warn!(?moved, "kept for someone to look at");
    Ok(())
}
