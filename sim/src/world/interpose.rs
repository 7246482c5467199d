//! libc's clock and randomness, replaced on simulated threads.
//!
//! meta and node take time from tokio and randomness from their `Deps`, but what they are built on does not: hyper
//! dates its answers by the wall clock, std seeds its hash maps from the kernel. This executable's own `clock_gettime`
//! and `getrandom` come before libc's when the linker resolves them, so that on a simulated thread even those follow
//! from the seed. Every other thread gets the kernel's answer.
//!
//! Who goes past libc reads the processor's cycle counter, as the kernel's own clock functions and fast timers do: on a
//! whole run's thread that is a fault ([`forbid_cycle_counter`]), because what follows from it would differ from run to
//! run, on a busy machine more than on an idle one.

use std::cell::Cell;

use libc::{c_int, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

/// 2026-01-01T00:00:00Z: when every simulation begins.
const EPOCH_SECONDS: u64 = 1_767_225_600;

thread_local! {
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
    static NOW_NANOS: Cell<u64> = const { Cell::new(0) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// From now on this thread's clock stands still until it is set, and its randomness follows from `seed`.
pub(super) fn begin(seed: u64) {
    SIMULATED.set(true);
    NOW_NANOS.set(0);
    RANDOM.set(seed);
}

/// Sets this thread's clock to so long after the beginning.
pub(super) fn set_now_nanos(nanos: u64) {
    NOW_NANOS.set(nanos);
}

/// From now on, a reading of the processor's cycle counter on this thread ends the process with SIGSEGV, at the
/// instruction that reads. A kernel or a processor that cannot do this leaves it as it is: true says that it is
/// forbidden.
pub(crate) fn forbid_cycle_counter() -> bool {
    // SAFETY: takes two numbers, and changes nothing but what this thread may do.
    unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV) == 0 }
}

/// SplitMix64.
fn next_random() -> u64 {
    let state = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    RANDOM.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// # Safety
/// As libc's: `out` points to a timespec.
#[unsafe(no_mangle)]
#[expect(unreachable_pub, reason = "the linker reaches it")]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, out: *mut timespec) -> c_int {
    if !SIMULATED.get() {
        // SAFETY: the arguments are the caller's, for the same call.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) } as c_int;
    }
    let nanos = NOW_NANOS.get();
    let since = timespec {
        tv_sec: (EPOCH_SECONDS + nanos / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the caller gives a timespec to fill.
    unsafe { out.write(since) };
    0
}

/// # Safety
/// As libc's: `buffer` has room for `len` bytes.
#[unsafe(no_mangle)]
#[expect(unreachable_pub, reason = "the linker reaches it")]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    if !SIMULATED.get() {
        // SAFETY: the arguments are the caller's, for the same call.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) } as ssize_t;
    }
    // SAFETY: the caller gives a buffer of `len` bytes, which nobody else has meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next_random().to_le_bytes()[..chunk.len()]);
    }
    len as ssize_t
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the clocks that everybody else must not read are what is tested")]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;
    #[cfg(target_arch = "x86_64")]
    use std::io::Write;
    use std::time::{Duration, Instant, SystemTime};

    use foreword_seams::stopwatch::Stopwatch;

    #[test]
    fn a_simulated_thread_sees_no_clock_and_no_randomness_but_its_own() {
        let look = |seed| {
            let thread = std::thread::spawn(move || {
                super::begin(seed);
                super::set_now_nanos(5_000_000_000);
                let (before, hash) = (Instant::now(), RandomState::new().hash_one("x"));
                super::set_now_nanos(7_500_000_000);
                (before.elapsed(), hash, SystemTime::now())
            });
            thread.join().unwrap()
        };
        let (elapsed, hash, wall) = look(7);
        assert_eq!(elapsed.as_millis(), 2_500);
        assert_eq!((elapsed, hash, wall), look(7));
        assert_ne!(hash, look(8).1);
        let here = Instant::now();
        assert!(SystemTime::now() != wall && here.elapsed().as_secs() < 3600);
    }

    #[test]
    fn work_takes_no_time_on_a_simulated_thread_however_long_it_waits_for_a_processor() {
        let (_nobody, never) = std::sync::mpsc::channel::<()>();
        let waits = move || {
            super::begin(7);
            let watch = Stopwatch::start();
            let elsewhere = std::thread::spawn(move || never.recv_timeout(Duration::from_millis(20)).is_err());
            assert!(elsewhere.join().unwrap());
            let nothing = watch.took();
            super::set_now_nanos(3_000_000);
            (nothing.wall, nothing.cpu, watch.took().wall)
        };
        let took = std::thread::spawn(waits).join().unwrap();
        assert_eq!(took, (Duration::ZERO, Duration::ZERO, Duration::from_millis(3)));
    }

    /// How a process of its own ends that runs `work`, which allocates nothing and locks nothing: a signal's number, or
    /// an exit code.
    #[cfg(target_arch = "x86_64")]
    fn ending(work: impl FnOnce() -> i32) -> Result<i32, i32> {
        let mut status = 0;
        // SAFETY: the child does only what may be done after a fork of one thread of many: system calls and its own
        // arithmetic.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                libc::_exit(work());
            }
            assert!(child > 0 && libc::waitpid(child, &raw mut status, 0) == child);
        }
        if libc::WIFSIGNALED(status) { Err(libc::WTERMSIG(status)) } else { Ok(libc::WEXITSTATUS(status)) }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn who_reads_the_cycle_counter_where_it_is_forbidden_dies_there() {
        // SAFETY: every x86-64 processor has it.
        let reads = || i32::from(unsafe { std::arch::x86_64::_rdtsc() } == 0);
        assert_eq!(ending(reads), Ok(0));
        if ending(|| i32::from(super::forbid_cycle_counter())) == Ok(0) {
            let _ = std::io::stderr().write_all(b"skipped: this kernel cannot forbid the cycle counter\n");
            return;
        }
        assert_eq!(ending(|| i32::from(super::forbid_cycle_counter()) + reads()), Err(libc::SIGSEGV));
    }
}
