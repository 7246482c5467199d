//! Memory that two processes share, and mappings of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// A memfd of a fixed size: neither side can cut it short under the other.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    bytes: usize,
}

impl SharedMemory {
    /// Zeroed memory.
    pub fn create(name: &str, bytes: usize) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self { fd, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Maps it to read and write.
    pub fn map_writable(&self) -> io::Result<Mapping> {
        Mapping::new(&self.fd, self.bytes, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps it to read.
    pub fn map_readable(&self) -> io::Result<Mapping> {
        Mapping::new(&self.fd, self.bytes, ProtFlags::READ)
    }
}

/// A descriptor of the same file through which nobody can write.
pub fn read_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A shared mapping of a whole file; unmapped on drop, and not there in a forked child.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain memory with no tie to the thread that mapped it; a Mapping only gives out its address.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps what another process sent, to read only. Its size is the file's, which must be at least `bytes`.
    ///
    /// Errors: a file that is shorter: reading beyond its end would end the process.
    pub fn of_sent(fd: impl AsFd, bytes: usize) -> io::Result<Self> {
        Self::checked(fd, bytes, ProtFlags::READ)
    }

    /// The same, to read and write.
    pub fn of_sent_writable(fd: impl AsFd, bytes: usize) -> io::Result<Self> {
        Self::checked(fd, bytes, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn checked(fd: impl AsFd, bytes: usize, protection: ProtFlags) -> io::Result<Self> {
        let has = rustix::fs::fstat(&fd)?.st_size as usize;
        if has < bytes || bytes == 0 {
            return Err(io::Error::other(format!("expected a file of at least {bytes} bytes, got {has}")));
        }
        Self::new(fd, bytes, protection)
    }

    fn new(fd: impl AsFd, bytes: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; it replaces nothing.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0)? };
        let mapping =
            Self { base: NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))?, bytes };
        // A forked child is another process, with a session of its own.
        // SAFETY: the range is the mapping just made, and the advice changes no bytes.
        unsafe { rustix::mm::madvise(base, bytes, rustix::mm::Advice::LinuxDontFork)? };
        Ok(mapping)
    }

    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of `bytes` bytes from `offset` on. None: they do not lie within it.
    pub fn at(&self, offset: u64, bytes: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(bytes)?;
        // SAFETY: within the mapping.
        (end <= self.bytes as u64).then(|| unsafe { self.base.add(offset as usize) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by Mapping::new with this size; whoever used its addresses borrowed or owned a share of self.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
