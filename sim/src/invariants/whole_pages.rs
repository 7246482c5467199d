//! `whole-pages`: a page that is found has all its shards, of one writer.

use foreword_meta::state::State;

use super::{Invariant, View, Violation, ensure};
use crate::history::{Call, History, Outcome};

const NAME: &str = "whole-pages";

/// Looks at the shards of every page that a get gave.
#[derive(Debug, Default)]
pub struct WholePages {
    seen: usize,
    pages: u64,
}

impl WholePages {
    fn look(&mut self, history: &History, state: &State) -> Result<(), Violation> {
        let new = &history.records[self.seen.min(history.records.len())..];
        self.seen = history.records.len();
        for record in new {
            let (Call::Get { namespace, .. }, Outcome::Got { pages }) = (&record.call, &record.result) else {
                continue;
            };
            let expected = state.namespace(*namespace).map(|info| info.shards());
            for page in pages.iter().filter(|page| page.hit) {
                let Ok(nonces) = &page.shards else { continue };
                self.pages += 1;
                let whole = expected.is_none_or(|expected| expected == nonces.len());
                let of_one = nonces.windows(2).all(|pair| pair[0] == pair[1]);
                ensure(NAME, whole && of_one && !nonces.is_empty(), || {
                    let (client, key) = (record.client, page.key);
                    format!("client {client} read {key}: shards of writers {nonces:x?}, {expected:?} shards expected")
                })?;
            }
        }
        Ok(())
    }
}

impl Invariant for WholePages {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.pages
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.look(view.history, view.oracle.state())
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{got, history};
    use crate::oracle::tests::Log;

    #[test]
    fn torn_and_short_pages_are_found() {
        let log = Log::new(8);
        let look = |shards: Vec<u64>| {
            WholePages::default().look(&history(vec![got(1, vec![(1, Ok(shards))])]), log.oracle.state())
        };
        assert_eq!(look(vec![7]), Ok(()));
        assert!(look(vec![]).is_err());
        assert!(look(vec![7, 7]).is_err(), "the namespace has one shard");
        let two = Log::with_shards(8, vec![4096, 4096]);
        let look = |shards: Vec<u64>| {
            WholePages::default().look(&history(vec![got(1, vec![(1, Ok(shards))])]), two.oracle.state())
        };
        assert_eq!(look(vec![7, 7]), Ok(()));
        assert!(look(vec![7, 8]).is_err(), "two writers");
        assert!(look(vec![7]).is_err(), "a shard is missing");
    }
}
