//! Forked children: a session is its process's alone.
//!
//! A child has its parent's descriptors, so a parent's death would not hang up a session whose socket a child holds. In
//! a child every session's socket is closed before anything else runs, and the session is not the child's: its memory
//! is not mapped there either.

use std::os::fd::RawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Sessions of one process that a fork closes; more are told apart all the same, but keep their sockets open in a
/// child.
const SOCKETS_MAX: usize = 256;
const NONE: i32 = -1;

static FORKS: AtomicU64 = AtomicU64::new(0);
static SOCKETS: [AtomicI32; SOCKETS_MAX] = [const { AtomicI32::new(NONE) }; SOCKETS_MAX];

/// Notices forks from now on.
pub(super) fn watch() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handler calls only what may be called in a child of a process with threads: atomics and close.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

unsafe extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::SeqCst);
    for socket in &SOCKETS {
        let fd = socket.swap(NONE, Ordering::SeqCst);
        if fd != NONE {
            // SAFETY: the descriptor is a session's socket; its owner here never uses it again, nor closes it (see
            // `Line`).
            unsafe { libc::close(fd) };
        }
    }
}

/// Which process this is, counted in forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

impl Generation {
    pub(super) fn now() -> Self {
        Self(FORKS.load(Ordering::SeqCst))
    }

    /// False in a child of the process that made it.
    pub(super) fn is_now(self) -> bool {
        self == Self::now()
    }
}

/// Notes a socket that a child is to close.
pub(super) fn note(fd: RawFd) {
    for socket in &SOCKETS {
        if socket.compare_exchange(NONE, fd, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
    }
}

/// Forgets it.
pub(super) fn forget(fd: RawFd) {
    for socket in &SOCKETS {
        if socket.compare_exchange(fd, NONE, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
    }
}
