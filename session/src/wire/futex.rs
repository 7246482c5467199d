//! Waiting for a word in shared memory to change, and waking who does.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Sleeps until woken, `word` is not `seen` any more, or the time is over; whoever calls looks again.
pub fn wait(word: &AtomicU32, seen: u32, at_most: Duration) {
    let timeout = libc::timespec { tv_sec: at_most.as_secs() as _, tv_nsec: at_most.subsec_nanos() as _ };
    call(word, libc::FUTEX_WAIT, seen, &raw const timeout);
}

/// Wakes all who sleep on `word`.
pub fn wake(word: &AtomicU32) {
    call(word, libc::FUTEX_WAKE, i32::MAX as u32, std::ptr::null());
}

fn call(word: &AtomicU32, operation: libc::c_int, number: u32, timeout: *const libc::timespec) {
    // SAFETY: the word is aligned and lives for the call; the kernel reads 4 bytes of it and the time, and writes
    // nothing. Its errors are no concern of ours: whoever waits looks again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, number, timeout) };
}

/// Publishes a new value of `word`, and wakes the other side if it said that it sleeps.
pub fn publish(word: &AtomicU32, value: u32, sleeps: &AtomicU32) {
    word.store(value, Ordering::SeqCst);
    if sleeps.swap(0, Ordering::SeqCst) != 0 {
        wake(word);
    }
}
