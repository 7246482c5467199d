//! From a data directory to a replica's [`Deps`]: what the binary does before it serves.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use foreword_proto::limits::POLICY_FEED_BYTES_MAX;
use foreword_proto::versions::OtherVersion;
use foreword_seams::{Entropy, LocalFiles, Marker, Net, Runner, Telemetry, in_the_background, on_a_thread, sometimes};
use parking_lot::Mutex;

use crate::config::MetaConfig;
use crate::eviction::PolicyPlace;
use crate::replica::snapshots::{LoadError, Newest, Snapshots};
use crate::serve::Deps;
use crate::storage::{
    DataDir, DataDirError, IdentityFile, LocalMark, LogEngine, LogStore, MarkFile, OpenError, Recovered, SledEngine,
};

/// The log's engine and its mark.
pub type LogParts = (Box<dyn LogEngine>, Box<dyn MarkFile>);

/// Opens a log. One that lost what it had acknowledged is set aside, never repaired, and an empty one takes its place;
/// the replica then rejoins. Answers true in that case. A log of another version is left as it is.
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
        Err(kept @ (OpenError::Io(_) | OpenError::OtherVersion(_))) => Err(kept),
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

    fn distrust(&self) -> io::Result<()> {
        self.0.lock().set_distrusted().map_err(io::Error::other)
    }

    fn format_version_is(&self, version: u32) -> io::Result<()> {
        self.0.lock().set_format_version(version).map_err(io::Error::other)
    }

    fn needs(&self, other: &OtherVersion) -> io::Result<()> {
        self.0.lock().set_needs(Some(other)).map_err(io::Error::other)
    }
}

/// Why a data directory did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenDirError {
    #[error(transparent)]
    Dir(#[from] DataDirError),
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error(transparent)]
    Snapshots(#[from] LoadError),
    #[error("data_dir: snapshots: {0}")]
    SnapshotsDir(io::Error),
}

impl OpenDirError {
    /// Whether it is for the operator to mend, and nothing was changed: a directory of somebody else, or of another
    /// version.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Dir(error) => matches!(error, DataDirError::Bad(_) | DataDirError::OtherVersion(_)),
            Self::Log(error) => matches!(error, OpenError::OtherVersion(_)),
            Self::Snapshots(error) => matches!(error, LoadError::OtherVersion(_)),
            Self::SnapshotsDir(_) => false,
        }
    }
}

/// Opens a replica's data directory on local disk, with its log in sled.
///
/// Errors: one of another cluster or replica than the settings name, or of another version, before anything in it is
/// touched. All that can be read without writing is read first: the log's engine changes its files when it opens them.
pub async fn open_data_dir(
    config: &MetaConfig,
    net: Arc<dyn Net>,
    entropy: Arc<dyn Entropy>,
    telemetry: Telemetry,
) -> Result<Deps, OpenDirError> {
    let mut dir = DataDir::open(&config.data_dir)?;
    dir.expect(config.cluster_id, config.replica_id).map_err(DataDirError::from)?;
    dir.check_versions()?;
    if dir.identity().distrusted {
        tracing::error!("the state was not the others': setting the log aside; this replica rejoins empty");
        let moved = dir.set_log_aside()?;
        tracing::warn!(?moved, "kept for someone to look at");
    }
    let newest = newest_snapshot(&dir).await?;
    let dir = Arc::new(SharedDataDir(Mutex::new(dir)));
    // What stopped an older binary here is known to this one.
    dir.0.lock().set_needs(None)?;
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
    let (log, recovered, set_aside) = open_log(parts, &on_a_thread("foreword-log"), set_aside)?;
    tracing::info!(?recovered, "opened the log");
    {
        let mut dir = dir.0.lock();
        // The log is gone with its mark, which would have told. A member has voted, or followed a vote.
        if dir.identity().took_part() && log.reader().vote().is_none() && !dir.identity().rejoining {
            tracing::error!("this replica took part in its group and its log is empty; it rejoins");
            dir.set_rejoining(true)?;
        }
    }
    let (identity, snapshots) = {
        let dir = dir.0.lock();
        (dir.identity().clone(), LocalFiles::new(dir.snapshots()).map_err(OpenDirError::SnapshotsDir)?)
    };
    // A log that was set aside took the snapshots with it.
    let newest = if set_aside { Newest::default() } else { newest };
    Ok(Deps {
        net,
        entropy,
        telemetry,
        identity,
        identity_file: dir,
        log,
        snapshots: Arc::new(snapshots),
        newest,
        policy: PolicyPlace { runner: in_the_background("foreword-evict"), feed_bytes_max: POLICY_FEED_BYTES_MAX },
        aside: in_the_background("foreword-aside"),
    })
}

async fn newest_snapshot(dir: &DataDir) -> Result<Newest, LoadError> {
    if !dir.snapshots().exists() {
        return Ok(Newest::default());
    }
    let files = Arc::new(LocalFiles::as_it_is(dir.snapshots()));
    Snapshots::new(files, dir.identity().cluster_id).load_newest().await
}

/// Sets a closed replica's log and snapshots aside, after [`crate::serve::ServeError::SnapshotLost`] or
/// [`crate::serve::Failure::Diverged`]; opened again, it rejoins empty.
pub fn set_log_aside(config: &MetaConfig, why: &dyn std::error::Error) -> Result<(), DataDirError> {
    tracing::error!(%why, "setting the log aside; this replica rejoins empty");
    let moved = DataDir::open(&config.data_dir)?.set_log_aside()?;
    tracing::warn!(?moved, "kept for someone to look at");
    Ok(())
}
