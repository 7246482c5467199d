//! Which pages of a namespace were asked for lately.

use std::collections::BTreeSet;

use foreword_proto::EntryKey;
use foreword_proto::limits::HEAT_KEYS_PER_REPORT_MAX;
use parking_lot::Mutex;

/// Keys of one report: more would not fit one message with room to spare, and older ones matter least.
const KEYS_MAX: usize = HEAT_KEYS_PER_REPORT_MAX;

/// Accesses since the last report, oldest first.
#[derive(Default)]
pub(super) struct HeatLog {
    keys: Mutex<Vec<EntryKey>>,
}

impl HeatLog {
    /// Leading pages of one chain were used: the root becomes the newest, so that chains go from their leaves.
    pub(super) fn used(&self, chain: &[EntryKey]) {
        if chain.is_empty() {
            return;
        }
        let mut keys = self.keys.lock();
        if keys.len() + chain.len() > KEYS_MAX {
            *keys = newest_of_each(&keys);
            let excess = (keys.len() + chain.len()).saturating_sub(KEYS_MAX);
            let gone = excess.min(keys.len());
            keys.drain(..gone);
        }
        keys.extend(chain.iter().rev());
    }

    /// Each key once, oldest use first; the log is empty then.
    pub(super) fn take(&self) -> Vec<EntryKey> {
        let keys = std::mem::take(&mut *self.keys.lock());
        newest_of_each(&keys)
    }
}

/// Each key once, at the place of its last use.
fn newest_of_each(keys: &[EntryKey]) -> Vec<EntryKey> {
    let mut seen = BTreeSet::new();
    let mut newest: Vec<EntryKey> = keys.iter().rev().filter(|key| seen.insert(**key)).copied().collect();
    newest.reverse();
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: &[u8]) -> Vec<EntryKey> {
        numbers.iter().map(|number| EntryKey([*number; 16])).collect()
    }

    #[test]
    fn the_root_of_the_last_chain_is_the_newest_and_each_key_counts_once() {
        let log = HeatLog::default();
        log.used(&keys(&[1, 2, 3]));
        log.used(&keys(&[1, 2, 4]));
        assert_eq!(log.take(), keys(&[3, 4, 2, 1]));
        assert_eq!(log.take(), []);
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let log = HeatLog::default();
        let chain = |from: u32| -> Vec<EntryKey> {
            (from..from + 40_000).map(|i| EntryKey(std::array::from_fn(|b| i.to_le_bytes()[b % 4]))).collect()
        };
        log.used(&chain(0));
        log.used(&chain(40_000));
        let taken = log.take();
        assert_eq!(taken.len(), KEYS_MAX);
        assert_eq!(taken.last(), chain(40_000).first());
    }
}
