//! What a group has before a run begins, where it does not begin with nothing: a state of many thousand pages, as
//! `foreword bench` makes them, on the disks of replicas that have stopped.
//!
//! The state follows from the load alone, but for the directories of its members. Every command of which it was made is
//! kept: the reference and all ledgers follow them from the first, as they follow what the run commits.

use foreword_meta::generated::{CHAIN_PAGES, Keys, Plan, namespace};
use foreword_proto::PageKey;
use foreword_seams::Entropy;

use crate::workload::Space;

/// Chains at the beginning of each namespace whose bytes are on L3, for engines to read: what the whole of it would
/// take is memory.
pub const CHAINS_WRITTEN: u64 = 24;

/// What keys and ids of the state are drawn from.
const SEED: u64 = 1;
/// Slots that rest when the run begins, of pages that were evicted.
const RESTS: u64 = 1_500;
/// Sessions that nobody renews.
const SESSIONS: u32 = 2;
/// Pages of a page file that nobody uses.
const PAGES_OF_FILE: u32 = 2_000;
/// Keys of one lookup among all that there are.
const KEYS_LOOKED_UP: u64 = 48;
/// Keys of a long list, and those among them that may be there.
const KEYS_LISTED: u64 = 4_000;
const KEYS_LISTED_THERE: u64 = 24;

/// The plan of a state with so many pages in each namespace; None: without a namespace, the group begins with nothing.
pub fn plan(namespaces: &[u64]) -> Option<Plan> {
    (!namespaces.is_empty()).then(|| Plan {
        seed: SEED,
        namespaces: namespaces.to_vec(),
        written: CHAINS_WRITTEN * CHAIN_PAGES,
        rests: RESTS,
        sessions: SESSIONS,
        page_files: vec![PAGES_OF_FILE],
    })
}

/// The keys of a namespace, by its place in the load.
pub fn keys(space: usize) -> Keys {
    Plan::pages(SEED, 0).keys(space)
}

/// A namespace of the load.
pub fn space(number: usize) -> Space {
    Space { number: number as u16, namespace: namespace(number) }
}

/// Keys from anywhere in a namespace that had so many pages, and a few that it never had, or had before the run.
pub fn some_keys(random: &dyn Entropy, space: u16, pages: u64) -> Vec<PageKey> {
    let keys = keys(usize::from(space));
    (0..KEYS_LOOKED_UP).map(|_| keys.page(random.below(pages + pages / 16))).collect()
}

/// Keys of a long list that was made long ago: a few may be there, in a row behind those that engines read; the others
/// never were.
pub fn listed_keys(random: &dyn Entropy, space: u16, pages: u64) -> Vec<PageKey> {
    let keys = keys(usize::from(space));
    let written = CHAINS_WRITTEN * CHAIN_PAGES;
    let there = written + random.below(pages - written);
    let never = pages + RESTS;
    (there..there + KEYS_LISTED_THERE).chain(never..never + KEYS_LISTED).map(|number| keys.page(number)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use foreword_seams::SeededEntropy;

    use super::*;

    #[test]
    fn a_list_names_some_pages_that_are_there_and_many_that_never_were() {
        let pages = 5_000;
        let of_plan: BTreeSet<PageKey> = (0..pages + RESTS).map(|number| keys(1).page(number)).collect();
        let listed = listed_keys(&SeededEntropy::new(3), 1, pages);
        let there = listed.iter().filter(|key| of_plan.contains(key)).count() as u64;
        assert_eq!((there, listed.len() as u64), (KEYS_LISTED_THERE, KEYS_LISTED_THERE + KEYS_LISTED));
        let asked = some_keys(&SeededEntropy::new(3), 1, pages);
        let present: BTreeSet<PageKey> = (0..pages).map(|number| keys(1).page(number)).collect();
        let found = asked.iter().filter(|key| present.contains(key)).count() as u64;
        assert!(found > KEYS_LOOKED_UP / 2 && found < KEYS_LOOKED_UP, "{found}");
    }
}
