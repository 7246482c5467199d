//! How fast the other replicas acknowledge, and whether this one shows itself to them at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Acknowledgements that are remembered of each peer.
const KEPT: usize = 32;

/// When each acknowledgement came, and how long after its entries were sent.
type Acknowledgements = VecDeque<(Instant, Duration)>;

/// By replica id.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    silent: AtomicBool,
    peers: Mutex<BTreeMap<u64, Acknowledgements>>,
}

impl Pulse {
    /// A silent replica sends no append: its followers choose another leader.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    pub(super) fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Release);
    }

    /// The peer has flushed entries, `took` after they were sent.
    pub(super) fn acknowledged(&self, peer: u64, took: Duration) {
        let mut peers = self.peers.lock();
        let last = peers.entry(peer).or_default();
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back((Instant::now(), took));
    }

    /// The smallest median over those of `among` that acknowledged at least `count` times within `window`.
    pub(super) fn fastest(&self, among: &BTreeSet<u64>, window: Duration, count: usize) -> Option<Duration> {
        let now = Instant::now();
        let peers = self.peers.lock();
        let medians = peers.iter().filter(|(peer, _)| among.contains(peer)).filter_map(|(_, last)| {
            let recent = last.iter().filter(|(at, _)| *at + window >= now);
            let mut took: Vec<_> = recent.map(|(_, took)| *took).collect();
            took.sort_unstable();
            (took.len() >= count.max(1)).then(|| took[took.len() / 2])
        });
        medians.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_fastest_peer_is_one_that_acknowledges_now() {
        let (pulse, window, all) = (Pulse::default(), Duration::from_secs(10), BTreeSet::from([2, 3]));
        let ms = Duration::from_millis;
        assert_eq!(pulse.fastest(&all, window, 3), None);
        for took in [1, 2, 900] {
            pulse.acknowledged(2, ms(took));
        }
        for took in [50, 60, 70] {
            pulse.acknowledged(3, ms(took));
        }
        assert_eq!(pulse.fastest(&all, window, 3), Some(ms(2)));
        assert_eq!(pulse.fastest(&BTreeSet::from([3]), window, 3), Some(ms(60)));
        assert_eq!(pulse.fastest(&all, window, 4), None);
        tokio::time::advance(window * 2).await;
        assert_eq!(pulse.fastest(&all, window, 3), None);
    }
}
