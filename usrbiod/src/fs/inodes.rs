//! The inodes the kernel knows: each holds its backing file by an O_PATH descriptor, so a rename or an unlink under our
//! feet changes nothing for who has it open, and the backing cannot give its number to another file meanwhile.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Once};

use fuser::FileType;
use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, Stat, fstat};
use rustix::io::{Errno, Result};

use super::attr::kind_of;
use super::virt::RESERVED_FROM;
use crate::service::BackingFiles;

/// The number of the root, whatever the backing's is.
pub(super) const ROOT: u64 = 1;

/// One backing file that the kernel knows.
#[derive(Debug)]
pub(super) struct Inode {
    path_fd: OwnedFd,
    /// The number the mount shows.
    pub(super) number: u64,
    device: u64,
    pub(super) kind: FileType,
    /// For USRBIO: opened at its first I/O, closed when the kernel forgets the inode and the last job has let go of it.
    io: Mutex<Option<Arc<OwnedFd>>>,
}

impl Inode {
    /// Opens the same file again, for I/O or for listing. Never blocks: special files are refused (ENXIO).
    pub(super) fn reopen(&self, flags: OFlags) -> Result<OwnedFd> {
        match self.kind {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        rustix::fs::openat(CWD, self.magic_path(), flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
    }

    /// A path that leads to this very file, for calls that take no O_PATH descriptor.
    pub(super) fn magic_path(&self) -> String {
        format!("/proc/self/fd/{}", self.path_fd.as_raw_fd())
    }

    pub(super) fn stat(&self) -> Result<Stat> {
        fstat(&self.path_fd)
    }

    fn io_fd(&self, write: bool, flags: OFlags) -> Result<Arc<OwnedFd>> {
        let mut io = self.io.lock();
        if let Some(fd) = &*io {
            return Ok(Arc::clone(fd));
        }
        match self.reopen(OFlags::RDWR | flags) {
            Ok(fd) => Ok(Arc::clone(io.insert(Arc::new(fd)))),
            // A read-only backing can still be read.
            Err(Errno::ROFS | Errno::TXTBSY | Errno::ACCESS | Errno::PERM) if !write => {
                self.reopen(OFlags::RDONLY | flags).map(Arc::new)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Inode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.path_fd.as_fd()
    }
}

#[derive(Debug)]
struct Known {
    inode: Arc<Inode>,
    lookups: u64,
}

/// The table of known inodes, each with a descriptor. It is bounded (ENFILE beyond), so that descriptors are left to
/// use them.
#[derive(Debug)]
pub(super) struct Inodes {
    root: Arc<Inode>,
    root_number: u64,
    known: Mutex<HashMap<u64, Known>>,
    known_max: usize,
    said_full: Once,
    io_flags: OFlags,
}

impl Inodes {
    /// A table of at most `known_max` inodes whose root is the directory `backing`. `direct`: USRBIO opens files with
    /// O_DIRECT.
    pub(super) fn new(backing: &Path, known_max: usize, direct: bool) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path_fd = rustix::fs::openat(CWD, backing, flags, Mode::empty())?;
        let stat = fstat(&path_fd)?;
        let (number, kind) = (ROOT, FileType::Directory);
        let root = Inode { path_fd, number, device: stat.st_dev, kind, io: Mutex::new(None) };
        let io_flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
        let (root, root_number, known, said_full) = (Arc::new(root), stat.st_ino, Mutex::default(), Once::new());
        Ok(Self { root, root_number, known, known_max, said_full, io_flags })
    }

    /// The inode of a number; ENOENT for one that the kernel does not know.
    pub(super) fn get(&self, number: u64) -> Result<Arc<Inode>> {
        if number == ROOT {
            return Ok(Arc::clone(&self.root));
        }
        self.known.lock().get(&number).map(|known| Arc::clone(&known.inode)).ok_or(Errno::NOENT)
    }

    /// The number the mount shows for a number of the backing.
    pub(super) fn shown(&self, number: u64) -> u64 {
        if number == self.root_number { ROOT } else { number }
    }

    /// Counts one more lookup of the file behind `path_fd`, and makes its inode at the first one.
    ///
    /// Errors: ENFILE for one file too many; EXDEV for a file of another filesystem than the backing's, whose number
    /// could be another file's; EIO for a number that the virtual inodes use.
    pub(super) fn remember(&self, path_fd: OwnedFd) -> Result<(Arc<Inode>, Stat)> {
        let stat = fstat(&path_fd)?;
        if stat.st_dev == self.root.device && stat.st_ino == self.root_number {
            return Ok((Arc::clone(&self.root), stat));
        }
        let number = stat.st_ino;
        if number <= ROOT || number >= RESERVED_FROM {
            return Err(Errno::IO);
        }
        let kind = kind_of(stat.st_mode).ok_or(Errno::IO)?;
        let mut table = self.known.lock();
        if let Some(known) = table.get_mut(&number) {
            if known.inode.device != stat.st_dev {
                return Err(Errno::XDEV);
            }
            known.lookups += 1;
            return Ok((Arc::clone(&known.inode), stat));
        }
        if table.len() >= self.known_max {
            self.said_full.call_once(|| {
                tracing::warn!(files = self.known_max, "too many files are known; raise the hard limit (ulimit -Hn)");
            });
            return Err(Errno::NFILE);
        }
        let inode = Arc::new(Inode { path_fd, number, device: stat.st_dev, kind, io: Mutex::new(None) });
        table.insert(number, Known { inode: Arc::clone(&inode), lookups: 1 });
        Ok((inode, stat))
    }

    /// Takes back `lookups` lookups of a number; at none the inode is gone.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut table = self.known.lock();
        let Some(known) = table.get_mut(&number) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        let gone = if known.lookups == 0 { table.remove(&number) } else { None };
        drop(table);
        // The last close of an unlinked file frees its blocks: not under the lock.
        drop(gone);
    }

    /// How many inodes the kernel knows, the root apart.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.known.lock().len()
    }
}

impl BackingFiles for Inodes {
    fn open(&self, ino: u64, write: bool) -> Result<Arc<OwnedFd>> {
        let inode = self.get(ino)?;
        match inode.kind {
            FileType::RegularFile => inode.io_fd(write, self.io_flags),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_fd(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap()
    }

    #[test]
    fn an_inode_lives_until_its_last_lookup_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, b"bytes").unwrap();
        std::fs::hard_link(&file, dir.path().join("b")).unwrap();
        let inodes = Inodes::new(dir.path(), 2, false).unwrap();
        let (one, _) = inodes.remember(path_fd(&file)).unwrap();
        let (two, _) = inodes.remember(path_fd(&dir.path().join("b"))).unwrap();
        assert!(Arc::ptr_eq(&one, &two), "two hard links are one inode");
        let number = one.number;
        assert!(inodes.open(number, true).is_ok());
        inodes.forget(number, 1);
        assert!(inodes.open(number, true).is_ok());
        inodes.forget(number, 1);
        assert_eq!(inodes.open(number, true).unwrap_err(), Errno::NOENT);
        assert_eq!(inodes.count(), 0);
    }

    #[test]
    fn only_regular_files_are_opened_for_io() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let inodes = Inodes::new(dir.path(), 2, false).unwrap();
        let (link, _) = inodes.remember(path_fd(&dir.path().join("link"))).unwrap();
        let (sub, _) = inodes.remember(path_fd(&dir.path().join("sub"))).unwrap();
        assert_eq!(inodes.open(link.number, false).unwrap_err(), Errno::INVAL);
        assert_eq!(inodes.open(sub.number, false).unwrap_err(), Errno::ISDIR);
        assert_eq!(inodes.open(ROOT, false).unwrap_err(), Errno::ISDIR);
        assert_eq!(inodes.open(1 << 40, false).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn the_descriptor_for_io_is_opened_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"").unwrap();
        let inodes = Inodes::new(dir.path(), 2, false).unwrap();
        let (file, _) = inodes.remember(path_fd(&dir.path().join("a"))).unwrap();
        let first = inodes.open(file.number, false).unwrap();
        let second = inodes.open(file.number, true).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn one_file_too_many_is_refused_and_those_known_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        paths.iter().for_each(|path| std::fs::write(path, b"").unwrap());
        let inodes = Inodes::new(dir.path(), 2, false).unwrap();
        let (first, _) = inodes.remember(path_fd(&paths[0])).unwrap();
        inodes.remember(path_fd(&paths[1])).unwrap();
        assert_eq!(inodes.remember(path_fd(&paths[2])).unwrap_err(), Errno::NFILE);
        inodes.remember(path_fd(&paths[0])).unwrap();
        inodes.forget(first.number, 2);
        assert!(inodes.remember(path_fd(&paths[2])).is_ok());
    }

    #[test]
    fn the_root_is_number_one_and_is_never_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let inodes = Inodes::new(dir.path(), 2, false).unwrap();
        let (root, stat) = inodes.remember(path_fd(dir.path())).unwrap();
        assert_eq!(root.number, 1);
        assert_eq!(inodes.shown(stat.st_ino), 1);
        assert_eq!(inodes.shown(stat.st_ino + 1), stat.st_ino + 1);
        inodes.forget(1, 1000);
        assert!(inodes.get(1).is_ok());
    }
}
