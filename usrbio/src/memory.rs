//! Shared memory files in /dev/shm and their mappings.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::name::SHM_DIR;

/// A file in /dev/shm. One that was made here is unlinked on drop, unless that was done before.
#[derive(Debug)]
pub struct ShmFile {
    fd: OwnedFd,
    name: String,
    linked: bool,
}

impl ShmFile {
    /// Makes a file that was not there, of this size, for its owner and whoever `mode` allows (whatever the umask says).
    ///
    /// Errors: it exists; with `fallocate`, /dev/shm has no room for it.
    pub fn create(name: &str, bytes: u64, mode: u32, fallocate: bool) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path_of(name), flags, Mode::from_raw_mode(mode))?;
        let file = Self { fd, name: name.to_owned(), linked: true };
        rustix::fs::fchmod(&file.fd, Mode::from_raw_mode(mode))?;
        rustix::fs::ftruncate(&file.fd, bytes)?;
        if fallocate {
            rustix::fs::fallocate(&file.fd, FallocateFlags::empty(), 0, bytes)?;
        }
        Ok(file)
    }

    /// Opens a regular file that another made; it is never unlinked here.
    pub fn open(name: &str) -> io::Result<Self> {
        // Not blocking: the name may be a pipe's.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open(path_of(name), flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { fd, name: name.to_owned(), linked: false })
    }

    /// Its size now.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size as u64)
    }

    /// Its path, whether it is still there or not.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Takes its name away; the memory lives as long as a descriptor or a mapping does.
    pub fn unlink(&mut self) {
        if std::mem::take(&mut self.linked) {
            // Gone already, by whoever cleans up there: nothing to do.
            let _ = rustix::fs::unlink(path_of(&self.name));
        }
    }

    /// Maps its first `bytes` bytes, shared, to read and write.
    pub fn map(&self, bytes: usize) -> io::Result<Mapping> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; it replaces nothing.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, &self.fd, 0)? };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(Mapping { base, bytes })
    }
}

impl AsFd for ShmFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for ShmFile {
    fn drop(&mut self) {
        self.unlink();
    }
}

fn path_of(name: &str) -> PathBuf {
    PathBuf::from(SHM_DIR).join(name)
}

/// A shared mapping, to read and write; unmapped on drop. Others may change its bytes at any time.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    /// Where it begins: a multiple of 4,096.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by ShmFile::map with this size; whoever uses its addresses borrows or owns it.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "an own mapping cannot be unmapped: {unmapped:?}");
    }
}

// SAFETY: a mapping is plain memory with no tie to the thread that made it; this type only gives out its address.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> String {
        format!("foreword-test-memory-{}", std::process::id())
    }

    #[test]
    fn a_file_is_made_once_and_goes_with_its_maker() {
        let mut made = ShmFile::create(&name(), 8192, 0o600, true).unwrap();
        assert_eq!(ShmFile::create(&name(), 1, 0o600, false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let opened = ShmFile::open(&name()).unwrap();
        assert_eq!(opened.bytes().unwrap(), 8192);
        let (one, other) = (made.map(8192).unwrap(), opened.map(4096).unwrap());
        assert_eq!((one.bytes(), other.bytes()), (8192, 4096));
        assert_ne!(one.base(), other.base());
        drop(opened);
        assert!(made.path().exists());
        made.unlink();
        assert!(!made.path().exists());
        assert_eq!(made.bytes().unwrap(), 8192);
        assert!(ShmFile::open(&name()).is_err());
        assert!(ShmFile::create(&name(), 1 << 60, 0o600, true).is_err(), "no machine has that much");
        assert!(!made.path().exists(), "what could not be made leaves nothing");
    }
}
