//! POSIX semaphores, as glibc lays them out: named ones, and those in a ring's memory.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::layout::SEMAPHORE_BYTES;
use crate::name::SHM_DIR;

const _: () = assert!(size_of::<libc::sem_t>() == SEMAPHORE_BYTES, "glibc's sem_t on x86-64 has 32 bytes");
/// What one waiter adds to the counting word.
const WAITER: u64 = 1 << 32;
/// POSIX's SEM_VALUE_MAX.
const VALUE_MAX: u32 = i32::MAX as u32;

/// Makes a semaphore at 0, for all who map its memory.
///
/// # Safety
/// `at` points to 32 writable bytes, aligned to 8, that live for the call.
pub(crate) unsafe fn init(at: NonNull<libc::sem_t>) {
    // SAFETY: by the caller's promise; the arguments are in range, so it cannot fail.
    unsafe { libc::sem_init(at.as_ptr(), 1, 0) };
}

/// The word of a `sem_t` that counts: the value in its low half, the number of waiters in its high half (glibc on 64
/// bits).
///
/// glibc's own functions are not used on it: they take the kind of futex from the semaphore's memory and abort the
/// process if the kernel refuses it, so whoever shares the memory could end us (seen with glibc 2.36).
///
/// # Safety
/// `at` points to 32 bytes of shared memory, aligned to 8, that live as long as the answer is used.
unsafe fn word<'a>(at: NonNull<libc::sem_t>) -> &'a AtomicU64 {
    // SAFETY: by the caller's promise; this process touches the word only as an atomic and as a futex.
    unsafe { at.cast::<AtomicU64>().as_ref() }
}

/// The futex call on a semaphore's value; the kernel's errors are no concern of ours: whoever waits looks again.
fn futex(word: &AtomicU64, operation: libc::c_int, number: u32, timeout: Option<&libc::timespec>) {
    let timeout = timeout.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word is aligned and lives for the call; the kernel reads 4 bytes of it and the time, and writes
    // nothing.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, number, timeout) };
}

/// Adds one. A semaphore at its maximum stays there: whoever waits has enough to take.
///
/// # Safety
/// `at` points to 32 bytes of shared memory, aligned to 8, that live for the call. Their content may be anything.
pub(crate) unsafe fn post(at: NonNull<libc::sem_t>) {
    // SAFETY: by the caller's promise.
    let word = unsafe { word(at) };
    let add = |now: u64| (now as u32 != VALUE_MAX).then(|| now.wrapping_add(1));
    if let Ok(before) = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add)
        && before >= WAITER
    {
        futex(word, libc::FUTEX_WAKE, 1, None);
    }
}

/// Takes one if there is one, or all of them.
fn take(word: &AtomicU64, all: bool) -> bool {
    let less = |now: u64| match now as u32 {
        0 => None,
        value => Some(now - if all { u64::from(value) } else { 1 }),
    };
    word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
}

/// Takes one (or all there are), waiting so long by the monotonic clock at most. False: there was none.
///
/// # Safety
/// As for [`post`].
pub(crate) unsafe fn wait(at: NonNull<libc::sem_t>, timeout: Duration, all: bool) -> bool {
    // SAFETY: by the caller's promise.
    let word = unsafe { word(at) };
    if take(word, all) {
        return true;
    }
    let started = monotonic();
    word.fetch_add(WAITER, Ordering::SeqCst);
    let taken = loop {
        if take(word, all) {
            break true;
        }
        let Some(left) = timeout.checked_sub(monotonic().saturating_sub(started)).filter(|left| !left.is_zero()) else {
            break false;
        };
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let left = libc::timespec { tv_sec: seconds, tv_nsec: i64::from(left.subsec_nanos()) };
        // Sleeps only while the value is 0; not private to this process.
        futex(word, libc::FUTEX_WAIT, 0, Some(&left));
    };
    // Another may have written the count of waiters meanwhile: whatever comes out concerns the others' wakes only.
    word.fetch_sub(WAITER, Ordering::SeqCst);
    taken
}

/// Time since some point, never going back.
#[expect(clippy::disallowed_methods, reason = "what is waited for is another process of this machine")]
fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// A semaphore with a name, which is a file `/dev/shm/sem.<name>`. Dropping it closes it; the name stays until it is
/// unlinked.
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
        unsafe { wait(self.at, timeout, false) }
    }

    /// Takes all there are, waiting so long for the first at most; false: there was none.
    pub fn wait_all(&self, timeout: Duration) -> bool {
        // SAFETY: as in post.
        unsafe { wait(self.at, timeout, true) }
    }

    /// Where it is mapped: 32 bytes at the start of a page.
    pub fn base(&self) -> NonNull<u8> {
        self.at.cast()
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
    use std::sync::Arc;

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

    /// glibc's calls on our memory, as a client with the vendor's library makes them.
    #[test]
    fn glibc_and_we_count_alike() {
        let name = format!("foreword-test-glibc-{}", std::process::id());
        let made = NamedSemaphore::create(&name).unwrap();
        let opened = Arc::new(NamedSemaphore::open(&name).unwrap());
        made.unlink();
        // SAFETY: the semaphore is open for the calls.
        let post = || unsafe { libc::sem_post(opened.at.as_ptr()) };
        // SAFETY: as above.
        let take = || unsafe { libc::sem_trywait(opened.at.as_ptr()) };
        assert_eq!((post(), post(), post()), (0, 0, 0));
        assert!(made.wait(Duration::ZERO));
        assert_eq!(take(), 0);
        assert!(made.wait_all(Duration::ZERO) && !made.wait_all(Duration::ZERO));
        made.post();
        assert_eq!((take(), take()), (0, -1));
        let ours = Arc::clone(&opened);
        let waiter = std::thread::spawn(move || ours.wait_all(Duration::from_secs(30)));
        post();
        assert!(waiter.join().unwrap());
        let theirs = Arc::clone(&opened);
        // SAFETY: as above.
        let waiter = std::thread::spawn(move || unsafe { libc::sem_wait(theirs.base().cast().as_ptr()) });
        made.post();
        assert_eq!(waiter.join().unwrap(), 0);
    }

    /// glibc's sem_post aborts on the second of these.
    #[test]
    fn no_content_of_a_semaphore_ends_us() {
        let mut memory = [0u64; 4];
        let at = NonNull::from(&mut memory).cast();
        for (word, kind) in [(0, 0), (WAITER, 0x40), (u64::MAX, 129), (u64::MAX - 1, 0), (u64::from(VALUE_MAX), 1)] {
            memory[0] = word;
            memory[1] = kind;
            // SAFETY: `memory` is 32 bytes, aligned to 8.
            unsafe {
                post(at);
                wait(at, Duration::from_millis(1), false);
                wait(at, Duration::from_millis(1), true);
            }
        }
    }
}
