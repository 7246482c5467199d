//! What the protocol in Rust and the vendor's library do differently: rings, registered memory, registered files.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use foreword_usrbio::IovId;

use super::attachment::Attachment;
use super::library::{Library, WrappedIov};
use super::native;
use super::worker::Worker;

/// I/Os that the daemon takes as one job, at most. It completes a job as a whole and fails it as a whole, so that one
/// slow chunk holds up so many others, and no more; a 3FS reads and writes the chunks of one job side by side. A ring
/// tells it as a negative depth, with no timeout: fewer are taken at once, and nothing waits for a job to be full.
pub(super) const JOB_IOS_MAX: i32 = 16;

/// Who speaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientKind {
    /// This crate.
    Native,
    /// The vendor's `libhf3fs_api_shared.so` at this path.
    Library(PathBuf),
}

/// A client, ready to make rings.
#[derive(Clone)]
pub(super) enum Client {
    Native,
    Library(Arc<Library>),
}

impl Client {
    /// Loads what has to be loaded. Errors name the file or the symbol that is missing.
    pub(super) fn open(kind: &ClientKind) -> io::Result<Self> {
        match kind {
            ClientKind::Native => Ok(Self::Native),
            ClientKind::Library(path) => Library::load(path).map(|library| Self::Library(Arc::new(library))),
        }
    }

    /// A new ring for so many I/Os at once. On the registrar only.
    pub(super) fn ring(&self, attachment: &Arc<Attachment>, for_read: bool, entries: u32) -> io::Result<Box<dyn Port>> {
        match self {
            Self::Native => Ok(Box::new(native::NativeRing::make(attachment, for_read, entries)?)),
            Self::Library(library) => Ok(Box::new(library.ring(attachment, for_read, entries)?)),
        }
    }

    /// What I/Os name a linked region with.
    pub(super) fn wrap(&self, attachment: &Attachment, id: IovId, base: usize, bytes: u64) -> io::Result<RegionPass> {
        let wrapped = match self {
            Self::Native => None,
            Self::Library(library) => Some(library.wrap(attachment, id, base, bytes)?),
        };
        Ok(RegionPass { id, wrapped })
    }

    /// Registers an open file; it is deregistered and closed on `closer` when the last holder drops it.
    pub(super) fn register(&self, fd: OwnedFd, closer: &Arc<Worker>) -> io::Result<RegisteredFile> {
        let ino = native::inode_number(&fd)?;
        if let Self::Library(library) = self {
            library.register(&fd)?;
        }
        Ok(RegisteredFile { fd: Some(fd), ino, client: self.clone(), closer: closer.clone() })
    }
}

/// What an I/O names its memory with.
pub(super) struct RegionPass {
    pub(super) id: IovId,
    /// The vendor's struct, where its library is used.
    pub(super) wrapped: Option<WrappedIov>,
}

/// An open file that I/Os may name.
pub(super) struct RegisteredFile {
    /// Taken on drop.
    fd: Option<OwnedFd>,
    pub(super) ino: u64,
    client: Client,
    closer: Arc<Worker>,
}

impl RegisteredFile {
    pub(super) fn fd(&self) -> &OwnedFd {
        self.fd.as_ref().expect("taken on drop only")
    }
}

impl Drop for RegisteredFile {
    fn drop(&mut self) {
        // Closing asks the daemon and waits for it: not here, where an I/O may have been the last holder.
        let Some(fd) = self.fd.take() else { return };
        let client = self.client.clone();
        self.closer.post(move || {
            if let Client::Library(library) = client {
                library.deregister(&fd);
            }
            drop(fd);
        });
    }
}

/// One I/O as a ring takes it. The direction is the ring's.
pub(super) struct Prepared<'a> {
    pub(super) userdata: u64,
    pub(super) region: &'a RegionPass,
    /// Where in the region.
    pub(super) region_offset: u64,
    pub(super) file: &'a RegisteredFile,
    pub(super) file_offset: u64,
    pub(super) len: u64,
}

/// Why a ring did not take an I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// No room until the daemon has gone on.
    Full,
    Errno(i32),
}

/// What a ring says of a finished I/O. Not checked yet: it may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reaped {
    pub(super) userdata: u64,
    /// Bytes moved, or a negated errno.
    pub(super) result: i64,
}

/// The client's end of one ring. Dropping it takes the ring's link away; an I/O under way goes on.
pub(super) trait Port: Send + Sync {
    /// Puts an I/O into the ring; the daemon need not look before [`Self::submit`]. One caller at a time.
    fn prepare(&self, io: &Prepared<'_>) -> Result<(), Refused>;
    /// Wakes the daemon.
    fn submit(&self);
    /// Takes what is finished, waiting so long for it at most. One caller at a time, beside others that prepare.
    fn reap(&self, timeout: Duration, finished: &mut Vec<Reaped>);
    /// Lets a reap that waits end early, if that can be done.
    fn wake(&self);
}
