//! `<root>/<cluster id>/CLUSTER`: whose L3 directory this is.
//!
//! Written once, at `meta init`; every agent reads it before any I/O. A group never adopts a directory it did not make.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use foreword_proto::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use foreword_proto::versions::{Foreign, OtherVersion, Versions};
use foreword_proto::{BadInput, ClusterId};
use rustix::fs::{Access, AtFlags, CWD};
use serde::{Deserialize, Serialize};

/// Format of an L3 directory that this binary writes and reads. It counts for itself: the file is never written again,
/// so it does not follow the group's format version.
pub const MARK_FORMAT: u32 = 1;
/// Largest CLUSTER file that is read.
const MARK_BYTES_MAX: u64 = 64 << 10;
const MARK_NAME: &str = "CLUSTER";
const SLABS_NAME: &str = "slabs";

/// What identifies an L3 directory: the content of `<root>/<cluster id>/CLUSTER`, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterMark {
    pub format: u32,
    pub cluster_id: ClusterId,
    pub chunk_bytes: u32,
    /// The filesystem's type name at init (`ext4`, `fuse.hf3fs`), for a message only.
    pub fs_type: String,
}

impl ClusterMark {
    /// A mark of this binary's format.
    pub fn new(cluster_id: ClusterId, chunk_bytes: u32, fs_type: impl Into<String>) -> Self {
        Self { format: MARK_FORMAT, cluster_id, chunk_bytes, fs_type: fs_type.into() }
    }

    /// Whether this is a directory for an agent of that cluster with chunks of that size; an error names both.
    pub fn check(&self, cluster_id: ClusterId, chunk_bytes: u32) -> Result<(), BadInput> {
        if self.format != MARK_FORMAT {
            return Err(BadInput::new(
                "format",
                format!("{MARK_FORMAT} (this binary), the L3 directory has {}", self.format),
            ));
        }
        if self.cluster_id != cluster_id {
            let expected = format!("{cluster_id} (this cluster), the L3 directory belongs to {}", self.cluster_id);
            return Err(BadInput::new("cluster_id", expected));
        }
        if self.chunk_bytes != chunk_bytes {
            let expected = format!("{chunk_bytes} (this store), the L3 directory was made with {}", self.chunk_bytes);
            return Err(BadInput::new("chunk_bytes", expected));
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), BadInput> {
        if self.format != MARK_FORMAT {
            return Err(BadInput::new("format", format!("{MARK_FORMAT}, got {}", self.format)));
        }
        let in_range = (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes);
        if !in_range || !self.chunk_bytes.is_power_of_two() {
            let expected =
                format!("a power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}, got {}", self.chunk_bytes);
            return Err(BadInput::new("chunk_bytes", expected));
        }
        Ok(())
    }
}

/// Why an L3 directory could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    #[error("{path}: exists already; a new cluster never adopts an L3 directory", path = path.display())]
    Exists { path: PathBuf },
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: {error}", path = path.display())]
    Content { path: PathBuf, error: BadInput },
    #[error("{path}: expected to be readable and writable for user {uid}: {error}", path = path.display())]
    Access { path: PathBuf, uid: u32, error: io::Error },
    /// A directory of another version; nothing was changed.
    #[error("{0}")]
    OtherVersion(OtherVersion),
}

/// Directory of one cluster below an L3 root.
pub(super) fn cluster_dir(root: &Path, cluster_id: ClusterId) -> PathBuf {
    root.join(cluster_id.to_string())
}

/// Directory of the slab files of one cluster.
pub(super) fn slabs_dir(root: &Path, cluster_id: ClusterId) -> PathBuf {
    cluster_dir(root, cluster_id).join(SLABS_NAME)
}

/// Makes `<root>/<cluster id>` with its CLUSTER file, durably, and reads it back. Blocks; the root itself must exist.
///
/// Errors: the directory exists, a field of the mark is out of range (named), or the filesystem fails.
pub fn init_l3_root(root: &Path, mark: &ClusterMark) -> Result<(), MarkError> {
    let dir = cluster_dir(root, mark.cluster_id);
    mark.validate().map_err(|error| MarkError::Content { path: dir.clone(), error })?;
    if let Err(error) = fs::create_dir(&dir) {
        return Err(match error.kind() {
            io::ErrorKind::AlreadyExists => MarkError::Exists { path: dir },
            _ => MarkError::Io { path: dir, error },
        });
    }
    let written = write_mark(&dir, mark).and_then(|()| File::open(root)?.sync_all());
    written.map_err(|error| MarkError::Io { path: dir.clone(), error })?;
    let read = read_cluster_mark(root, mark.cluster_id)?;
    if read.as_ref() != Some(mark) {
        let error = io::Error::other(format!("wrote {mark:?}, read {read:?}"));
        return Err(MarkError::Io { path: dir.join(MARK_NAME), error });
    }
    Ok(())
}

fn write_mark(dir: &Path, mark: &ClusterMark) -> io::Result<()> {
    fs::create_dir(dir.join(SLABS_NAME))?;
    let unsealed = dir.join(format!("{MARK_NAME}.unsealed"));
    let mut file = File::create_new(&unsealed)?;
    file.write_all(&serde_json::to_vec_pretty(mark)?)?;
    file.sync_all()?;
    fs::rename(&unsealed, dir.join(MARK_NAME))?;
    File::open(dir)?.sync_all()
}

/// Reads `<root>/<cluster id>/CLUSTER`; None when there is none. Blocks. An error names the file and the field.
pub fn read_cluster_mark(root: &Path, cluster_id: ClusterId) -> Result<Option<ClusterMark>, MarkError> {
    let path = cluster_dir(root, cluster_id).join(MARK_NAME);
    let bytes = match read_limited(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(MarkError::Io { path, error }),
    };
    let content = |error| MarkError::Content { path: path.clone(), error };
    // The format first: fields of another format are not ours to judge.
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| content(BadInput::new("CLUSTER", format!("JSON ({error})"))))?;
    let found = value.get("format").and_then(|format| format.as_u64()).and_then(|format| u32::try_from(format).ok());
    let found = found.ok_or_else(|| content(BadInput::new("format", format!("a number in {value}"))))?;
    Foreign::check_version(found, Versions { min: MARK_FORMAT, max: MARK_FORMAT })
        .map_err(|what| MarkError::OtherVersion(what.of(path.display().to_string())))?;
    let mark: ClusterMark = serde_json::from_value(value)
        .map_err(|error| content(BadInput::new("CLUSTER", format!("the fields of format {MARK_FORMAT}: {error}"))))?;
    mark.validate().map_err(content)?;
    if mark.cluster_id != cluster_id {
        let expected = format!("{cluster_id}, as its directory is named, got {}", mark.cluster_id);
        return Err(content(BadInput::new("cluster_id", expected)));
    }
    Ok(Some(mark))
}

/// As [`read_cluster_mark`], of a directory that this user may also read from and write to: the slab directory, and a
/// slab if there is one, since all agents make them as one user. Blocks.
pub(super) fn read_usable_mark(root: &Path, cluster_id: ClusterId) -> Result<Option<ClusterMark>, MarkError> {
    let mark = read_cluster_mark(root, cluster_id)?;
    let dir = slabs_dir(root, cluster_id);
    // One that is not there is judged by the mark, or by the first write.
    if mark.is_some() && dir.exists() {
        let no_access = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| MarkError::Access { path, uid: rustix::process::geteuid().as_raw(), error }
        };
        let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(CWD, &dir, all, AtFlags::EACCESS).map_err(|error| no_access(&dir)(error.into()))?;
        if let Some(slab) = fs::read_dir(&dir).map_err(no_access(&dir))?.next() {
            let slab = slab.map_err(no_access(&dir))?.path();
            File::options().read(true).write(true).open(&slab).map_err(no_access(&slab))?;
        }
    }
    Ok(mark)
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path)?.take(MARK_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Ids of the clusters that have a directory below this root, sorted: what to name when one's own is not there. Blocks.
pub fn clusters_under(root: &Path) -> io::Result<Vec<ClusterId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|name| name.parse::<ClusterId>().ok());
        if let Some(id) = id
            && entry.path().join(MARK_NAME).is_file()
        {
            ids.push(id);
        }
    }
    ids.sort();
    Ok(ids)
}

/// Type name of the filesystem that holds `path` (`ext4`, `fuse.hf3fs`), from the mount table; `unknown` when it is not
/// there.
pub fn filesystem_type(path: &Path) -> String {
    let Ok(path) = path.canonicalize() else { return "unknown".into() };
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    type_from_mounts(&table, &path).unwrap_or_else(|| "unknown".into())
}

/// The last of the deepest mounts above `path`: later mounts cover earlier ones.
fn type_from_mounts(table: &str, path: &Path) -> Option<String> {
    let mounts = table.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let point = PathBuf::from(mount.split(' ').nth(4)?.replace("\\040", " "));
        let fs_type = rest.split(' ').next()?.to_owned();
        path.starts_with(&point).then(|| (point.components().count(), fs_type))
    });
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, fs_type)| fs_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ClusterId = ClusterId([7; 16]);

    fn error_of(result: Result<impl std::fmt::Debug, MarkError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_directory_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let mark = ClusterMark::new(ID, 4096, "ext4");
        assert_eq!(read_cluster_mark(root.path(), ID).unwrap(), None);
        init_l3_root(root.path(), &mark).unwrap();
        assert_eq!(read_cluster_mark(root.path(), ID).unwrap(), Some(mark.clone()));
        assert_eq!(clusters_under(root.path()).unwrap(), [ID]);
        assert!(matches!(init_l3_root(root.path(), &mark), Err(MarkError::Exists { .. })));
        let other = ClusterMark::new(ClusterId([1; 16]), 65_536, "ext4");
        init_l3_root(root.path(), &other).unwrap();
        assert_eq!(clusters_under(root.path()).unwrap(), [other.cluster_id, ID]);
        assert_eq!(read_cluster_mark(root.path(), ID).unwrap(), Some(mark));
    }

    #[test]
    fn errors_name_the_field_and_both_values() {
        let mark = ClusterMark::new(ID, 4096, "ext4");
        assert!(mark.check(ID, 4096).is_ok());
        let error = mark.check(ClusterId([8; 16]), 4096).unwrap_err();
        assert_eq!(error.field, "cluster_id");
        assert!(error.expected.contains(&ID.to_string()) && error.expected.contains(&ClusterId([8; 16]).to_string()));
        let error = mark.check(ID, 65_536).unwrap_err();
        assert_eq!(error.field, "chunk_bytes");
        assert!(error.expected.contains("4096") && error.expected.contains("65536"));
        let error = ClusterMark { format: 9, ..mark }.check(ID, 4096).unwrap_err();
        assert_eq!(error.field, "format");
    }

    #[test]
    fn a_bad_mark_is_refused_by_field() {
        let root = tempfile::tempdir().unwrap();
        for chunk_bytes in [0, 512, 4097, 12_288, CHUNK_BYTES_MAX * 2] {
            let error = error_of(init_l3_root(root.path(), &ClusterMark::new(ID, chunk_bytes, "ext4")));
            assert!(error.contains("chunk_bytes: expected"), "{error}");
        }
        let dir = cluster_dir(root.path(), ID);
        fs::create_dir(&dir).unwrap();
        let good = serde_json::to_value(ClusterMark::new(ID, 4096, "ext4")).unwrap();
        for (field, value, named) in [
            ("format", 2.into(), "format_version: expected 1, which this binary reads,"),
            ("format", "two".into(), "format: expected a number"),
            ("cluster_id", ClusterId([1; 16]).to_string().into(), "cluster_id: expected"),
            ("cluster_id", "xyz".into(), "cluster_id"),
            ("chunk_bytes", 5.into(), "chunk_bytes: expected"),
            ("chunk_size", 5.into(), "chunk_size"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            fs::write(dir.join(MARK_NAME), bad.to_string()).unwrap();
            let error = error_of(read_cluster_mark(root.path(), ID));
            assert!(error.contains(named) && error.contains("CLUSTER"), "{error}");
        }
        fs::write(dir.join(MARK_NAME), "{\"format\": 1").unwrap();
        assert!(error_of(read_cluster_mark(root.path(), ID)).contains("JSON"));
        fs::remove_file(dir.join(MARK_NAME)).unwrap();
        assert_eq!(read_cluster_mark(root.path(), ID).unwrap(), None);
        assert!(clusters_under(root.path()).unwrap().is_empty());
    }

    #[test]
    fn the_deepest_mount_names_the_filesystem() {
        let table = "22 1 8:1 / / rw - ext4 /dev/vda rw\n40 22 0:3 / /mnt/my\\040fs rw,x shared:1 - fuse.hf3fs hf3fs.c rw\n\
                     41 22 0:4 / /mnt rw - tmpfs t rw\n";
        let at = |path: &str| type_from_mounts(table, Path::new(path));
        assert_eq!(at("/mnt/my fs/dir").as_deref(), Some("fuse.hf3fs"));
        assert_eq!(at("/mnt/other").as_deref(), Some("tmpfs"));
        assert_eq!(at("/home").as_deref(), Some("ext4"));
        assert_ne!(filesystem_type(Path::new("/")), "unknown");
    }
}
