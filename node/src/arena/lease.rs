//! Whether another process still has a file open or mapped, by the kernel's word.
//!
//! A write lease is granted only to the one open description of a file. A descriptor and a mapping of another process
//! each count; our own mapping was made from the same description. A memfd's first description counts for nothing: one
//! that was opened anew is asked.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Linux's number for it; the crate libc has no name.
const F_SETSIG: libc::c_int = 10;
/// Asked for instead of SIGIO, which ends a process: this one is ignored by default.
const BREAK_SIGNAL: libc::c_int = libc::SIGURG;

/// True: nobody else has the file open or mapped. False: somebody has, or the kernel does not say.
pub(crate) fn is_ours_alone(file: impl AsFd) -> bool {
    let file = file.as_fd();
    let alone = set(file, F_SETSIG, BREAK_SIGNAL).and_then(|()| set(file, libc::F_SETLEASE, libc::F_WRLCK));
    if alone.is_ok() {
        // Only the answer was wanted.
        let _ = set(file, libc::F_SETLEASE, libc::F_UNLCK);
    }
    alone.is_ok()
}

fn set(file: BorrowedFd<'_>, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: both commands take an integer and touch no memory of ours; the descriptor is open while borrowed.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
