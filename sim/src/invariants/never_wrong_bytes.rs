//! `never-wrong-bytes`: a read gives the bytes that were put under its key, or a miss.
//!
//! The client compares every byte with what the key and the shard's nonce generate; the history has where they differ.

use super::{Invariant, View, Violation, ensure};
use crate::history::{History, Outcome};

const NAME: &str = "never-wrong-bytes";

/// Looks at every page that a get gave.
#[derive(Debug, Default)]
pub struct NeverWrongBytes {
    seen: usize,
    pages: u64,
}

impl NeverWrongBytes {
    fn look(&mut self, history: &History) -> Result<(), Violation> {
        let new = &history.records[self.seen.min(history.records.len())..];
        self.seen = history.records.len();
        for record in new {
            let Outcome::Got { pages } = &record.result else { continue };
            for page in pages.iter().filter(|page| page.hit) {
                self.pages += 1;
                ensure(NAME, page.shards.is_ok(), || {
                    let wrong = page.shards.as_ref().err().cloned().unwrap_or_default();
                    format!(
                        "client {} read {} from tier {} at {:?}: {wrong}",
                        record.client, page.key, page.tier, record.returned
                    )
                })?;
            }
        }
        Ok(())
    }
}

impl Invariant for NeverWrongBytes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.pages
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.look(view.history)
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{got, history};

    #[test]
    fn wrong_bytes_are_found_and_misses_are_not() {
        let mut check = NeverWrongBytes::default();
        let right = history(vec![got(1, vec![(1, Ok(vec![7])), (2, Ok(vec![8]))])]);
        assert_eq!(check.look(&right), Ok(()));
        let mut missed = got(1, vec![(1, Err("shard 0 byte 3".into()))]);
        if let Outcome::Got { pages } = &mut missed.result {
            pages[0].hit = false;
        }
        assert_eq!(NeverWrongBytes::default().look(&history(vec![missed])), Ok(()));
        let wrong = history(vec![got(1, vec![(1, Ok(vec![7])), (2, Err("shard 0 byte 3".into()))])]);
        let violation = NeverWrongBytes::default().look(&wrong).unwrap_err();
        assert_eq!(violation.name, NAME);
        assert!(violation.detail.contains("shard 0 byte 3"), "{}", violation.detail);
    }
}
