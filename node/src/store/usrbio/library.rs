//! The vendor's client library, loaded at run time.
//!
//! Its rings are made and destroyed on the registrar: the library opens the link directory on the thread that makes the
//! first one, and the daemon drops all links made by a thread when that thread's handle goes.

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::{ManuallyDrop, offset_of};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use foreword_usrbio::IovId;
use rustix::process::{Resource, Rlimit};
use rustix::time::ClockId;

use super::attachment::Attachment;
use super::client::{JOB_IOS_MAX, Port, Prepared, Reaped, Refused};

/// The library makes a table of as many cells as the hard limit of descriptors allows; an unlimited one ends it.
const FILES_MAX: u64 = 1 << 20;
/// Completions taken at once.
const REAP_MAX: usize = 64;
const MOUNT_POINT_BYTES: usize = 256;
const NANOS: i64 = 1_000_000_000;
/// Any memory node.
const NUMA_ANY: c_int = -1;

/// `struct hf3fs_iov`.
#[repr(C)]
struct Iov {
    base: *mut u8,
    handle: *mut c_void,
    id: [u8; 16],
    mount_point: [c_char; MOUNT_POINT_BYTES],
    size: usize,
    block_size: usize,
    numa: c_int,
}

/// `struct hf3fs_ior`.
#[repr(C)]
struct Ior {
    iov: Iov,
    handle: *mut c_void,
    mount_point: [c_char; MOUNT_POINT_BYTES],
    for_read: bool,
    io_depth: c_int,
    priority: c_int,
    timeout: c_int,
    flags: u64,
}

/// `struct hf3fs_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Cqe {
    index: i32,
    reserved: i32,
    result: i64,
    userdata: *const c_void,
}

const _: () = {
    assert!(size_of::<Iov>() == 312 && offset_of!(Iov, id) == 16 && offset_of!(Iov, numa) == 304);
    assert!(size_of::<Ior>() == 600 && offset_of!(Ior, handle) == 312 && offset_of!(Ior, for_read) == 576);
    assert!(offset_of!(Ior, io_depth) == 580 && offset_of!(Ior, timeout) == 588 && offset_of!(Ior, flags) == 592);
    assert!(size_of::<Cqe>() == 24 && offset_of!(Cqe, userdata) == 16);
};

type IovWrap = unsafe extern "C" fn(*mut Iov, *mut c_void, *const u8, *const c_char, usize, usize, c_int) -> c_int;
type IorCreate = unsafe extern "C" fn(*mut Ior, *const c_char, c_int, bool, c_int, c_int, c_int, u64) -> c_int;
type IorDestroy = unsafe extern "C" fn(*mut Ior);
type RegisterFd = unsafe extern "C" fn(c_int, u64) -> c_int;
type DeregisterFd = unsafe extern "C" fn(c_int);
type PrepareIo =
    unsafe extern "C" fn(*const Ior, *const Iov, bool, *mut c_void, c_int, usize, u64, *const c_void) -> c_int;
type SubmitIos = unsafe extern "C" fn(*const Ior) -> c_int;
type WaitForIos = unsafe extern "C" fn(*const Ior, *mut Cqe, c_int, c_int, *const libc::timespec) -> c_int;

/// The loaded library; it stays loaded while anything made by it lives.
pub(super) struct Library {
    iov_wrap: IovWrap,
    ior_create: IorCreate,
    ior_destroy: IorDestroy,
    register_fd: RegisterFd,
    deregister_fd: DeregisterFd,
    prepare_io: PrepareIo,
    submit_ios: SubmitIos,
    wait_for_ios: WaitForIos,
    /// Never unloaded: it starts threads of its own that would run on without their code.
    _handle: ManuallyDrop<libloading::Library>,
}

impl Library {
    /// Loads it. Lowers a huge hard limit of descriptors first, which lasts for the process.
    ///
    /// Errors: the file, or a symbol it does not have, by name.
    pub(super) fn load(path: &Path) -> io::Result<Self> {
        lower_file_limit()?;
        let named = |what: &str, error: libloading::Error| {
            // The loader's own words, which name what it looked for.
            let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            io::Error::other(format!("{}: {what}: {why}", path.display()))
        };
        // SAFETY: loading runs the library's initialisers; the operator names a library of the vendor's. The limit they
        // depend on was lowered.
        let handle = unsafe { libloading::Library::new(path) }.map_err(|error| named("not loaded", error))?;
        let missing = |name: &CStr, error| named(&format!("no symbol {}", name.to_string_lossy()), error);
        /// # Safety
        /// `T` is the type of the symbol in the vendor's header.
        unsafe fn symbol<T: Copy>(
            handle: &libloading::Library,
            name: &CStr,
            missing: impl Fn(&CStr, libloading::Error) -> io::Error,
        ) -> io::Result<T> {
            // SAFETY: by the caller's promise.
            unsafe { handle.get::<T>(name.to_bytes_with_nul()) }
                .map(|symbol| *symbol)
                .map_err(|error| missing(name, error))
        }
        // SAFETY: each type is its function's in hf3fs_usrbio.h, as the facts of the ABI state it.
        unsafe {
            Ok(Self {
                iov_wrap: symbol(&handle, c"hf3fs_iovwrap", missing)?,
                ior_create: symbol(&handle, c"hf3fs_iorcreate4", missing)?,
                ior_destroy: symbol(&handle, c"hf3fs_iordestroy", missing)?,
                register_fd: symbol(&handle, c"hf3fs_reg_fd", missing)?,
                deregister_fd: symbol(&handle, c"hf3fs_dereg_fd", missing)?,
                prepare_io: symbol(&handle, c"hf3fs_prep_io", missing)?,
                submit_ios: symbol(&handle, c"hf3fs_submit_ios", missing)?,
                wait_for_ios: symbol(&handle, c"hf3fs_wait_for_ios", missing)?,
                _handle: ManuallyDrop::new(handle),
            })
        }
    }

    /// Makes a ring. On the registrar only.
    pub(super) fn ring(
        self: &Arc<Self>,
        attachment: &Arc<Attachment>,
        for_read: bool,
        entries: u32,
    ) -> io::Result<LibraryRing> {
        let mount_point = mount_point_of(attachment)?;
        let entries = c_int::try_from(entries).map_err(io::Error::other)?;
        // SAFETY: all bits 0 are a valid Ior: integers, null pointers, false.
        let mut ior = Box::new(unsafe { std::mem::zeroed::<Ior>() });
        // SAFETY: the struct is the vendor's, writable, and lives for the call; the mount point is a C string.
        let made = unsafe {
            let (depth, timeout_ms, flags) = (-JOB_IOS_MAX, 0, 0);
            (self.ior_create)(
                &raw mut *ior,
                mount_point.as_ptr(),
                entries,
                for_read,
                depth,
                timeout_ms,
                NUMA_ANY,
                flags,
            )
        };
        if made != 0 {
            return Err(error_of("hf3fs_iorcreate4", made));
        }
        Ok(LibraryRing { library: self.clone(), ior: Some(OwnedIor(ior)), for_read, attachment: attachment.clone() })
    }

    /// Fills the vendor's struct for memory that was linked by us.
    pub(super) fn wrap(&self, attachment: &Attachment, id: IovId, base: usize, bytes: u64) -> io::Result<WrappedIov> {
        let mount_point = mount_point_of(attachment)?;
        // SAFETY: as in `ring`.
        let mut iov = Box::new(unsafe { std::mem::zeroed::<Iov>() });
        // SAFETY: the struct is writable and lives for the call, the id has 16 bytes, the mount point is a C string;
        // with no memory node named the base is only noted.
        let wrapped = unsafe {
            let base = std::ptr::with_exposed_provenance_mut::<c_void>(base);
            (self.iov_wrap)(&raw mut *iov, base, id.0.as_ptr(), mount_point.as_ptr(), bytes as usize, 0, NUMA_ANY)
        };
        if wrapped == 0 { Ok(WrappedIov(iov)) } else { Err(error_of("hf3fs_iovwrap", wrapped)) }
    }

    /// Registers an open file of a 3FS mount.
    ///
    /// On a dead mount the library does not let go of a number: when the number comes again, it takes it for
    /// registered, and an I/O would go to the file of before. The descriptor is ours alone, so a number that is
    /// registered is one of those; on a mount that lives it can be let go of.
    pub(super) fn register(&self, fd: &OwnedFd) -> io::Result<()> {
        match self.register_once(fd) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.deregister(fd);
                self.register_once(fd)
            }
            registered => registered,
        }
    }

    fn register_once(&self, fd: &OwnedFd) -> io::Result<()> {
        // SAFETY: takes integers only; the descriptor is open.
        let registered = unsafe { (self.register_fd)(fd.as_raw_fd(), 0) };
        // At most 0 is success, above it is an errno.
        if registered <= 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(registered)) }
    }

    /// Before the descriptor is closed.
    pub(super) fn deregister(&self, fd: &OwnedFd) {
        // SAFETY: takes an integer only; the descriptor is open.
        unsafe { (self.deregister_fd)(fd.as_raw_fd()) }
    }
}

fn mount_point_of(attachment: &Attachment) -> io::Result<CString> {
    let path = attachment.mount_point();
    let text = CString::new(path.as_os_str().as_bytes())?;
    if text.as_bytes_with_nul().len() > MOUNT_POINT_BYTES {
        return Err(io::Error::other(format!("{}: longer than the library allows", path.display())));
    }
    Ok(text)
}

fn error_of(function: &str, negated_errno: c_int) -> io::Error {
    let error = io::Error::from_raw_os_error(negated_errno.saturating_neg());
    io::Error::new(error.kind(), format!("{function}: {error}"))
}

fn lower_file_limit() -> io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum <= FILES_MAX) {
        return Ok(());
    }
    let current = limit.current.map_or(FILES_MAX, |current| current.min(FILES_MAX));
    tracing::info!(FILES_MAX, "the hard limit of open files is lowered: the 3FS library makes a table of that size");
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: Some(FILES_MAX) })?;
    Ok(())
}

/// Memory as the library's calls name it.
pub(super) struct WrappedIov(Box<Iov>);

// SAFETY: filled once, then only read; its base is an address that is not dereferenced through it.
unsafe impl Send for WrappedIov {}
// SAFETY: as above.
unsafe impl Sync for WrappedIov {}

struct OwnedIor(Box<Ior>);

// SAFETY: the struct is filled once; the library's functions may be called on any thread, one preparing and one
// waiting.
unsafe impl Send for OwnedIor {}
// SAFETY: as above; only const pointers to it are given out until it is destroyed.
unsafe impl Sync for OwnedIor {}

/// A ring that the library drives.
pub(super) struct LibraryRing {
    library: Arc<Library>,
    /// Taken on drop.
    ior: Option<OwnedIor>,
    for_read: bool,
    attachment: Arc<Attachment>,
}

impl LibraryRing {
    fn ior(&self) -> *const Ior {
        &raw const *self.ior.as_ref().expect("taken on drop only").0
    }
}

impl Port for LibraryRing {
    fn prepare(&self, io: &Prepared<'_>) -> Result<(), Refused> {
        let Some(iov) = &io.region.wrapped else { return Err(Refused::Errno(libc::EINVAL)) };
        let (fd, userdata) = (io.file.fd().as_raw_fd(), std::ptr::without_provenance(io.userdata as usize));
        let at = iov.0.base.wrapping_add(io.region_offset as usize).cast::<c_void>();
        // SAFETY: ring and iov live in self and in the caller's borrow; `at` is only compared with the iov's range; one
        // caller prepares at a time, by the trait's rule.
        let slot = unsafe {
            (self.library.prepare_io)(
                self.ior(),
                &raw const *iov.0,
                self.for_read,
                at,
                fd,
                io.file_offset as usize,
                io.len,
                userdata,
            )
        };
        match slot {
            0.. => Ok(()),
            refused if refused == -libc::EAGAIN => Err(Refused::Full),
            refused => Err(Refused::Errno(refused.saturating_neg())),
        }
    }

    fn submit(&self) {
        // SAFETY: the ring lives in self.
        unsafe { (self.library.submit_ios)(self.ior()) };
    }

    #[expect(clippy::disallowed_methods, reason = "the library takes its deadline by the machine's own clock")]
    fn reap(&self, timeout: Duration, finished: &mut Vec<Reaped>) {
        let empty = Cqe { index: 0, reserved: 0, result: 0, userdata: std::ptr::null() };
        let mut cqes = [empty; REAP_MAX];
        let now = rustix::time::clock_gettime(ClockId::Realtime);
        let nanos = now.tv_nsec + i64::from(timeout.subsec_nanos());
        let until =
            libc::timespec { tv_sec: now.tv_sec + timeout.as_secs() as i64 + nanos / NANOS, tv_nsec: nanos % NANOS };
        // SAFETY: the array has REAP_MAX writable cells, and it and the deadline live for the call; one caller waits at
        // a time, by the trait's rule.
        let taken = unsafe {
            (self.library.wait_for_ios)(self.ior(), cqes.as_mut_ptr(), REAP_MAX as c_int, 1, &raw const until)
        };
        let taken = usize::try_from(taken).unwrap_or(0).min(REAP_MAX);
        let reaped = |cqe: &Cqe| Reaped { userdata: cqe.userdata.addr() as u64, result: cqe.result };
        finished.extend(cqes[..taken].iter().map(reaped));
    }

    /// The library's wait looks every millisecond and cannot be woken: the caller's timeout is all.
    fn wake(&self) {}
}

impl Drop for LibraryRing {
    fn drop(&mut self) {
        let Some(mut ior) = self.ior.take() else { return };
        let library = self.library.clone();
        self.attachment.registrar().post(move || {
            let whole = &mut ior;
            // SAFETY: made by ior_create, destroyed once; nobody prepares or waits any more, because their owner is
            // gone.
            unsafe { (library.ior_destroy)(&raw mut *whole.0) }
        });
    }
}
