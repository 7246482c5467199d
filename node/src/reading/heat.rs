//! Which pages of a namespace were asked for lately.

use std::mem;

use foreword_proto::EntryKey;
use foreword_proto::limits::HEAT_KEYS_PER_REPORT_MAX;
use hashbrown::HashSet;
use parking_lot::Mutex;

/// Keys of one report: more would not fit one message with room to spare, and older ones matter least.
const KEYS_MAX: usize = HEAT_KEYS_PER_REPORT_MAX;

/// Accesses since the last report. An access costs what its chain has, however many there were: repetitions are left
/// out when it is taken.
#[derive(Default)]
pub(super) struct HeatLog {
    accesses: Mutex<Accesses>,
}

/// Oldest first; of `older` none but the newest may be wanted, once `newer` is full.
#[derive(Default)]
struct Accesses {
    older: Vec<EntryKey>,
    newer: Vec<EntryKey>,
}

impl HeatLog {
    /// Leading pages of one chain were used: the root becomes the newest, so that chains go from their leaves.
    pub(super) fn used(&self, chain: &[EntryKey]) {
        if chain.is_empty() {
            return;
        }
        let mut accesses = self.accesses.lock();
        let full = accesses.newer.len() + chain.len() > KEYS_MAX;
        // Let go of outside of the lock.
        let forgotten = full.then(|| {
            let newer = mem::take(&mut accesses.newer);
            mem::replace(&mut accesses.older, newer)
        });
        accesses.newer.extend(chain.iter().rev());
        drop((accesses, forgotten));
    }

    /// Each key once, at the place of its last use, oldest first; at most [`KEYS_MAX`], the newest. The log is empty
    /// then.
    pub(super) fn take(&self) -> Vec<EntryKey> {
        let Accesses { older, newer } = mem::take(&mut *self.accesses.lock());
        let mut seen = HashSet::new();
        let newest_first = newer.iter().rev().chain(older.iter().rev());
        let mut newest: Vec<EntryKey> = newest_first.filter(|key| seen.insert(**key)).take(KEYS_MAX).copied().collect();
        newest.reverse();
        newest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn it_is_the_newest_of_each_key_in_the_order_of_their_last_uses(
            chains in prop::collection::vec(prop::collection::vec(0u8..20, 0..6), 0..40),
        ) {
            let log = HeatLog::default();
            let mut model: Vec<EntryKey> = Vec::new();
            for chain in &chains {
                log.used(&keys(chain));
                for key in keys(chain).into_iter().rev() {
                    model.retain(|other| *other != key);
                    model.push(key);
                }
            }
            prop_assert_eq!(log.take(), model);
        }
    }
}
