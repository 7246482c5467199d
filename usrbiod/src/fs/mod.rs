//! The filesystem: a backing directory shown as it is, and `3fs-virt` beside it.
//!
//! This file takes the kernel's requests apart and sends the answers; the work is done in the modules below by calls
//! that return a result. The kernel checks permissions (`default_permissions`); the daemon acts as root.

mod attr;
mod dirs;
mod files;
mod handles;
mod inodes;
mod ioctl;
mod names;
mod owners;
mod virt;

pub use virt::COUNTERS_FILE;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use foreword_usrbio::MOUNT_NAME_BYTES;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno as FuseErrno, FileAttr, FileHandle, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use rustix::fs::fstatvfs;
use rustix::io::{Errno, Result};

use self::attr::NOT_CACHED;
use self::files::Change;
use self::handles::{Handles, OpenDir, OpenFile};
use self::inodes::{Inode, Inodes, ROOT};
use self::owners::Owners;
use self::virt::{View, Virtual};
use crate::service::{BackingFiles, Service};

/// Requests of readahead and the like that the kernel may have under way.
const BACKGROUND_MAX: u16 = 64;
/// Of four descriptors three may hold files that the kernel knows; the fourth is for opening them.
const KNOWN_SHARE: u64 = 3;
const OPEN_FILES_SHARE: u64 = 4;
/// Posix I/O goes around the page cache, so that it and USRBIO see the same bytes. Closing sends nothing.
const FILE_FLAGS: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_NOFLUSH).union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
const GENERATION: Generation = Generation(0);

thread_local! {
    /// What a read of this thread is filled into, kept from one to the next. At most what the kernel asks for at once.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A backing directory that is open and can be mounted.
#[derive(Debug, Clone)]
pub(crate) struct Backing(Arc<Inodes>);

impl Backing {
    /// Opens the directory, for a process that may have `open_files` descriptors. `direct`: USRBIO's I/O goes around
    /// the backing's page cache.
    pub(crate) fn open(dir: &Path, open_files: u64, direct: bool) -> io::Result<Self> {
        let known_max = usize::try_from(open_files / OPEN_FILES_SHARE * KNOWN_SHARE).unwrap_or(usize::MAX);
        Ok(Self(Arc::new(Inodes::new(dir, known_max, direct)?)))
    }

    /// The files of it, for the service.
    pub(crate) fn files(&self) -> Arc<dyn BackingFiles> {
        Arc::clone(&self.0) as Arc<dyn BackingFiles>
    }
}

/// What the kernel talks to.
pub(crate) struct Filesystem3fs {
    inodes: Arc<Inodes>,
    service: Arc<Service>,
    files: Handles<OpenFile>,
    dirs: Handles<OpenDir>,
    owners: Owners,
    chunk_bytes: u32,
    mount_name: [u8; MOUNT_NAME_BYTES],
    path_offset: u32,
}

/// What a number stands for.
enum Node {
    Virtual(Virtual),
    Backing(Arc<Inode>),
}

impl Filesystem3fs {
    /// `cluster`: at most 31 bytes. `mount`: canonical.
    pub(crate) fn new(backing: &Backing, service: Arc<Service>, chunk_bytes: u32, cluster: &str, mount: &Path) -> Self {
        let mut mount_name = [0; MOUNT_NAME_BYTES];
        mount_name[..cluster.len()].copy_from_slice(cluster.as_bytes());
        Self {
            inodes: Arc::clone(&backing.0),
            service,
            files: Handles::default(),
            dirs: Handles::default(),
            owners: Owners::default(),
            chunk_bytes,
            mount_name,
            path_offset: u32::try_from(mount.as_os_str().len()).unwrap_or(u32::MAX),
        }
    }

    fn node(&self, number: u64) -> Result<Node> {
        match Virtual::of(number) {
            Some(inode) => Ok(Node::Virtual(inode)),
            None => self.inodes.get(number).map(Node::Backing),
        }
    }

    fn view(&self, request: &Request) -> View<'_> {
        View { service: &self.service, uid: request.uid(), chunk_bytes: self.chunk_bytes }
    }
}

fn fuse(errno: Errno) -> FuseErrno {
    FuseErrno::from_i32(errno.raw_os_error())
}

fn answer_entry(reply: ReplyEntry, result: Result<FileAttr>) {
    match result {
        Ok(attr) => reply.entry(&NOT_CACHED, &attr, GENERATION),
        Err(errno) => reply.error(fuse(errno)),
    }
}

fn answer_attr(reply: ReplyAttr, result: Result<FileAttr>) {
    match result {
        Ok(attr) => reply.attr(&NOT_CACHED, &attr),
        Err(errno) => reply.error(fuse(errno)),
    }
}

fn answer_empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(fuse(errno)),
    }
}

fn answer_open(reply: ReplyOpen, result: Result<FileHandle>, flags: FopenFlags) {
    match result {
        Ok(handle) => reply.opened(handle, flags),
        Err(errno) => reply.error(fuse(errno)),
    }
}

impl fuser::Filesystem for Filesystem3fs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS | InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_HAS_IOCTL_DIR;
        // An old kernel does without those it has not; none of them is needed.
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.look_up(request, parent.0, name));
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        if number.0 != ROOT && Virtual::of(number.0).is_none() {
            self.inodes.forget(number.0, lookups);
        }
    }

    fn getattr(&self, request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        answer_attr(reply, self.attributes(request, number.0));
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, uid, gid, size, atime, mtime };
        answer_attr(reply, self.change(request, number.0, handle, change));
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        match self.read_link(request, number.0) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        answer_entry(reply, self.make_node(request, parent.0, name, mode));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        answer_entry(reply, self.make_dir(request, parent.0, name, mode));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(reply, self.remove_file(request, parent.0, name));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(reply, self.remove_dir(parent.0, name));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        answer_entry(reply, self.make_link(request, parent.0, name, target));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // The real daemon has no renames with flags either; the kernel makes EINVAL of it.
        let known = if flags.is_empty() { Ok(()) } else { Err(Errno::NOSYS) };
        answer_empty(reply, known.and_then(|()| self.move_name((parent.0, name), (new_parent.0, new_name))));
    }

    fn link(&self, _request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.make_hard_link(number.0, parent.0, name));
    }

    fn open(&self, _request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer_open(reply, self.open_file(number.0, flags.0), FILE_FLAGS);
    }

    fn read(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| match self.read_file(handle, offset, bytes as usize, buffer) {
            Ok(()) => reply.data(buffer),
            Err(errno) => reply.error(fuse(errno)),
        });
    }

    fn write(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_file(handle, offset, data) {
            Ok(bytes) => reply.written(bytes),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn flush(&self, _request: &Request, _number: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        drop(self.files.remove(handle));
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _number: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        answer_empty(reply, self.sync_file(handle, data_only));
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        answer_open(reply, self.open_dir(request, number.0), FopenFlags::empty());
    }

    fn readdir(&self, request: &Request, number: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.list_dir(request, number.0, handle, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.close_dir(handle);
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _number: INodeNo, handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        answer_empty(reply, self.sync_dir(handle));
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        match self.inodes.get(ROOT).and_then(|root| fstatvfs(&*root)) {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                u32::try_from(stat.f_bsize).unwrap_or(u32::MAX),
                u32::try_from(stat.f_namemax).unwrap_or(u32::MAX),
                u32::try_from(stat.f_frsize).unwrap_or(u32::MAX),
            ),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.create_file(request, parent.0, name, mode, flags) {
            Ok((attr, handle)) => reply.created(&NOT_CACHED, &attr, GENERATION, handle, FILE_FLAGS),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn ioctl(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        flags: IoctlFlags,
        command: u32,
        argument: &[u8],
        _answer_bytes: u32,
        reply: ReplyIoctl,
    ) {
        // A 32-bit caller has other sizes: the real daemon has no answer for it either.
        if flags.contains(IoctlFlags::FUSE_IOCTL_COMPAT) {
            return reply.error(FuseErrno::ENOSYS);
        }
        match self.control(request, number.0, handle, command, argument) {
            Ok(answer) => reply.ioctl(0, &answer),
            Err(errno) => reply.error(fuse(errno)),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer_empty(reply, self.allocate(handle, offset, bytes, mode));
    }

    // What follows the kernel does by itself, or says that there is none of it, once it has heard ENOSYS.

    fn setxattr(
        &self,
        _request: &Request,
        _number: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(FuseErrno::ENOSYS);
    }

    fn getxattr(&self, _request: &Request, _number: INodeNo, _name: &OsStr, _bytes: u32, reply: ReplyXattr) {
        reply.error(FuseErrno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _number: INodeNo, _bytes: u32, reply: ReplyXattr) {
        reply.error(FuseErrno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _number: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(FuseErrno::ENOSYS);
    }

    fn lseek(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(FuseErrno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _number_in: INodeNo,
        _handle_in: FileHandle,
        _offset_in: u64,
        _number_out: INodeNo,
        _handle_out: FileHandle,
        _offset_out: u64,
        _bytes: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(FuseErrno::ENOSYS);
    }
}
