//! Directories: opening, listing and closing them. A handle of `3fs-virt/iovs` tells that its process lives.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use foreword_usrbio::VIRT_DIR;
use fuser::{FileHandle, FileType, INodeNo, ReplyDirectory, Request};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, OFlags, RawDir, SeekFrom, seek, statat};
use rustix::io::{Errno, Result};

use super::attr::kind_of;
use super::handles::OpenDir;
use super::inodes::ROOT;
use super::owners::process_of;
use super::virt::Virtual;
use super::{Filesystem3fs, Node};

/// Bytes of names that are read from the backing at once.
const LISTING_BYTES: usize = 16 << 10;
/// Where a listing of the root goes on after `3fs-virt`, which it begins with. No filesystem has this position: ext4's
/// last one is one greater, and others count from 0.
const AFTER_VIRT: u64 = i64::MAX as u64 - 1;

impl Filesystem3fs {
    pub(super) fn open_dir(&self, request: &Request, number: u64) -> Result<FileHandle> {
        match self.node(number)? {
            Node::Backing(inode) => {
                let fd = inode.reopen(OFlags::RDONLY | OFlags::DIRECTORY)?;
                Ok(self.dirs.insert(OpenDir::Backing(Mutex::new(fd))))
            }
            Node::Virtual(dir) if dir.kind() == FileType::Directory => {
                let process = if dir == Virtual::Iovs { process_of(request.pid()) } else { 0 };
                if process != 0 {
                    self.owners.opened(process);
                }
                Ok(self.dirs.insert(OpenDir::Virtual { dir, process, entries: Mutex::default() }))
            }
            Node::Virtual(_) => Err(Errno::NOTDIR),
        }
    }

    /// Closes a handle. The last one of `3fs-virt/iovs` of a process takes its links and rings with it: the process has
    /// ended, or has said that it is done.
    pub(super) fn close_dir(&self, handle: FileHandle) {
        let Some(dir) = self.dirs.remove(handle) else { return };
        if let OpenDir::Virtual { process, .. } = &*dir
            && *process != 0
            && self.owners.released(*process)
        {
            tracing::debug!(process, "has no handle of iovs any more");
            self.service.owner_gone(*process);
        }
    }

    /// Adds entries from `offset` on until the reply is full.
    pub(super) fn list_dir(
        &self,
        request: &Request,
        number: u64,
        handle: FileHandle,
        offset: u64,
        reply: &mut ReplyDirectory,
    ) -> Result<()> {
        match &*self.dirs.get(handle)? {
            OpenDir::Backing(fd) => self.list_backing(number, &fd.lock(), offset, reply),
            OpenDir::Virtual { dir, entries, .. } => {
                let mut entries = entries.lock();
                if offset == 0 {
                    *entries = self.view(request).list(*dir)?;
                }
                let rest = entries.iter().enumerate().skip(usize::try_from(offset).unwrap_or(usize::MAX));
                for (index, entry) in rest {
                    if reply.add(INodeNo(entry.number), index as u64 + 1, entry.kind, &entry.name) {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    fn list_backing(&self, number: u64, fd: &OwnedFd, offset: u64, reply: &mut ReplyDirectory) -> Result<()> {
        let is_root = number == ROOT;
        if is_root && offset == 0 {
            let dir = Virtual::Dir;
            if reply.add(INodeNo(dir.number()), AFTER_VIRT, dir.kind(), VIRT_DIR) {
                return Ok(());
            }
        }
        seek(fd, SeekFrom::Start(if offset == AFTER_VIRT { 0 } else { offset }))?;
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut names = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = names.next() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            // A directory of that name in the backing is hidden behind the virtual one.
            if is_root && name == VIRT_DIR {
                continue;
            }
            let kind = match entry.file_type() {
                // Some filesystems do not say in the listing.
                rustix::fs::FileType::Unknown => match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => kind_of(stat.st_mode),
                    Err(_) => None,
                },
                known => kind_of(known.as_raw_mode()),
            };
            let Some(kind) = kind else { continue };
            let number = self.inodes.shown(entry.ino());
            if reply.add(INodeNo(number), entry.next_entry_cookie(), kind, name) {
                break;
            }
        }
        Ok(())
    }
}
