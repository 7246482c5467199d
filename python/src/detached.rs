//! Calls without Python's lock, and what becomes of them when Python ends.
//!
//! A thread that asks for the lock when Python is ending is ended there and then, by an unwinding that no Rust frame
//! may see: the process aborts. SGLang's threads are daemons, which are in our calls at every exit. So a thread whose
//! call is over asks whether Python ends, before it asks for the lock: a hook of `atexit` says so, ends all calls, and
//! waits until nobody is between the two.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{mem, thread};

use pyo3::prelude::*;

use crate::link::close_all;

/// How long the hook waits for threads that come back, and they for Python's end after the hook: others' hooks run
/// between, and may wait for a thread of ours.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);

static ENDING: AtomicBool = AtomicBool::new(false);
/// Threads that ask for the lock.
static COMING_BACK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this is the thread that ends Python: it is the last to be sent away.
    static ENDS_PYTHON: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call without Python's lock. Where Python ends meanwhile, this thread ends with it.
pub(crate) fn detached<T: Send>(py: Python<'_>, call: impl FnOnce() -> T + Send) -> T {
    let (answer, _back) = py.detach(|| {
        let answer = call();
        (answer, ComingBack::announced())
    });
    answer
}

/// Held while the lock is asked for.
struct ComingBack;

impl ComingBack {
    fn announced() -> Self {
        let mut waited = Duration::ZERO;
        loop {
            COMING_BACK.fetch_add(1, Ordering::SeqCst);
            let back = Self;
            if !ENDING.load(Ordering::SeqCst) || ENDS_PYTHON.get() || waited >= PATIENCE {
                return back;
            }
            drop(back);
            while python_has_ended() {
                thread::park();
            }
            thread::park_timeout(LOOK_EVERY);
            waited += LOOK_EVERY;
        }
    }
}

impl Drop for ComingBack {
    fn drop(&mut self) {
        COMING_BACK.fetch_sub(1, Ordering::SeqCst);
    }
}

/// In a child there is nobody else.
pub(crate) fn forked() {
    COMING_BACK.store(0, Ordering::SeqCst);
}

/// Has Python call [`python_ends`] at its end.
pub(crate) fn watch_for_the_end(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let hook = wrap_pyfunction!(python_ends, module)?;
    module.py().import("atexit")?.call_method1("register", (hook,))?;
    Ok(())
}

#[pyfunction]
fn python_ends(py: Python<'_>) {
    ENDS_PYTHON.set(true);
    ENDING.store(true, Ordering::SeqCst);
    // Calls that are under way end before the memory that they copy to.
    py.detach(close_all);
    let mut waited = Duration::ZERO;
    while COMING_BACK.load(Ordering::SeqCst) > 0 && waited < PATIENCE {
        py.detach(|| thread::park_timeout(LOOK_EVERY));
        waited += LOOK_EVERY;
    }
}

/// Whether Python gives its lock to nobody any more. Public from Python 3.13 on, under another name before.
fn python_has_ended() -> bool {
    static ASK: OnceLock<Option<unsafe extern "C" fn() -> c_int>> = OnceLock::new();
    let ask = ASK.get_or_init(|| {
        [c"Py_IsFinalizing", c"_Py_IsFinalizing"].into_iter().find_map(|name| {
            // SAFETY: a lookup of a name that ends with a NUL, among what the process has loaded.
            let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
            // SAFETY: under both names it is a function without arguments that gives an int.
            (!found.is_null()).then(|| unsafe { mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(found) })
        })
    });
    // SAFETY: it may be called at any time, with and without the lock.
    ask.is_some_and(|ask| unsafe { ask() } != 0)
}
