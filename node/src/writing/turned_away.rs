//! Pages that were refused for lack of room a moment ago: their other shards need not take any.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_proto::{EntryKey, Epoch};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Pages remembered; 48 bytes each. Beyond them a page's other shards wait for it until the gather deadline.
const PAGES_MAX: usize = 65_536;

/// Such pages of one namespace: which shard was refused, and when.
#[derive(Default)]
pub(super) struct TurnedAway(Mutex<BTreeMap<(Epoch, EntryKey), (usize, Instant)>>);

impl TurnedAway {
    /// A shard of this page was refused.
    pub(super) fn add(&self, epoch: Epoch, key: EntryKey, shard: usize) {
        let mut pages = self.0.lock();
        if pages.len() < PAGES_MAX {
            pages.entry((epoch, key)).or_insert_with(|| (shard, Instant::now()));
        }
    }

    /// True if another shard of this page was refused, so that it cannot become whole. That shard itself may be put
    /// again.
    pub(super) fn has(&self, epoch: Epoch, key: EntryKey, shard: usize) -> bool {
        let mut pages = self.0.lock();
        match pages.get(&(epoch, key)) {
            Some((refused, _)) if *refused == shard => {
                pages.remove(&(epoch, key));
                false
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Forgets those of so long ago.
    pub(super) fn forget_older(&self, time: Duration) {
        self.0.lock().retain(|_, (_, since)| since.elapsed() < time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pages_other_shards_are_turned_away_until_it_is_put_again_or_forgotten() {
        let (pages, key) = (TurnedAway::default(), EntryKey([1; 16]));
        pages.add(1, key, 0);
        assert!(pages.has(1, key, 1) && !pages.has(2, key, 1));
        assert!(!pages.has(1, key, 0), "it is put again");
        assert!(!pages.has(1, key, 1));
        pages.add(1, key, 0);
        tokio::time::advance(Duration::from_secs(5)).await;
        pages.forget_older(Duration::from_secs(5));
        assert!(!pages.has(1, key, 1));
    }
}
