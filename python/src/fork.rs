//! What one process made is of no use to a child that it forked: threads are gone there, locks may be held for ever,
//! and a socket's other end would see two of us. So each process makes its own.

use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::{mem, ptr};

/// Forks between the process that loaded this module and this one. A process id would say the same, for a system call
/// each time.
static FORKS: AtomicU64 = AtomicU64::new(0);
static COUNTED: Once = Once::new();

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    crate::detached::forked();
}

/// Forks so far, on the way to this process.
fn forks() -> u64 {
    COUNTED.call_once(|| {
        // SAFETY: the handler does nothing but write two atomics, which is allowed after a fork; this module is never
        // unloaded.
        let refused = unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
        assert_eq!(refused, 0, "no memory for a handler of forks");
    });
    FORKS.load(Ordering::Relaxed)
}

/// A value that each process makes for itself when it first asks. No lock: a child may ask although another thread was
/// just asking when it was forked.
pub(crate) struct PerProcess<T>(AtomicPtr<Made<T>>);

struct Made<T> {
    forks: u64,
    value: T,
}

impl<T> PerProcess<T> {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }
}

impl<T: Clone> PerProcess<T> {
    /// This process's value, if it has made one.
    pub(crate) fn peek(&self) -> Option<T> {
        // SAFETY: a value is freed when this is dropped, and no sooner.
        let made = unsafe { self.0.load(Ordering::Acquire).as_ref() }?;
        (made.forks == forks()).then(|| made.value.clone())
    }

    /// This process's value, made now if it has none. What a parent made stays where it is: nothing of it can be ended
    /// here.
    pub(crate) fn get(&self, make: impl Fn() -> T) -> T {
        loop {
            let before = self.0.load(Ordering::Acquire);
            if let Some(value) = self.peek() {
                return value;
            }
            let value = make();
            let made = Box::into_raw(Box::new(Made { forks: forks(), value: value.clone() }));
            if self.0.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return value;
            }
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(made) });
        }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let made = mem::replace(self.0.get_mut(), ptr::null_mut());
        // SAFETY: it came from a box, and nobody else is left who could look at it.
        if !made.is_null() && unsafe { (*made).forks } == forks() {
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(made) });
        }
    }
}
