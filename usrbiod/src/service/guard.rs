//! What happens when a client cuts a shared memory file short that we have mapped: the kernel answers our next access
//! with SIGBUS. A handler, installed once, puts a page of zeros there and notes it; the memory is dead from then on, we
//! are not.
//!
//! The same holds for memory that /dev/shm has no room for. Signals of other causes go to whoever handled them before.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

use rustix::io::Errno;

use super::limits::GUARDS_MAX;

const PAGE_BYTES: usize = 4096;
/// A `start` that is no address: the place is taken but not in use yet.
const CLAIMED: usize = 1;

/// One guarded range of addresses; `start` 0: free.
struct Place {
    start: AtomicUsize,
    end: AtomicUsize,
    cut: AtomicBool,
}

static PLACES: [Place; GUARDS_MAX] =
    [const { Place { start: AtomicUsize::new(0), end: AtomicUsize::new(0), cut: AtomicBool::new(false) } }; GUARDS_MAX];
static INSTALL: Once = Once::new();
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Guards mapped memory until it is dropped, which must be before the memory is unmapped.
#[derive(Debug)]
pub(super) struct Guard {
    place: usize,
}

impl Guard {
    /// Guards the pages from `base` on. Error: too much is guarded already.
    pub(super) fn new(base: NonNull<u8>, bytes: usize) -> Result<Self, Errno> {
        INSTALL.call_once(install);
        let claim =
            |place: &Place| place.start.compare_exchange(0, CLAIMED, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        let place = PLACES.iter().position(claim).ok_or(Errno::MFILE)?;
        let start = base.as_ptr() as usize;
        PLACES[place].cut.store(false, Ordering::SeqCst);
        PLACES[place].end.store(start + bytes.next_multiple_of(PAGE_BYTES), Ordering::SeqCst);
        PLACES[place].start.store(start, Ordering::SeqCst);
        Ok(Self { place })
    }

    /// True once an access found no memory.
    pub(super) fn is_cut(&self) -> bool {
        PLACES[self.place].cut.load(Ordering::SeqCst)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        PLACES[self.place].end.store(0, Ordering::SeqCst);
        PLACES[self.place].start.store(0, Ordering::SeqCst);
    }
}

fn install() {
    // SAFETY: a zeroed sigaction is a valid one; both structs live for the call; the handler only does what is allowed
    // in one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) == 0 {
            let _ = BEFORE.set(before);
        }
    }
}

/// Puts zeros where the faulting thread looks, if it is ours to do.
extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo with SA_SIGINFO; the address is one for SIGBUS, or else matches no
    // place.
    let address = unsafe { (*info).si_addr() } as usize;
    for place in &PLACES {
        let start = place.start.load(Ordering::SeqCst);
        if start > CLAIMED && start <= address && address < place.end.load(Ordering::SeqCst) {
            place.cut.store(true, Ordering::SeqCst);
            if fill(address - address % PAGE_BYTES) {
                return;
            }
        }
    }
    pass_on(signal, info, context);
}

/// Maps zeros over the page at an address that the faulting thread uses, so nobody unmaps it meanwhile.
fn fill(page: usize) -> bool {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the page lies in a guarded mapping of ours; its owner holds the mapping while a thread accesses it. mmap
    // is a plain system call; errno is put back for whatever the signal interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        let at = libc::mmap(page as *mut libc::c_void, PAGE_BYTES, protection, flags, -1, 0);
        *libc::__errno_location() = errno;
        at != libc::MAP_FAILED
    }
}

fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get();
    match before.map(|before| (before.sa_sigaction, before.sa_flags)) {
        Some((handler, flags)) if handler != libc::SIG_DFL && handler != libc::SIG_IGN => {
            // SAFETY: a handler that was installed with these flags has this type.
            unsafe {
                if flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(handler);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                    handler(signal);
                }
            }
        }
        // The access happens again when we return, and ends the process as it would have.
        // SAFETY: sets a default action, which is allowed in a handler.
        _ => unsafe {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        },
    }
}

#[cfg(test)]
mod tests {
    use foreword_usrbio::ShmFile;

    use super::*;

    #[test]
    fn memory_that_is_cut_short_reads_as_zeros_from_then_on() {
        let name = format!("foreword-test-guard-{}", std::process::id());
        let file = ShmFile::create(&name, 3 * 4096, 0o600, false).unwrap();
        let mapping = file.map(3 * 4096).unwrap();
        let guard = Guard::new(mapping.base(), mapping.bytes()).unwrap();
        // SAFETY: within the mapping.
        let byte = |at: usize| unsafe { mapping.base().add(at).as_ptr() };
        // SAFETY: as above; only this thread uses the memory.
        unsafe {
            byte(0).write_volatile(1);
            byte(8191).write_volatile(2);
            rustix::fs::ftruncate(&file, 4096).unwrap();
            assert!(!guard.is_cut());
            assert_eq!(byte(8191).read_volatile(), 0);
            assert!(guard.is_cut());
            byte(8191).write_volatile(3);
            assert_eq!((byte(0).read_volatile(), byte(8191).read_volatile()), (1, 3));
            byte(12_287).write_volatile(4);
            assert_eq!(byte(12_287).read_volatile(), 4);
        }
        let place = guard.place;
        drop(guard);
        assert_eq!(PLACES[place].start.load(Ordering::SeqCst), 0);
    }
}
