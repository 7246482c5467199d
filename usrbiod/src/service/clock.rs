//! The monotonic clock.

use std::time::Duration;

/// Time since some point, never going back.
#[expect(clippy::disallowed_methods, reason = "its callers are other processes of this machine")]
pub(super) fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}
