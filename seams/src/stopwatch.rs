//! How long a short piece of work took, for metrics and log lines only: nothing else may be decided by it. In a
//! simulation no work takes any time.

use std::time::Duration;

use rustix::time::{ClockId, Timespec};

/// Time that passed, and the part of it in which this thread ran: on a busy machine they differ.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    pub wall: Duration,
    pub cpu: Duration,
}

/// Started with the work, on the thread that does it.
#[derive(Debug)]
pub struct Stopwatch {
    wall: Timespec,
    cpu: Timespec,
}

impl Stopwatch {
    /// Starts now. Two readings of clocks: about 0.3 µs.
    pub fn start() -> Self {
        Self { wall: read(ClockId::Monotonic), cpu: read(ClockId::ThreadCPUTime) }
    }

    /// What has passed since the start.
    pub fn took(&self) -> Took {
        let wall = since(self.wall, read(ClockId::Monotonic));
        Took { wall, cpu: since(self.cpu, read(ClockId::ThreadCPUTime)) }
    }
}

/// By way of libc, whose clocks are the simulator's on a simulated thread.
#[expect(clippy::disallowed_methods, reason = "what work costs is real time, and only told")]
fn read(clock: ClockId) -> Timespec {
    rustix::time::clock_gettime(clock)
}

fn since(start: Timespec, end: Timespec) -> Duration {
    let nanos = |time: Timespec| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    Duration::from_nanos(nanos(end).saturating_sub(nanos(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_takes_time_and_no_work() {
        let watch = Stopwatch::start();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let timed_out = receiver.recv_timeout(Duration::from_millis(50)).is_err();
        drop(sender);
        let took = watch.took();
        assert!(timed_out && took.wall >= Duration::from_millis(50) && took.cpu < took.wall, "{took:?}");
    }
}
