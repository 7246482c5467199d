//! Shared memory files in /dev/shm and their mappings.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::name::SHM_DIR;

const PAGE_BYTES: usize = 4096;
/// What one entry of a page table's second level maps.
const HUGE_PAGE_BYTES: usize = 2 << 20;
const PROTECTION: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A file in /dev/shm. One that was made here is unlinked on drop, unless that was done before.
#[derive(Debug)]
pub struct ShmFile {
    fd: OwnedFd,
    name: String,
    linked: bool,
}

impl ShmFile {
    /// Makes a file that was not there, of this size, for its owner and whoever `mode` allows (whatever the umask
    /// says).
    ///
    /// With `fallocate` its memory is taken at once, in huge pages as far as the kernel has some.
    ///
    /// Errors: it exists; with `fallocate`, /dev/shm has no room for it.
    pub fn create(name: &str, bytes: u64, mode: u32, fallocate: bool) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path_of(name), flags, Mode::from_raw_mode(mode))?;
        let file = Self { fd, name: name.to_owned(), linked: true };
        rustix::fs::fchmod(&file.fd, Mode::from_raw_mode(mode))?;
        rustix::fs::ftruncate(&file.fd, bytes)?;
        if fallocate {
            file.use_huge_pages(bytes);
            rustix::fs::fallocate(&file.fd, FallocateFlags::empty(), 0, bytes)?;
        }
        Ok(file)
    }

    /// Takes what the file holds of whole huge pages as such, as far as the kernel can. What it cannot is as it was.
    ///
    /// A huge page lies together in memory: an I/O of 1 MiB is one piece to the disk (or to RDMA), not 256. /dev/shm is
    /// seldom mounted for huge pages; this asks for them whatever the mount says. Kernels before 6.1 know no such
    /// request.
    fn use_huge_pages(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(0) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if bytes == 0 {
            return;
        }
        let Ok(mapping) = self.map(bytes) else { return };
        // The kernel makes a huge page of a small one and holes, but none where there is nothing.
        for at in (0..bytes).step_by(HUGE_PAGE_BYTES) {
            if rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), at as u64, PAGE_BYTES as u64).is_err() {
                return;
            }
        }
        // SAFETY: the range is the mapping just made, which nobody else knows of; the call changes no bytes.
        let _ = unsafe { libc::madvise(mapping.base().as_ptr().cast(), bytes, libc::MADV_COLLAPSE) };
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

    /// Maps its first `bytes` bytes, shared, to read and write; what is as large as a huge page begins at a multiple of
    /// one.
    pub fn map(&self, bytes: usize) -> io::Result<Mapping> {
        if bytes >= HUGE_PAGE_BYTES {
            return self.map_aligned(bytes);
        }
        // SAFETY: a new mapping at an address of the kernel's choice; it replaces nothing.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, PROTECTION, MapFlags::SHARED, &self.fd, 0)? };
        Mapping::at(base, bytes)
    }

    /// The kernel aligns mappings of this kind of file by itself only where /dev/shm was mounted for huge pages.
    fn map_aligned(&self, bytes: usize) -> io::Result<Mapping> {
        let too_much = || io::Error::from(io::ErrorKind::OutOfMemory);
        let mapped_bytes = bytes.checked_next_multiple_of(PAGE_BYTES).ok_or_else(too_much)?;
        let room_bytes = mapped_bytes.checked_add(HUGE_PAGE_BYTES).ok_or_else(too_much)?;
        let (room, nothing) = (MapFlags::PRIVATE | MapFlags::NORESERVE, ProtFlags::empty());
        // SAFETY: a new mapping at an address of the kernel's choice, of no memory; it replaces nothing.
        let room = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), room_bytes, nothing, room)? };
        let before_bytes = room.cast::<u8>().align_offset(HUGE_PAGE_BYTES);
        let base = room.cast::<u8>().wrapping_add(before_bytes);
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: replaces a part of the room just made, which nobody knows of.
        let mapped = unsafe { rustix::mm::mmap(base.cast(), mapped_bytes, PROTECTION, flags, &self.fd, 0) };
        let (before, after) = match mapped {
            Ok(_) => (before_bytes, HUGE_PAGE_BYTES - before_bytes),
            Err(_) => (room_bytes, 0),
        };
        for (rest, rest_bytes) in [(room.cast::<u8>(), before), (base.wrapping_add(mapped_bytes), after)] {
            if rest_bytes > 0 {
                // SAFETY: what lies beside the mapping in the room, or all of the room: nobody knows of it.
                let unmapped = unsafe { rustix::mm::munmap(rest.cast(), rest_bytes) };
                debug_assert!(unmapped.is_ok(), "an own mapping cannot be unmapped: {unmapped:?}");
            }
        }
        Mapping::at(mapped?, bytes)
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

    fn at(base: *mut c_void, bytes: usize) -> io::Result<Self> {
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(Self { base, bytes })
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

    #[test]
    fn large_memory_is_all_taken_and_aligned_for_huge_pages() {
        let bytes = 2 * HUGE_PAGE_BYTES + 5000;
        let mut file = ShmFile::create(&format!("{}-huge", name()), bytes as u64, 0o600, true).unwrap();
        let mapping = file.map(bytes).unwrap();
        file.unlink();
        assert_eq!(mapping.base().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        let places = [0, 1, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, 2 * HUGE_PAGE_BYTES, bytes - 1];
        // SAFETY: within the mapping, which only this thread uses.
        let byte = |at: usize| unsafe { mapping.base().add(at).as_ptr() };
        for (value, at) in (1..).zip(places) {
            // SAFETY: as above.
            unsafe { byte(at).write_volatile(value) };
        }
        assert!(rustix::fs::fstat(&file).unwrap().st_blocks as u64 * 512 >= bytes as u64);
        for (value, at) in (1..).zip(places) {
            // SAFETY: as above.
            assert_eq!(unsafe { byte(at).read_volatile() }, value);
        }
        let mut read = [0];
        rustix::io::pread(&file, &mut read, bytes as u64 - 1).unwrap();
        assert_eq!(read, [6], "the mapping is the file's memory");
    }
}
