//! Names: looking up, making, moving and removing them, in the backing and under `3fs-virt`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use fuser::{FileAttr, FileType, Request};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chmodat, chownat, linkat, mkdirat, mknodat, openat2,
    readlinkat, renameat, symlinkat, unlinkat,
};
use rustix::io::{Errno, Result};

use super::inodes::Inode;
use super::owners::process_of;
use super::virt::{Virtual, is_virt_name, submit_of};
use super::{Filesystem3fs, Node, attr};
use crate::service::Owner;

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 255;

impl Filesystem3fs {
    pub(super) fn look_up(&self, request: &Request, parent: u64, name: &OsStr) -> Result<FileAttr> {
        if is_virt_name(parent, name) {
            return self.view(request).attr(Virtual::Dir);
        }
        match self.node(parent)? {
            Node::Virtual(dir) => self.view(request).lookup(dir, name),
            Node::Backing(dir) => self.remember(open_path(&dir, name)?),
        }
    }

    /// Counts one more lookup of the file and shows it.
    pub(super) fn remember(&self, path_fd: OwnedFd) -> Result<FileAttr> {
        let (inode, stat) = self.inodes.remember(path_fd)?;
        Ok(self.shown(&inode, &stat))
    }

    pub(super) fn shown(&self, inode: &Inode, stat: &Stat) -> FileAttr {
        attr::of_backing(inode.number, inode.kind, stat, self.chunk_bytes)
    }

    pub(super) fn make_dir(&self, request: &Request, parent: u64, name: &OsStr, mode: u32) -> Result<FileAttr> {
        let parent = self.dir_for_change(parent, name)?;
        mkdirat(&parent, name, Mode::from_raw_mode(mode & 0o7777))?;
        self.adopt(request, &parent, name, Some(mode))
    }

    /// Makes a regular file. Errors: ENOSYS for any other kind, as the real daemon says.
    pub(super) fn make_node(&self, request: &Request, parent: u64, name: &OsStr, mode: u32) -> Result<FileAttr> {
        let parent = self.dir_for_change(parent, name)?;
        if attr::kind_of(mode) != Some(FileType::RegularFile) {
            return Err(Errno::NOSYS);
        }
        mknodat(&parent, name, rustix::fs::FileType::RegularFile, Mode::from_raw_mode(mode & 0o7777), 0)?;
        self.adopt(request, &parent, name, Some(mode))
    }

    /// A symbolic link: an iov or a ring in `3fs-virt/iovs`, an ordinary one elsewhere.
    pub(super) fn make_link(&self, request: &Request, parent: u64, name: &OsStr, target: &Path) -> Result<FileAttr> {
        if Virtual::of(parent) == Some(Virtual::Iovs) {
            if submit_of(name).is_some() {
                return Err(Errno::EXIST);
            }
            let owner = Owner { uid: request.uid(), gid: request.gid(), pid: process_of(request.pid()) };
            let link = self.service.link(name.to_str().ok_or(Errno::INVAL)?, target, owner)?;
            return Ok(self.view(request).link_attr(&link));
        }
        let parent = self.dir_for_change(parent, name)?;
        symlinkat(target, &parent, name)?;
        self.adopt(request, &parent, name, None)
    }

    pub(super) fn make_hard_link(&self, number: u64, parent: u64, name: &OsStr) -> Result<FileAttr> {
        let Node::Backing(inode) = self.node(number)? else { return Err(Errno::PERM) };
        let parent = self.dir_for_change(parent, name)?;
        linkat(CWD, inode.magic_path(), &parent, name, AtFlags::SYMLINK_FOLLOW)?;
        self.remember(open_path(&parent, name)?)
    }

    pub(super) fn remove_file(&self, request: &Request, parent: u64, name: &OsStr) -> Result<()> {
        if Virtual::of(parent) == Some(Virtual::Iovs) {
            if submit_of(name).is_some() {
                return Err(Errno::PERM);
            }
            return self.service.unlink(name.to_str().ok_or(Errno::NOENT)?, request.uid());
        }
        unlinkat(self.dir_for_change(parent, name)?, name, AtFlags::empty())
    }

    pub(super) fn remove_dir(&self, parent: u64, name: &OsStr) -> Result<()> {
        unlinkat(self.dir_for_change(parent, name)?, name, AtFlags::REMOVEDIR)
    }

    pub(super) fn move_name(&self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<()> {
        let (from_dir, to_dir) = (self.dir_for_change(from.0, from.1)?, self.dir_for_change(to.0, to.1)?);
        renameat(&from_dir, from.1, &to_dir, to.1)
    }

    pub(super) fn read_link(&self, request: &Request, number: u64) -> Result<Vec<u8>> {
        match self.node(number)? {
            Node::Virtual(link) => Ok(self.view(request).target(link)?.into_os_string().into_encoded_bytes()),
            Node::Backing(inode) if inode.kind == FileType::Symlink => {
                Ok(readlinkat(&*inode, "", Vec::new())?.into_bytes())
            }
            Node::Backing(_) => Err(Errno::INVAL),
        }
    }

    /// The backing directory in which `name` may be made, moved or removed.
    ///
    /// Errors: EPERM under `3fs-virt` and for its own name, ENOENT, ENAMETOOLONG.
    pub(super) fn dir_for_change(&self, parent: u64, name: &OsStr) -> Result<Arc<Inode>> {
        check_name(name)?;
        match self.node(parent)? {
            Node::Virtual(_) => Err(Errno::PERM),
            Node::Backing(_) if is_virt_name(parent, name) => Err(Errno::PERM),
            Node::Backing(dir) => Ok(dir),
        }
    }

    /// Gives what was just made under `name` to the caller, with the mode that was asked for, and shows it.
    pub(super) fn adopt(&self, request: &Request, parent: &Inode, name: &OsStr, mode: Option<u32>) -> Result<FileAttr> {
        let path_fd = open_path(parent, name)?;
        let (inode, _) = self.inodes.remember(path_fd)?;
        let given = self.give(request, parent, &inode, mode).and_then(|()| inode.stat());
        if given.is_err() {
            self.inodes.forget(inode.number, 1);
        }
        Ok(self.shown(&inode, &given?))
    }

    /// The daemon made it as root and under its own umask: the owner is the caller, the mode what the kernel asked for.
    pub(super) fn give(&self, request: &Request, parent: &Inode, inode: &Inode, mode: Option<u32>) -> Result<()> {
        let parent_mode = parent.stat()?.st_mode;
        let inherits = parent_mode & Mode::SGID.as_raw_mode() != 0;
        let gid = (!inherits).then(|| Gid::from_raw(request.gid()));
        chownat(inode, "", Some(Uid::from_raw(request.uid())), gid, AtFlags::EMPTY_PATH)?;
        let Some(mut mode) = mode else { return Ok(()) };
        if inherits && inode.kind == FileType::Directory {
            mode |= Mode::SGID.as_raw_mode();
        }
        chmodat(CWD, inode.magic_path(), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
    }
}

/// An O_PATH descriptor of `name` in a backing directory, whatever it is.
///
/// Errors: EXDEV where another filesystem is mounted: its inode numbers would mix with the backing's.
pub(super) fn open_path(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    check_name(name)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)
}

/// One plain name. Errors: EINVAL, ENAMETOOLONG.
pub(super) fn check_name(name: &OsStr) -> Result<()> {
    let bytes = name.as_encoded_bytes();
    if bytes.len() > NAME_BYTES_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let plain = !bytes.is_empty() && name != "." && name != ".." && !bytes.contains(&b'/') && !bytes.contains(&0);
    if plain { Ok(()) } else { Err(Errno::INVAL) }
}

/// May a caller use a file as `mask` says (4 read, 2 write, 1 search)? For what the kernel does not check for us.
pub(super) fn may(request: &Request, stat: &Stat, mask: u32) -> Result<()> {
    let shift = match () {
        () if request.uid() == 0 => return Ok(()),
        () if request.uid() == stat.st_uid => 6,
        () if request.gid() == stat.st_gid => 3,
        () => 0,
    };
    if stat.st_mode >> shift & mask == mask { Ok(()) } else { Err(Errno::ACCESS) }
}

#[cfg(test)]
mod tests {
    use foreword_usrbio::VIRT_DIR;

    use super::*;

    #[test]
    fn only_plain_names_pass() {
        let long = "x".repeat(256);
        for (name, errno) in [
            ("", Errno::INVAL),
            (".", Errno::INVAL),
            ("..", Errno::INVAL),
            ("a/b", Errno::INVAL),
            ("a\0", Errno::INVAL),
            (long.as_str(), Errno::NAMETOOLONG),
        ] {
            assert_eq!(check_name(OsStr::new(name)), Err(errno), "{name:?}");
        }
        for name in ["a", "...", VIRT_DIR, &long[1..]] {
            assert_eq!(check_name(OsStr::new(name)), Ok(()), "{name:?}");
        }
    }
}
