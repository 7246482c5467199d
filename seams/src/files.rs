//! Plain files as an input: snapshots, the saved mirror, L2.
//!
//! A file is created, appended to and sealed; only a sealed file is ever listed or opened, so a crash leaves whole
//! files or none.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use foreword_proto::limits::FILE_BYTES_PER_SYNC;
use futures::future::BoxFuture;

/// One directory of sealed files. Names are plain: no separators, not starting with a dot.
pub trait Files: Send + Sync + 'static {
    /// Starts a file; nothing of it is visible before [`FileWriter::seal`].
    fn create(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileWriter>>>;
    /// Opens a sealed file.
    fn open(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileReader>>>;
    /// Names of the sealed files, sorted.
    fn list(&self) -> BoxFuture<'static, io::Result<Vec<String>>>;
    /// Removes a sealed file; one that is not there is no error. An open reader keeps its bytes.
    fn remove(&self, name: &str) -> BoxFuture<'static, io::Result<()>>;
    /// Gives a sealed file another name, in one durable step; a file that has it already is replaced.
    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, io::Result<()>>;
}

/// Replaces a file in one step: written beside it under the name with `.next`, synced, renamed, and its directory
/// synced. Blocks.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    let mut file = std::fs::File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    std::fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// A file being written. Dropping it unsealed leaves nothing.
pub trait FileWriter: Send {
    /// Appends bytes. A long file is synced as it grows: all of it at its seal would hold up whoever else syncs this
    /// disk.
    fn append(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>>;
    /// Makes the file durable and visible under its name, replacing one of the same name.
    fn seal(self: Box<Self>) -> BoxFuture<'static, io::Result<()>>;
}

/// A sealed file being read.
pub trait FileReader: Send {
    /// Bytes in the file.
    fn len(&self) -> u64;
    /// True when the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Up to `bytes` bytes from `offset`; fewer only at the end.
    fn read_at(&mut self, offset: u64, bytes: usize) -> BoxFuture<'_, io::Result<Bytes>>;
}

const UNSEALED_SUFFIX: &str = ".unsealed";

/// Files of a local directory.
#[derive(Debug, Clone)]
pub struct LocalFiles {
    dir: PathBuf,
}

impl LocalFiles {
    /// The directory as it is: nothing is made or removed before a file is created.
    pub fn as_it_is(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Opens (and makes) the directory; unsealed leftovers of a crash are removed.
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        std::fs::create_dir_all(&dir)?;
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(UNSEALED_SUFFIX) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']);
        if !plain || name.ends_with(UNSEALED_SUFFIX) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no plain file name")));
        }
        Ok(self.dir.join(name))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

impl Files for LocalFiles {
    fn create(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileWriter>>> {
        let path = self.path(name);
        Box::pin(async move {
            let path = path?;
            let mut unsealed = path.clone().into_os_string();
            unsealed.push(UNSEALED_SUFFIX);
            let unsealed = PathBuf::from(unsealed);
            let file = tokio::fs::File::create(&unsealed).await?.into_std().await;
            let file = Some(std::sync::Arc::new(file));
            Ok(Box::new(LocalWriter { file, unsynced: 0, unsealed, path }) as Box<dyn FileWriter>)
        })
    }

    fn open(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileReader>>> {
        let path = self.path(name);
        Box::pin(async move {
            let path = path?;
            let (file, len) = blocking(move || {
                let file = std::fs::File::open(path)?;
                let len = file.metadata()?.len();
                Ok((file, len))
            })
            .await?;
            Ok(Box::new(LocalReader { file: std::sync::Arc::new(file), len }) as Box<dyn FileReader>)
        })
    }

    fn list(&self) -> BoxFuture<'static, io::Result<Vec<String>>> {
        let dir = self.dir.clone();
        Box::pin(blocking(move || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(dir)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if !name.ends_with(UNSEALED_SUFFIX) {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        }))
    }

    fn remove(&self, name: &str) -> BoxFuture<'static, io::Result<()>> {
        let path = self.path(name);
        Box::pin(async move {
            let path = path?;
            blocking(move || match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => sync_dir(&path),
            })
            .await
        })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, io::Result<()>> {
        let paths = self.path(from).and_then(|from| Ok((from, self.path(to)?)));
        Box::pin(async move {
            let (from, to) = paths?;
            blocking(move || {
                std::fs::rename(from, &to)?;
                sync_dir(&to)
            })
            .await
        })
    }
}

struct LocalWriter {
    file: Option<std::sync::Arc<std::fs::File>>,
    /// Bytes since the last sync.
    unsynced: usize,
    unsealed: PathBuf,
    path: PathBuf,
}

impl FileWriter for LocalWriter {
    fn append(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        let file = self.file.clone();
        self.unsynced += bytes.len();
        let sync = self.unsynced >= FILE_BYTES_PER_SYNC;
        if sync {
            self.unsynced = 0;
        }
        Box::pin(blocking(move || {
            let file = file.ok_or_else(|| io::Error::other("the file is sealed"))?;
            (&*file).write_all(&bytes)?;
            if sync { file.sync_data() } else { Ok(()) }
        }))
    }

    fn seal(mut self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        let file = self.file.take();
        let (unsealed, path) = (self.unsealed.clone(), self.path.clone());
        Box::pin(blocking(move || {
            let file = file.ok_or_else(|| io::Error::other("the file is sealed"))?;
            file.sync_all()?;
            std::fs::rename(&unsealed, &path)?;
            sync_dir(&path)
        }))
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        if self.file.is_some() {
            // The next LocalFiles::new removes what this could not.
            let _ = std::fs::remove_file(&self.unsealed);
        }
    }
}

struct LocalReader {
    file: std::sync::Arc<std::fs::File>,
    len: u64,
}

impl FileReader for LocalReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&mut self, offset: u64, bytes: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        use std::os::unix::fs::FileExt;
        let file = self.file.clone();
        let bytes = bytes.min(self.len.saturating_sub(offset) as usize);
        Box::pin(blocking(move || {
            let mut buffer = vec![0; bytes];
            file.read_exact_at(&mut buffer, offset)?;
            Ok(buffer.into())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_sealed_files_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let files = LocalFiles::new(dir.path()).unwrap();
        let mut writer = files.create("a").await.unwrap();
        writer.append(Bytes::from_static(b"hello ")).await.unwrap();
        assert!(files.list().await.unwrap().is_empty());
        writer.append(Bytes::from_static(b"world")).await.unwrap();
        writer.seal().await.unwrap();
        drop(files.create("b").await.unwrap());
        assert_eq!(files.list().await.unwrap(), ["a"]);
        let mut reader = files.open("a").await.unwrap();
        assert_eq!(reader.len(), 11);
        assert_eq!(&reader.read_at(6, 100).await.unwrap()[..], b"world");
        files.rename("a", "c").await.unwrap();
        assert_eq!(files.list().await.unwrap(), ["c"]);
        assert_eq!(files.rename("a", "d").await.err().unwrap().kind(), io::ErrorKind::NotFound);
        files.remove("c").await.unwrap();
        files.remove("c").await.unwrap();
        assert!(files.list().await.unwrap().is_empty());
        assert_eq!(&reader.read_at(0, 5).await.unwrap()[..], b"hello");
    }

    #[tokio::test]
    async fn a_name_with_a_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let files = LocalFiles::new(dir.path()).unwrap();
        for name in ["../x", "a/b", "", ".hidden", "x.unsealed"] {
            assert_eq!(files.create(name).await.err().unwrap().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
