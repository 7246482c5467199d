//! POSIX semaphores, as glibc lays them out: named ones, and those in a ring's memory.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::time::Duration;

use crate::layout::SEMAPHORE_BYTES;
use crate::name::SHM_DIR;

const _: () = assert!(size_of::<libc::sem_t>() == SEMAPHORE_BYTES, "glibc's sem_t on x86-64 has 32 bytes");
const NANOS: i64 = 1_000_000_000;

unsafe extern "C" {
    /// glibc 2.30: as sem_timedwait, by another clock than the wall's. The crate libc does not have it.
    fn sem_clockwait(sem: *mut libc::sem_t, clock: libc::clockid_t, until: *const libc::timespec) -> libc::c_int;
}

/// Makes a semaphore at 0, for all who map its memory.
///
/// # Safety
/// `at` points to 32 writable bytes, aligned to 8, that live for the call.
pub(crate) unsafe fn init(at: NonNull<libc::sem_t>) {
    // SAFETY: by the caller's promise; the arguments are in range, so it cannot fail.
    unsafe { libc::sem_init(at.as_ptr(), 1, 0) };
}

/// Adds one. A semaphore at its maximum stays there: whoever waits has enough to take.
///
/// # Safety
/// `at` points to 32 bytes of shared memory, aligned to 8, that live for the call. Their content may be anything: glibc only
/// adds to a word of them and asks the kernel to wake.
pub(crate) unsafe fn post(at: NonNull<libc::sem_t>) {
    // SAFETY: by the caller's promise.
    unsafe { libc::sem_post(at.as_ptr()) };
}

/// Takes one, waiting so long by the monotonic clock at most. False: there was none, or a signal came.
///
/// # Safety
/// As for [`post`].
pub(crate) unsafe fn wait(at: NonNull<libc::sem_t>, timeout: Duration) -> bool {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanos = now.tv_nsec + i64::from(timeout.subsec_nanos());
    let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX / 2);
    let until = libc::timespec { tv_sec: now.tv_sec.saturating_add(seconds + nanos / NANOS), tv_nsec: nanos % NANOS };
    // SAFETY: by the caller's promise; `until` lives for the call.
    unsafe { sem_clockwait(at.as_ptr(), libc::CLOCK_MONOTONIC, &raw const until) == 0 }
}

/// A semaphore with a name, which is a file `/dev/shm/sem.<name>`. Dropping it closes it; the name stays until it is unlinked.
#[derive(Debug)]
pub struct NamedSemaphore {
    at: NonNull<libc::sem_t>,
    name: String,
}

impl NamedSemaphore {
    /// Makes one at 0 that was not there, for everybody (0666).
    pub fn create(name: &str) -> io::Result<Self> {
        let semaphore = Self::opened(name, libc::O_CREAT | libc::O_EXCL)?;
        // Whatever the umask says: clients of all users post it.
        rustix::fs::chmod(semaphore.path(), rustix::fs::Mode::from_raw_mode(0o666))?;
        Ok(semaphore)
    }

    /// Opens one that another made.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::opened(name, 0)
    }

    fn opened(name: &str, flags: libc::c_int) -> io::Result<Self> {
        let path = CString::new(format!("/{name}"))?;
        let (mode, value): (libc::mode_t, libc::c_uint) = (0o666, 0);
        // SAFETY: the name is a C string that lives for the call; mode and value are the arguments O_CREAT asks for.
        let at = unsafe { libc::sem_open(path.as_ptr(), flags, mode, value) };
        match NonNull::new(at) {
            Some(at) => Ok(Self { at, name: name.to_owned() }),
            None => Err(io::Error::last_os_error()),
        }
    }

    /// Adds one.
    pub fn post(&self) {
        // SAFETY: sem_open mapped it, and it is closed on drop only.
        unsafe { post(self.at) }
    }

    /// Takes one, waiting so long at most; false: there was none.
    pub fn wait(&self, timeout: Duration) -> bool {
        // SAFETY: as in post.
        unsafe { wait(self.at, timeout) }
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(SHM_DIR).join(format!("sem.{}", self.name))
    }

    /// Takes its name away.
    pub fn unlink(&self) {
        // Gone already: nothing to do.
        let _ = rustix::fs::unlink(self.path());
    }
}

impl Drop for NamedSemaphore {
    fn drop(&mut self) {
        // SAFETY: opened here, closed once.
        unsafe { libc::sem_close(self.at.as_ptr()) };
    }
}

// SAFETY: semaphores are made for several threads and processes; the address is valid until drop.
unsafe impl Send for NamedSemaphore {}
// SAFETY: as above.
unsafe impl Sync for NamedSemaphore {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_semaphore_counts_between_its_openers() {
        let name = format!("foreword-test-semaphore-{}", std::process::id());
        let made = NamedSemaphore::create(&name).unwrap();
        assert!(NamedSemaphore::create(&name).is_err());
        let opened = NamedSemaphore::open(&name).unwrap();
        assert!(!opened.wait(Duration::ZERO));
        made.post();
        made.post();
        assert!(opened.wait(Duration::ZERO) && opened.wait(Duration::from_secs(30)));
        assert!(!opened.wait(Duration::from_millis(1)));
        let waiter = std::thread::spawn(move || opened.wait(Duration::from_secs(30)));
        made.post();
        assert!(waiter.join().unwrap());
        made.unlink();
        assert!(!made.path().exists());
        assert!(NamedSemaphore::open(&name).is_err());
        assert!(NamedSemaphore::open("a\0b").is_err());
    }
}
