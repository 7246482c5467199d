//! Files: opening, reading, writing, and their attributes.

use std::ffi::OsStr;

use fuser::{FileAttr, FileHandle, FileType, Request, TimeOrNow};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, Timestamps, Uid, chmodat, chownat, fallocate, fdatasync, fsync,
    ftruncate, openat, utimensat,
};
use rustix::io::{Errno, Result, pread, pwrite};

use super::handles::{OpenDir, OpenFile};
use super::names::{may, open_path};
use super::virt::Virtual;
use super::{Filesystem3fs, Node, attr};

/// What of a caller's open flags the backing is opened with. O_DIRECT is not: a request's buffer is not aligned.
const KEPT_FLAGS: OFlags = OFlags::APPEND.union(OFlags::DSYNC).union(OFlags::SYNC).union(OFlags::NOATIME);

/// What a setattr changes.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) atime: Option<TimeOrNow>,
    pub(super) mtime: Option<TimeOrNow>,
}

impl Filesystem3fs {
    pub(super) fn attributes(&self, request: &Request, number: u64) -> Result<FileAttr> {
        match self.node(number)? {
            Node::Virtual(inode) => self.view(request).attr(inode),
            Node::Backing(inode) => Ok(self.shown(&inode, &inode.stat()?)),
        }
    }

    /// Changes a backing file. Errors: EPERM for a virtual one.
    pub(super) fn change(
        &self,
        request: &Request,
        number: u64,
        handle: Option<FileHandle>,
        change: Change,
    ) -> Result<FileAttr> {
        let Node::Backing(inode) = self.node(number)? else { return Err(Errno::PERM) };
        if let Some(size) = change.size {
            let open = handle.and_then(|handle| self.files.get(handle).ok());
            match open.as_ref().map(|file| file.writable_fd()) {
                Some(Ok(fd)) => ftruncate(fd, size)?,
                _ => ftruncate(inode.reopen(OFlags::WRONLY)?, size)?,
            }
        }
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            chownat(&*inode, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        // After the owner: a change of that takes the set-user-id bit away.
        if let Some(mode) = change.mode {
            chmodat(CWD, inode.magic_path(), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: attr::timespec(change.atime),
                last_modification: attr::timespec(change.mtime),
            };
            utimensat(&*inode, "", &times, AtFlags::EMPTY_PATH)?;
        }
        self.attributes(request, number)
    }

    pub(super) fn open_file(&self, number: u64, flags: i32) -> Result<FileHandle> {
        match self.node(number)? {
            Node::Virtual(Virtual::Counters) => Ok(self.files.insert(OpenFile::Text(self.counters_text()))),
            Node::Virtual(_) => Err(Errno::INVAL),
            Node::Backing(inode) => {
                if inode.kind == FileType::Directory {
                    return Err(Errno::ISDIR);
                }
                let (flags, writable) = backing_flags(flags);
                Ok(self.files.insert(OpenFile::Backing { fd: inode.reopen(flags)?, writable }))
            }
        }
    }

    fn counters_text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(&self.service.counters()).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Creates and opens a file; opens it where another caller was faster and O_EXCL was not asked for.
    pub(super) fn create_file(
        &self,
        request: &Request,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(FileAttr, FileHandle)> {
        let parent = self.dir_for_change(parent, name)?;
        let (kept, writable) = backing_flags(flags);
        let exclusive = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&parent, name, kept | exclusive, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                let attr = self.adopt(request, &parent, name, Some(mode))?;
                Ok((attr, self.files.insert(OpenFile::Backing { fd, writable })))
            }
            Err(Errno::EXIST) if OFlags::from_bits_retain(flags as u32).contains(OFlags::EXCL) => Err(Errno::EXIST),
            Err(Errno::EXIST) => {
                let attr = self.remember(open_path(&parent, name)?)?;
                let opened = self.open_existing(request, &attr, flags);
                if opened.is_err() {
                    self.inodes.forget(attr.ino.0, 1);
                }
                Ok((attr, opened?))
            }
            Err(error) => Err(error),
        }
    }

    /// The kernel took the file for new and has not asked whether the caller may open it.
    fn open_existing(&self, request: &Request, attr: &FileAttr, flags: i32) -> Result<FileHandle> {
        let inode = self.inodes.get(attr.ino.0)?;
        let (kept, writable) = backing_flags(flags);
        let reads = !kept.contains(OFlags::WRONLY);
        may(request, &inode.stat()?, if writable { 2 } else { 0 } | if reads { 4 } else { 0 })?;
        if OFlags::from_bits_retain(flags as u32).contains(OFlags::TRUNC) && writable {
            ftruncate(inode.reopen(OFlags::WRONLY)?, 0)?;
        }
        self.open_file(attr.ino.0, flags)
    }

    /// Fills `buffer` with up to `bytes` from `offset` on; fewer only at the file's end.
    pub(super) fn read_file(&self, handle: FileHandle, offset: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        match &*self.files.get(handle)? {
            OpenFile::Text(text) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                buffer.extend_from_slice(&text[from..text.len().min(from.saturating_add(bytes))]);
            }
            OpenFile::Backing { fd, .. } => {
                buffer.reserve(bytes);
                while buffer.len() < bytes {
                    let at = offset + buffer.len() as u64;
                    match rustix::io::retry_on_intr(|| pread(fd, spare_capacity(buffer), at)) {
                        Ok(0) => break,
                        Ok(_) => {}
                        Err(_) if !buffer.is_empty() => break,
                        Err(error) => return Err(error),
                    }
                }
                // The allocation may be greater than what was asked for.
                buffer.truncate(bytes);
            }
        }
        Ok(())
    }

    /// Writes all of `data`; the bytes written, fewer only after an error in the middle.
    pub(super) fn write_file(&self, handle: FileHandle, offset: u64, data: &[u8]) -> Result<u32> {
        let file = self.files.get(handle)?;
        let fd = file.writable_fd()?;
        let mut written = 0;
        while written < data.len() {
            match rustix::io::retry_on_intr(|| pwrite(fd, &data[written..], offset + written as u64)) {
                Ok(0) => break,
                Ok(bytes) => written += bytes,
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        u32::try_from(written).map_err(|_| Errno::INVAL)
    }

    pub(super) fn sync_file(&self, handle: FileHandle, data_only: bool) -> Result<()> {
        let file = self.files.get(handle)?;
        match file.fd() {
            Ok(fd) if data_only => fdatasync(fd),
            Ok(fd) => fsync(fd),
            Err(_) => Ok(()),
        }
    }

    pub(super) fn sync_dir(&self, handle: FileHandle) -> Result<()> {
        match &*self.dirs.get(handle)? {
            OpenDir::Backing(fd) => fsync(&*fd.lock()),
            OpenDir::Virtual { .. } => Ok(()),
        }
    }

    pub(super) fn allocate(&self, handle: FileHandle, offset: u64, bytes: u64, mode: i32) -> Result<()> {
        let file = self.files.get(handle)?;
        fallocate(file.writable_fd()?, FallocateFlags::from_bits_retain(mode as u32), offset, bytes)
    }
}

/// The flags to open the backing with, and whether they let write. O_TRUNC is a setattr of its own.
fn backing_flags(flags: i32) -> (OFlags, bool) {
    let flags = OFlags::from_bits_retain(flags as u32);
    let access = flags & OFlags::RWMODE;
    ((flags & KEPT_FLAGS) | access, access != OFlags::RDONLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_would_change_the_backings_io_are_left_out() {
        let asked = OFlags::RDWR | OFlags::DIRECT | OFlags::TRUNC | OFlags::CREATE | OFlags::APPEND;
        assert_eq!(backing_flags(asked.bits() as i32), (OFlags::RDWR | OFlags::APPEND, true));
        assert_eq!(backing_flags(0), (OFlags::RDONLY, false));
        assert_eq!(backing_flags(OFlags::WRONLY.bits() as i32), (OFlags::WRONLY, true));
    }
}
