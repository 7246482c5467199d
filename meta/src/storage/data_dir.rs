//! A replica's data directory, and the checks before anything in it is used.
//!
//! ```text
//! LOCK         held by the process that uses the directory
//! IDENTITY     JSON: whose directory this is
//! MARK         how far the replica has acknowledged (storage::mark)
//! log/         the log engine's files; log.lost-<n>/ and MARK.lost-<n> when they were set aside
//! snapshots/   sealed snapshot files
//! ```

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use foreword_proto::limits::{FEATURE_LEVEL_MAX, FORMAT_VERSION, FORMAT_VERSIONS};
use foreword_proto::versions::{Foreign, OtherVersion};
use foreword_proto::{BadInput, ClusterId, DirectoryId};
use foreword_seams::replace_file;
use serde::{Deserialize, Serialize};

use super::mark;
use super::sled_engine::SledEngine;
use crate::state::command::ClusterSettings;

const LOCK: &str = "LOCK";
const IDENTITY: &str = "IDENTITY";
const MARK: &str = "MARK";
const LOG: &str = "log";
const SNAPSHOTS: &str = "snapshots";
/// Lost logs kept for someone to look at; each may be as large as the log and its snapshots were.
const SETS_ASIDE_MAX: u32 = 4;

/// Whose directory it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// No file of the directory is of a newer version.
    pub format_version: u32,
    pub cluster_id: ClusterId,
    pub replica_id: u64,
    /// This directory: the only one that the replica's id ever belongs to.
    pub directory: DirectoryId,
    /// What the cluster was initialised with.
    pub settings: ClusterSettings,
    /// The members, as far as this replica knows: id and gRPC endpoint.
    pub members: BTreeMap<u64, String>,
    /// The group has been started from these members once; never again.
    #[serde(default)]
    pub bootstrapped: bool,
    /// The log was lost: this replica does not vote before it has been taken in again.
    #[serde(default)]
    pub rejoining: bool,
    /// What the log says is not what the others have: it is set aside before it is opened again.
    #[serde(default)]
    pub distrusted: bool,
    /// What the group had written when a binary stopped here that did not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Needs>,
}

/// What a binary must know to go on with a directory in which an older one stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needs {
    /// A format version that it reads.
    FormatVersion(u32),
    /// A feature level that it knows.
    FeatureLevel(u32),
    /// A kind of record that format versions up to `newer_than` do not have.
    Kind { found: u32, newer_than: u32 },
}

impl Needs {
    /// What `other` asks for; None for what is no matter of the group's own records.
    fn of(other: &Foreign) -> Option<Self> {
        match *other {
            Foreign::Version { found, .. } => Some(Self::FormatVersion(found)),
            Foreign::Level { found, .. } => Some(Self::FeatureLevel(found)),
            Foreign::Kind { found, reads, .. } => Some(Self::Kind { found, newer_than: reads.max }),
            Foreign::Engine(_) => None,
        }
    }

    /// Whether this binary knows it.
    fn check(self) -> Result<(), Foreign> {
        match self {
            Self::FormatVersion(found) => Foreign::check_version(found, FORMAT_VERSIONS),
            Self::FeatureLevel(found) => Foreign::check_level(found, FEATURE_LEVEL_MAX),
            Self::Kind { newer_than, .. } if newer_than < FORMAT_VERSION => Ok(()),
            Self::Kind { found, .. } => Err(Foreign::Kind { record: "record", found, reads: FORMAT_VERSIONS }),
        }
    }
}

impl Identity {
    /// The replica was a member of its group when it last looked.
    pub fn took_part(&self) -> bool {
        self.bootstrapped && self.members.contains_key(&self.replica_id)
    }

    /// The identity of a replica that joins a running group of these members later.
    pub fn joining(
        cluster_id: ClusterId,
        replica_id: u64,
        directory: DirectoryId,
        settings: ClusterSettings,
        members: BTreeMap<u64, String>,
    ) -> Self {
        Self { bootstrapped: true, ..Self::new(cluster_id, replica_id, directory, settings, members) }
    }

    /// A new cluster's identity, in the format that goes with its first feature level.
    pub fn new(
        cluster_id: ClusterId,
        replica_id: u64,
        directory: DirectoryId,
        settings: ClusterSettings,
        members: BTreeMap<u64, String>,
    ) -> Self {
        let format_version = settings.first_feature_level;
        Self {
            format_version,
            cluster_id,
            replica_id,
            directory,
            settings,
            members,
            bootstrapped: false,
            rejoining: false,
            distrusted: false,
            needs: None,
        }
    }
}

/// Where changes of the identity are kept.
pub trait IdentityFile: Send + Sync + 'static {
    /// The group was formed.
    fn bootstrapped(&self) -> io::Result<()>;
    /// The replica has again everything that it had lost.
    fn caught_up(&self) -> io::Result<()>;
    /// Who is in the group: where to ask after this replica has lost everything else.
    fn members_are(&self, members: &BTreeMap<u64, String>) -> io::Result<()>;
    /// This replica's state is not the others': its log must not be opened again.
    fn distrust(&self) -> io::Result<()>;
    /// From here on the directory may hold files of this format version.
    fn format_version_is(&self, version: u32) -> io::Result<()>;
    /// This binary does not know what the group has written: it must not start here again.
    fn needs(&self, other: &OtherVersion) -> io::Result<()>;
}

/// The part of an identity that every format has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// Why a data directory cannot be used. Fields are named as `data_dir` and its parts.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(transparent)]
    Bad(#[from] BadInput),
    /// Another version's, or one in which an older binary stopped: nothing was changed.
    #[error("data_dir.{0}")]
    OtherVersion(OtherVersion),
    #[error("data_dir: {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

impl DataDirError {
    /// The field the error is about.
    pub fn field(&self) -> &str {
        match self {
            Self::Bad(bad) => &bad.field,
            Self::OtherVersion(OtherVersion { what: Foreign::Level { .. }, .. }) => "data_dir.feature_level",
            Self::OtherVersion(_) => "data_dir.format_version",
            Self::Io { .. } => "data_dir",
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    move |error| DataDirError::Io { path: path.to_owned(), error }
}

/// An open data directory; it stays locked until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

impl DataDir {
    /// Makes the directory with its identity. One that already has an identity is refused.
    pub fn init(path: &Path, identity: &Identity) -> Result<Self, DataDirError> {
        std::fs::create_dir_all(path).map_err(at(path))?;
        let lock = lock(path)?;
        if path.join(IDENTITY).exists() {
            let expected = format!("a directory without a replica, {} already holds one", path.display());
            return Err(BadInput::new("data_dir", expected).into());
        }
        let snapshots = path.join(SNAPSHOTS);
        std::fs::create_dir_all(&snapshots).map_err(at(&snapshots))?;
        let dir = Self { path: path.to_owned(), identity: identity.clone(), _lock: lock };
        dir.write_identity(identity)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
        Ok(dir)
    }

    /// Opens a directory that [`DataDir::init`] made. An error names the field: `data_dir`, `data_dir.format_version`.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let file = path.join(IDENTITY);
        if !file.try_exists().map_err(at(&file))? {
            let expected =
                format!("a replica's directory, {} has no IDENTITY (run `foreword meta init`)", path.display());
            return Err(BadInput::new("data_dir", expected).into());
        }
        // Before the lock, too: making its file would change another version's directory.
        read_identity(&file)?;
        let lock = lock(path)?;
        let identity = read_identity(&file)?;
        Ok(Self { path: path.to_owned(), identity, _lock: lock })
    }

    /// Refuses a directory whose mark or log engine is another version's, before either is opened for writing. What is
    /// damaged passes: the open decides.
    pub fn check_versions(&self) -> Result<(), DataDirError> {
        let mark = std::fs::read(self.mark()).ok().and_then(|bytes| bytes.try_into().ok());
        let of_mark = mark.map_or(Ok(()), |bytes| mark::check_version(&bytes));
        of_mark.map_err(|what| DataDirError::OtherVersion(what.of(self.mark().display().to_string())))?;
        let engine = SledEngine::check_version(&self.log());
        engine.map_err(|what| DataDirError::OtherVersion(what.of(self.log().display().to_string())))
    }

    /// Refuses a directory of another cluster or replica, as configured. The error's field is `data_dir.cluster_id` or
    /// `data_dir.replica_id`.
    pub fn expect(&self, cluster_id: Option<ClusterId>, replica_id: Option<u64>) -> Result<(), BadInput> {
        let found = self.identity.cluster_id;
        if let Some(expected) = cluster_id.filter(|expected| *expected != found) {
            return Err(BadInput::new(
                "data_dir.cluster_id",
                format!("{expected}, {} has {found}", self.path.display()),
            ));
        }
        let found = self.identity.replica_id;
        if let Some(expected) = replica_id.filter(|expected| *expected != found) {
            return Err(BadInput::new(
                "data_dir.replica_id",
                format!("{expected}, {} has {found}", self.path.display()),
            ));
        }
        Ok(())
    }

    /// Whose directory it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Notes the format version that files of the directory may be of from here on.
    pub fn set_format_version(&mut self, version: u32) -> Result<(), DataDirError> {
        self.change(|identity| identity.format_version = version)
    }

    /// Notes that this binary does not know what the group has written, or that it does.
    pub fn set_needs(&mut self, other: Option<&OtherVersion>) -> Result<(), DataDirError> {
        self.change(|identity| identity.needs = other.and_then(|other| Needs::of(&other.what)))
    }

    /// Notes that the group has been started from the first members.
    pub fn set_bootstrapped(&mut self) -> Result<(), DataDirError> {
        self.change(|identity| identity.bootstrapped = true)
    }

    /// Notes who is in the group; it has been started, then.
    pub fn set_members(&mut self, members: &BTreeMap<u64, String>) -> Result<(), DataDirError> {
        self.change(|identity| {
            identity.members = members.clone();
            identity.bootstrapped = true;
        })
    }

    /// Notes that the log is to be set aside before it is opened again.
    pub fn set_distrusted(&mut self) -> Result<(), DataDirError> {
        self.change(|identity| identity.distrusted = true)
    }

    /// Notes whether this replica waits to be taken in again after it lost its log.
    pub fn set_rejoining(&mut self, rejoining: bool) -> Result<(), DataDirError> {
        self.change(|identity| identity.rejoining = rejoining)
    }

    /// The log engine's directory.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// The mark's file.
    pub fn mark(&self) -> PathBuf {
        self.path.join(MARK)
    }

    /// The directory of snapshot files.
    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// Puts a lost log, its mark and its snapshots aside under new names, for someone to look at; never repairs them.
    /// The replica is `rejoining` from here on, and that is durable before anything is moved. Of many sets the newest
    /// replaces the one before it: a replica that loses its log again and again does not fill the disk. Gives the
    /// names.
    pub fn set_log_aside(&mut self) -> Result<Vec<PathBuf>, DataDirError> {
        self.set_rejoining(true)?;
        let parts = [LOG, MARK, SNAPSHOTS];
        let aside = |part: &str, n: u32| self.path.join(format!("{part}.lost-{n}"));
        let unused = (1..SETS_ASIDE_MAX).find(|n| !parts.iter().any(|part| aside(part, *n).exists()));
        let n = unused.unwrap_or(SETS_ASIDE_MAX);
        let mut moved = Vec::new();
        for part in parts {
            let (from, to) = (self.path.join(part), aside(part, n));
            remove(&to).map_err(at(&to))?;
            if from.exists() {
                std::fs::rename(&from, &to).map_err(at(&from))?;
                moved.push(to);
            }
        }
        let snapshots = self.snapshots();
        std::fs::create_dir_all(&snapshots).map_err(at(&snapshots))?;
        sync_dir(&self.path)?;
        self.change(|identity| identity.distrusted = false)?;
        Ok(moved)
    }

    fn change(&mut self, change: impl FnOnce(&mut Identity)) -> Result<(), DataDirError> {
        let mut identity = self.identity.clone();
        change(&mut identity);
        if identity != self.identity {
            self.write_identity(&identity)?;
            self.identity = identity;
        }
        Ok(())
    }

    fn write_identity(&self, identity: &Identity) -> Result<(), DataDirError> {
        let path = self.path.join(IDENTITY);
        let write = || {
            let mut text = serde_json::to_vec_pretty(identity)?;
            text.push(b'\n');
            replace_file(&path, &text)
        };
        write().map_err(at(&path))
    }
}

/// Removes a file or a whole directory, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Reads an IDENTITY: its version, then what it needs, then the rest.
fn read_identity(file: &Path) -> Result<Identity, DataDirError> {
    let text = std::fs::read(file).map_err(at(file))?;
    let unreadable = |error: serde_json::Error| {
        BadInput::new("data_dir.identity", format!("a readable IDENTITY, {} has {error}", file.display()))
    };
    let other = |what: Foreign| DataDirError::OtherVersion(what.of(file.display().to_string()));
    let version = serde_json::from_slice::<Version>(&text).map_err(unreadable)?.format_version;
    Foreign::check_version(version, FORMAT_VERSIONS).map_err(other)?;
    let identity: Identity = serde_json::from_slice(&text).map_err(unreadable)?;
    identity.needs.map_or(Ok(()), Needs::check).map_err(other)?;
    Ok(identity)
}

fn sync_dir(path: &Path) -> Result<(), DataDirError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(at(path))
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let name = path.join(LOCK);
    let file = File::options().write(true).create(true).truncate(false).open(&name).map_err(at(&name))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let expected = format!("a directory no other process uses, {} is locked", path.display());
            Err(BadInput::new("data_dir", expected).into())
        }
        Err(TryLockError::Error(error)) => Err(at(&name)(error)),
    }
}
