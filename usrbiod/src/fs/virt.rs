//! What is under `3fs-virt`: the numbers, modes and names of the virtual inodes, as a 3FS client expects them.
//!
//! Numbers are the vendor's (its IovTable and IoRing.h); `stand-in` is our own.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use foreword_usrbio::{IOVS_DIR, Priority, VIRT_DIR, submit_link};
use fuser::{FileAttr, FileType, INodeNo};
use rustix::io::{Errno, Result};

use super::inodes::ROOT;
use crate::service::{Link, Service};

/// Numbers from here on are virtual; no backing file may have one.
pub(super) const RESERVED_FROM: u64 = 0xffff_ffff_0000_0000;
/// The read-only file of the stand-in's counters, `3fs-virt/stand-in`.
pub const COUNTERS_FILE: &str = "stand-in";

const VIRT: u64 = 0xffff_ffff_ffff_fffe;
const COUNTERS: u64 = 0xffff_ffff_ffff_fff0;
const IOVS: u64 = 0xffff_ffff_8000_0000;
/// A link's number is this minus its descriptor.
const LINKS: u64 = IOVS - 65_535;
/// Descriptors stop before the numbers leave the 32 bits below `IOVS`.
const DESCRIPTORS: u64 = LINKS - RESERVED_FROM;

/// The three submit semaphores, in the order of their numbers.
const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// One virtual inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Virtual {
    /// `3fs-virt`
    Dir,
    /// `3fs-virt/iovs`
    Iovs,
    /// `3fs-virt/stand-in`
    Counters,
    /// `3fs-virt/iovs/submit-ios…`: an index into `PRIORITIES`.
    Submit(usize),
    /// A link of a client, by its descriptor.
    Link(u32),
}

impl Virtual {
    /// The virtual inode of a number; None: the number belongs to a backing file.
    pub(super) fn of(number: u64) -> Option<Self> {
        match number {
            VIRT => Some(Self::Dir),
            IOVS => Some(Self::Iovs),
            COUNTERS => Some(Self::Counters),
            number if (IOVS - 3..IOVS).contains(&number) => Some(Self::Submit((IOVS - 1 - number) as usize)),
            number if (RESERVED_FROM..=LINKS).contains(&number) => Some(Self::Link((LINKS - number) as u32)),
            _ => None,
        }
    }

    pub(super) fn number(self) -> u64 {
        match self {
            Self::Dir => VIRT,
            Self::Iovs => IOVS,
            Self::Counters => COUNTERS,
            Self::Submit(index) => IOVS - 1 - index as u64,
            Self::Link(descriptor) => LINKS - u64::from(descriptor).min(DESCRIPTORS),
        }
    }

    pub(super) fn kind(self) -> FileType {
        match self {
            Self::Dir | Self::Iovs => FileType::Directory,
            Self::Counters => FileType::RegularFile,
            Self::Submit(_) | Self::Link(_) => FileType::Symlink,
        }
    }
}

/// Is this the name of `3fs-virt` in the root?
pub(super) fn is_virt_name(parent: u64, name: &OsStr) -> bool {
    parent == ROOT && name == VIRT_DIR
}

/// One name in a virtual directory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) kind: FileType,
    pub(super) name: String,
}

/// The virtual inodes as a user of the mount sees them. Links come from the service, which says whose they are.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) service: &'a Service,
    pub(super) uid: u32,
    pub(super) chunk_bytes: u32,
}

impl View<'_> {
    /// The inode called `name` in a virtual directory. Errors: ENOENT; EPERM for another user's link; ENOTDIR.
    pub(super) fn lookup(&self, parent: Virtual, name: &OsStr) -> Result<FileAttr> {
        match parent {
            Virtual::Dir if name == IOVS_DIR => self.attr(Virtual::Iovs),
            Virtual::Dir if name == COUNTERS_FILE => self.attr(Virtual::Counters),
            Virtual::Dir => Err(Errno::NOENT),
            Virtual::Iovs => match submit_of(name) {
                Some(submit) => self.attr(submit),
                None => {
                    let name = name.to_str().ok_or(Errno::NOENT)?;
                    Ok(self.link_attr(&self.service.lookup(name, self.uid)?))
                }
            },
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Errors: ENOENT for a link that is gone, EPERM for another user's.
    pub(super) fn attr(&self, inode: Virtual) -> Result<FileAttr> {
        let (mode, target_bytes) = match inode {
            Virtual::Dir => (0o555, 0),
            Virtual::Iovs => (0o777, 0),
            // Like a file of /proc it has no size: what it holds is made at open.
            Virtual::Counters => (0o444, 0),
            Virtual::Submit(index) => (0o666, self.service.submit_target(PRIORITIES[index]).as_os_str().len()),
            Virtual::Link(descriptor) => {
                return Ok(self.link_attr(&self.service.by_descriptor(descriptor, self.uid)?));
            }
        };
        Ok(self.filled(inode, mode, target_bytes, 0, 0))
    }

    /// Attributes of a client's link: mode 0400, owned by its maker.
    pub(super) fn link_attr(&self, link: &Link) -> FileAttr {
        let bytes = link.target.as_os_str().len();
        self.filled(Virtual::Link(link.descriptor), 0o400, bytes, link.owner.uid, link.owner.gid)
    }

    /// Where a virtual symbolic link points. Errors: EINVAL for what is none, ENOENT, EPERM.
    pub(super) fn target(&self, inode: Virtual) -> Result<PathBuf> {
        match inode {
            Virtual::Submit(index) => Ok(self.service.submit_target(PRIORITIES[index])),
            Virtual::Link(descriptor) => Ok(self.service.by_descriptor(descriptor, self.uid)?.target),
            _ => Err(Errno::INVAL),
        }
    }

    /// Everything a virtual directory holds, this user's links only. Errors: ENOTDIR.
    pub(super) fn list(&self, dir: Virtual) -> Result<Vec<Entry>> {
        let entry = |inode: Virtual, name: String| Entry { number: inode.number(), kind: inode.kind(), name };
        let parent = match dir {
            Virtual::Dir => Entry { number: ROOT, kind: FileType::Directory, name: "..".into() },
            _ => entry(Virtual::Dir, "..".into()),
        };
        let mut entries = vec![entry(dir, ".".into()), parent];
        match dir {
            Virtual::Dir => {
                entries.push(entry(Virtual::Iovs, IOVS_DIR.into()));
                entries.push(entry(Virtual::Counters, COUNTERS_FILE.into()));
            }
            Virtual::Iovs => {
                let submits = PRIORITIES.into_iter().enumerate();
                entries.extend(submits.map(|(index, priority)| entry(Virtual::Submit(index), submit_link(priority))));
                let links = self.service.list(self.uid).into_iter();
                entries.extend(links.map(|link| entry(Virtual::Link(link.descriptor), link.name)));
            }
            _ => return Err(Errno::NOTDIR),
        }
        Ok(entries)
    }

    fn filled(&self, inode: Virtual, mode: u16, target_bytes: usize, uid: u32, gid: u32) -> FileAttr {
        FileAttr {
            ino: INodeNo(inode.number()),
            size: target_bytes as u64,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: inode.kind(),
            perm: mode,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: self.chunk_bytes,
            flags: 0,
        }
    }
}

/// The submit link of that name.
pub(super) fn submit_of(name: &OsStr) -> Option<Virtual> {
    let index = PRIORITIES.into_iter().position(|priority| name == submit_link(priority).as_str())?;
    Some(Virtual::Submit(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_vendors() {
        assert_eq!(Virtual::Dir.number(), 0xffff_ffff_ffff_fffe);
        assert_eq!(Virtual::Iovs.number(), 0xffff_ffff_8000_0000);
        assert_eq!(submit_of(OsStr::new("submit-ios.ph")).unwrap().number(), 0xffff_ffff_7fff_ffff);
        assert_eq!(submit_of(OsStr::new("submit-ios")).unwrap().number(), 0xffff_ffff_7fff_fffe);
        assert_eq!(submit_of(OsStr::new("submit-ios.pl")).unwrap().number(), 0xffff_ffff_7fff_fffd);
        assert_eq!(Virtual::Link(0).number(), 0xffff_ffff_7fff_0001);
        assert_eq!(Virtual::Link(5).number(), 0xffff_ffff_7ffe_fffc);
    }

    #[test]
    fn a_number_leads_back_to_its_inode() {
        let all = [Virtual::Dir, Virtual::Iovs, Virtual::Counters, Virtual::Submit(0), Virtual::Submit(2)];
        for inode in all.into_iter().chain([0, 1, 65_536, 1 << 30].map(Virtual::Link)) {
            assert_eq!(Virtual::of(inode.number()), Some(inode));
        }
        for number in [0, 1, 2, RESERVED_FROM - 1, IOVS - 4, IOVS + 1] {
            assert_eq!(Virtual::of(number), None, "{number:#x}");
        }
    }
}
