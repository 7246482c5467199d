//! The machine's own clock: a daemon's time is real even where the caller's is simulated.

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "what is measured is another process of this machine")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Lets real time pass, on a thread of our own.
#[expect(clippy::disallowed_methods, reason = "never called on a runtime's thread")]
pub(super) fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}
