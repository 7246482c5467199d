//! Where segments get their memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use foreword_session::wire::mapping::read_only;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::{FRAME_ALIGN_BYTES, lease};

/// Makes regions. Called when a segment is made or replaced, never per page.
pub trait RegionProvider: Send + Sync {
    /// Promises that regions of `arena_bytes` together can be made; called once, at start.
    fn reserve(&self, arena_bytes: u64) -> io::Result<()> {
        let _ = arena_bytes;
        Ok(())
    }

    /// Zeroed memory of `bytes` bytes, a multiple of 4,096.
    fn region(&self, bytes: u64) -> io::Result<Region>;

    /// Looks whether others still have memory of dropped regions mapped. True: none, or it is not this side's to know.
    fn all_let_go(&self) -> bool {
        true
    }
}

/// The owner of a region's memory; dropping it gives the memory back.
///
/// # Safety
/// From construction to drop, `base` points to `bytes` bytes, aligned to 4,096, readable and writable, zeroed at first,
/// that nothing else in this process touches. Another process reads them, or writes them on behalf of an I/O that owns
/// the frame.
pub unsafe trait RegionMemory: Send + Sync {
    fn base(&self) -> NonNull<u8>;
    fn bytes(&self) -> usize;
    /// What another process maps to see the region.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// A descriptor through which another process maps it, and nobody can write. None: it cannot be shared.
    fn share(&self) -> io::Result<Option<OwnedFd>> {
        self.fd().map(read_only).transpose()
    }
    /// What a store calls the region it was registered as (USRBIO: the iov's id).
    fn name(&self) -> Option<[u8; 16]> {
        None
    }
}

/// A piece of memory for one segment.
pub struct Region(Box<dyn RegionMemory>);

impl Region {
    pub fn new(memory: impl RegionMemory + 'static) -> Self {
        Self(Box::new(memory))
    }

    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// What another process maps to see the region, if it can be shared.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.fd()
    }

    /// A descriptor through which another process maps it, and nobody can write. None: it cannot be shared.
    pub fn share(&self) -> io::Result<Option<OwnedFd>> {
        self.0.share()
    }

    /// What a store calls the region it was registered as.
    pub fn name(&self) -> Option<[u8; 16]> {
        self.0.name()
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
}

/// The part of an arena that engines may keep mapped of segments that have left it: 1/4. Beyond it no segment is shared:
/// the machine's memory is not the arena's alone. Segments are replaced all the same, so that nobody else is kept waiting.
const LENT_PART: u64 = 4;

/// Regions as memfds, sealed against growing, shrinking and new writable mappings: another process can only read.
#[derive(Debug, Clone, Default)]
pub struct MemfdRegions {
    prefault: bool,
    lent: Arc<Lent>,
}

/// Memory of dropped regions that were shared: whoever has it mapped keeps it.
#[derive(Debug, Default)]
struct Lent {
    regions: Mutex<Vec<(OwnedFd, u64)>>,
    /// None before the arena's size is known.
    bytes_max: OnceLock<u64>,
}

impl Lent {
    /// Bytes that others still have mapped; what they have let go of goes.
    fn bytes(&self) -> u64 {
        let mut regions = self.regions.lock();
        regions.retain(|(fd, _)| !lease::is_ours_alone(fd));
        regions.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Whether others keep more than they may.
    fn is_too_much(&self) -> bool {
        self.bytes_max.get().is_some_and(|max| self.bytes() > *max)
    }
}

impl MemfdRegions {
    /// With `prefault` all memory is taken and mapped when a region is made, so that no page fault comes later.
    pub fn new(prefault: bool) -> Self {
        Self { prefault, lent: Arc::default() }
    }
}

impl RegionProvider for MemfdRegions {
    fn reserve(&self, arena_bytes: u64) -> io::Result<()> {
        let info = rustix::system::sysinfo();
        let memory_bytes = info.totalram as u64 * u64::from(info.mem_unit);
        if arena_bytes > memory_bytes {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, format!("this machine has {memory_bytes} bytes")));
        }
        let _ = self.lent.bytes_max.set(arena_bytes / LENT_PART);
        Ok(())
    }

    fn all_let_go(&self) -> bool {
        self.lent.bytes() == 0
    }

    fn region(&self, bytes: u64) -> io::Result<Region> {
        let fd = rustix::fs::memfd_create("foreword-arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes)?;
        if self.prefault {
            rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes)?;
        }
        let mapping = Mapping::new(&fd, bytes, self.prefault)?;
        // Our own mapping exists: it stays writable, no other will be.
        rustix::fs::fcntl_add_seals(
            &fd,
            SealFlags::GROW | SealFlags::SHRINK | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
        )?;
        let (shared, lent) = (AtomicBool::new(false), self.lent.clone());
        Ok(Region::new(MemfdRegion { fd, mapping, shared, lent }))
    }
}

struct MemfdRegion {
    fd: OwnedFd,
    mapping: Mapping,
    /// Another process may have it mapped.
    shared: AtomicBool,
    lent: Arc<Lent>,
}

impl Drop for MemfdRegion {
    fn drop(&mut self) {
        if self.shared.load(Ordering::Relaxed)
            && let Ok(own) = read_only(self.fd.as_fd())
        {
            self.lent.regions.lock().push((own, self.mapping.bytes as u64));
        }
    }
}

// SAFETY: the mapping is page-aligned, shared, writable, owned and private to this module until drop; a memfd starts as
// zeros and, being sealed against shrinking, never loses a page; no other process can map it writable.
unsafe impl RegionMemory for MemfdRegion {
    fn base(&self) -> NonNull<u8> {
        self.mapping.base
    }

    fn bytes(&self) -> usize {
        self.mapping.bytes
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn share(&self) -> io::Result<Option<OwnedFd>> {
        if self.lent.is_too_much() {
            return Ok(None);
        }
        self.shared.store(true, Ordering::Relaxed);
        read_only(self.fd.as_fd()).map(Some)
    }
}

/// A shared writable mapping of a whole file; unmapped on drop.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(fd: impl AsFd, bytes: u64, populate: bool) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let flags = if populate { MapFlags::SHARED | MapFlags::POPULATE } else { MapFlags::SHARED };
        // SAFETY: a new mapping at an address of the kernel's choice; it replaces nothing.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags, fd, 0)? };
        // Huge pages are a wish: a kernel without them for shared memory says no.
        // SAFETY: the range is the mapping just made, and the advice changes no bytes.
        let _ = unsafe { rustix::mm::madvise(base, bytes, Advice::LinuxHugepage) };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(Self { base, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by Mapping::new with this size; its owner is gone, so no frame points into it.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "an own mapping cannot be unmapped: {unmapped:?}");
    }
}

// SAFETY: the mapping is plain memory with no tie to the thread that made it; who may touch which bytes is the frames'
// business.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared Mapping only gives out its address.
unsafe impl Sync for Mapping {}

/// Regions on the heap, without a system call of their own: for the simulator and for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeapRegions;

impl RegionProvider for HeapRegions {
    fn region(&self, bytes: u64) -> io::Result<Region> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let layout = Layout::from_size_align(bytes, FRAME_ALIGN_BYTES as usize).map_err(io::Error::other)?;
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a region of 0 bytes"));
        }
        // SAFETY: the layout's size is not 0.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Region::new(HeapRegion { base, layout }))
    }
}

struct HeapRegion {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: zeroed memory of its own, aligned by its layout, freed on drop and known to nobody else.
unsafe impl RegionMemory for HeapRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for HeapRegion {
    fn drop(&mut self) {
        // SAFETY: allocated in HeapRegions::region with this layout; its owner is gone, so no frame points into it.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: heap memory may be used and freed on any thread; who may touch which bytes is the frames' business.
unsafe impl Send for HeapRegion {}
// SAFETY: as above; a shared HeapRegion only gives out its address.
unsafe impl Sync for HeapRegion {}
