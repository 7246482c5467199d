//! What is open: handles of files and of directories, by the number the kernel gives back with each call.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fuser::FileHandle;
use parking_lot::{Mutex, RwLock};
use rustix::io::{Errno, Result};

use super::virt::{Entry, Virtual};

/// Open things by handle. Bounded by the descriptors the callers may have.
#[derive(Debug)]
pub(super) struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        // Never 0: that is what a call without a handle carries.
        Self { next: AtomicU64::new(1), open: RwLock::default() }
    }
}

impl<T> Handles<T> {
    pub(super) fn insert(&self, thing: T) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(handle, Arc::new(thing));
        FileHandle(handle)
    }

    /// Errors: EBADF for a handle that is not open.
    pub(super) fn get(&self, handle: FileHandle) -> Result<Arc<T>> {
        self.open.read().get(&handle.0).cloned().ok_or(Errno::BADF)
    }

    pub(super) fn remove(&self, handle: FileHandle) -> Option<Arc<T>> {
        self.open.write().remove(&handle.0)
    }
}

/// An open file.
#[derive(Debug)]
pub(super) enum OpenFile {
    Backing {
        fd: OwnedFd,
        writable: bool,
    },
    /// The counters as they were at open.
    Text(Vec<u8>),
}

impl OpenFile {
    /// Errors: EBADF for a virtual file.
    pub(super) fn fd(&self) -> Result<&OwnedFd> {
        match self {
            Self::Backing { fd, .. } => Ok(fd),
            Self::Text(_) => Err(Errno::BADF),
        }
    }

    /// Errors: EBADF for a virtual file and for one that was not opened for writing.
    pub(super) fn writable_fd(&self) -> Result<&OwnedFd> {
        match self {
            Self::Backing { fd, writable: true } => Ok(fd),
            _ => Err(Errno::BADF),
        }
    }
}

/// An open directory.
#[derive(Debug)]
pub(super) enum OpenDir {
    /// Its descriptor has one position: a listing moves it, so only one at a time.
    Backing(Mutex<OwnedFd>),
    Virtual {
        dir: Virtual,
        /// The process that opened it; 0 if it is not known.
        process: u32,
        /// As listed from the beginning; made anew whenever a listing starts over.
        entries: Mutex<Vec<Entry>>,
    },
}
