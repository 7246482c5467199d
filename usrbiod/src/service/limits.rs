//! What the service holds at most, in one place.

use foreword_usrbio::ENTRIES_MAX;

/// Links, data and rings together.
pub const LINKS_MAX: usize = 4096;
/// Bytes one link may map.
pub const LINK_BYTES_MAX: u64 = 1 << 40;
/// Bytes of one I/O; more is EINVAL. The real daemon has no such limit; here it bounds how long one I/O keeps a thread.
pub const IO_BYTES_MAX: u64 = 1 << 30;
/// Threads that do I/O.
pub const THREADS_MAX: usize = 256;
/// I/Os of one job of a ring that does not say how many it wants (io_depth 0).
pub(super) const JOB_IOS_MAX: u32 = 256;
/// Jobs taken from one ring before the next ring has its turn.
pub(super) const JOBS_PER_TURN: usize = 32;
/// Jobs that wait for a thread, for each priority. When so many wait, rings are left alone until half of them are gone.
pub(super) const JOBS_QUEUED_MAX: usize = 1024;
/// Calls for further threads to help with a job.
pub(super) const HELPERS_QUEUED_MAX: usize = 1024;
/// Bytes a thread moves for one job before it lets other jobs have a turn.
pub(super) const TURN_BYTES: u64 = 16 << 20;
/// Jobs that were held back and wait for a thread.
pub(super) const LATE_QUEUED_MAX: usize = 1024;
/// Jobs that a fault holds back. A fault beyond it does not happen.
pub(super) const HELD_MAX: usize = 16_384;
/// Mapped memory that the guard knows: rings that are linked, as many again that live on in their jobs, and semaphores.
pub(super) const GUARDS_MAX: usize = 2 * LINKS_MAX + 64;

const _: () = assert!(JOBS_PER_TURN <= JOBS_QUEUED_MAX && JOB_IOS_MAX <= ENTRIES_MAX);
const _: () = assert!(HELPERS_QUEUED_MAX >= THREADS_MAX, "one job can call all threads");
