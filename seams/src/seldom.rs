//! A line that is written at most once a minute, however often its cause recurs.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two lines of one cause.
pub const LINE_EVERY: Duration = Duration::from_secs(60);

/// When the last line was written, and what was left out since.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// Some when a line is due now: the number of times that it was not since the last one.
    pub fn due(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now < last + LINE_EVERY) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_a_minute_and_the_next_says_what_was_left_out() {
        let mut seldom = Seldom::default();
        assert_eq!(seldom.due(), Some(0));
        for _ in 0..59 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(seldom.due(), None);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(seldom.due(), Some(59));
        assert_eq!(seldom.due(), None);
    }
}
