//! Time that this process missed: it was stopped, or its machine slept.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often it beats.
const EVERY: Duration = Duration::from_millis(20);

/// Beats that came late are time in which nothing that was sent here could be heard.
#[derive(Debug)]
pub struct Beat {
    late: Duration,
    at: Mutex<At>,
}

#[derive(Debug)]
struct At {
    last: Instant,
    missed: Duration,
}

impl Beat {
    /// Beats from now on; one counts as missed when it comes later than `late`.
    pub fn new(late: Duration) -> Self {
        Self { late, at: Mutex::new(At { last: Instant::now(), missed: Duration::ZERO }) }
    }

    /// Beats until the task is dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.beat(&mut self.at.lock());
        }
    }

    /// The time missed since this was asked last. It counts up to now: who asks may be the first to run again.
    pub fn missed(&self) -> Duration {
        let mut at = self.at.lock();
        self.beat(&mut at);
        std::mem::take(&mut at.missed)
    }

    fn beat(&self, at: &mut At) {
        let gap = at.last.elapsed();
        at.last = Instant::now();
        if gap > self.late {
            at.missed += gap;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_is_missed_time_and_a_pause_is_not() {
        let beat = Beat::new(Duration::from_millis(500));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(beat.missed(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(beat.missed(), Duration::from_secs(9));
        assert_eq!(beat.missed(), Duration::ZERO);
    }
}
