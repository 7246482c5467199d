//! How long the log's flushes take: what tells a slow disk from a dead network.

use std::collections::VecDeque;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Flushes that are remembered.
const KEPT: usize = 32;

/// The flush that is under way, and the last ones.
#[derive(Default)]
pub struct Flushes {
    inner: Mutex<Inner>,
    seconds: OnceLock<Histogram>,
}

impl fmt::Debug for Flushes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[derive(Debug, Default)]
struct Inner {
    since: Option<Instant>,
    /// When each ended, and how long it took.
    last: VecDeque<(Instant, Duration)>,
}

impl Flushes {
    /// Each flush is recorded there, too.
    pub fn record_in(&self, seconds: Histogram) {
        self.seconds.get_or_init(|| seconds);
    }

    pub(super) fn begin(&self) {
        self.inner.lock().since = Some(Instant::now());
    }

    pub(super) fn end(&self) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        let Some(since) = inner.since.take() else { return };
        if inner.last.len() == KEPT {
            inner.last.pop_front();
        }
        inner.last.push_back((now, now - since));
        if let Some(seconds) = self.seconds.get() {
            seconds.record((now - since).as_secs_f64());
        }
    }

    /// For how long the flush has been under way that is; zero when none is.
    pub fn under_way(&self) -> Duration {
        self.inner.lock().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The median of the flushes that ended within `window`; None when they are fewer than `count`.
    pub fn median(&self, window: Duration, count: usize) -> Option<Duration> {
        let now = Instant::now();
        let inner = self.inner.lock();
        let recent = inner.last.iter().filter(|(ended, _)| *ended + window >= now);
        let mut took: Vec<_> = recent.map(|(_, took)| *took).collect();
        took.sort_unstable();
        (took.len() >= count.max(1)).then(|| took[took.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_median_is_of_the_last_flushes_only() {
        let flushes = Flushes::default();
        for ms in [10, 10, 10, 300, 300, 300, 300] {
            flushes.begin();
            tokio::time::advance(Duration::from_millis(ms)).await;
            assert_eq!(flushes.under_way(), Duration::from_millis(ms));
            flushes.end();
        }
        assert_eq!(flushes.under_way(), Duration::ZERO);
        let window = Duration::from_secs(10);
        assert_eq!(flushes.median(window, 5), Some(Duration::from_millis(300)));
        assert_eq!(flushes.median(window, 8), None);
        tokio::time::advance(window).await;
        assert_eq!(flushes.median(window, 5), None);
    }
}
