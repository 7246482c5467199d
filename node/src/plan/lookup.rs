//! What a lookup answers: the leading pages this agent could deliver now, and from where.

use foreword_proto::EntryKey;

/// The leading run of a lookup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeadingRun {
    pub pages: u32,
    pub l1_pages: u32,
    pub l3_pages: u32,
}

/// Counts the leading keys that are in L1, or on L3 where a get would read them now.
pub fn leading_run(
    keys: &[EntryKey],
    mut in_l1: impl FnMut(&EntryKey) -> bool,
    mut on_l3: impl FnMut(&EntryKey) -> bool,
) -> LeadingRun {
    let mut run = LeadingRun::default();
    for key in keys {
        if in_l1(key) {
            run.l1_pages += 1;
        } else if on_l3(key) {
            run.l3_pages += 1;
        } else {
            break;
        }
        run.pages += 1;
    }
    run
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_equals_the_longest_deliverable_prefix(pages in prop::collection::vec((any::<bool>(), any::<bool>()), 0..50)) {
            let keys: Vec<EntryKey> = (0..pages.len()).map(|i| EntryKey([i as u8; 16])).collect();
            let at = |key: &EntryKey| pages[key.0[0] as usize];
            let run = leading_run(&keys, |key| at(key).0, |key| at(key).1);
            let expected = pages.iter().take_while(|(l1, l3)| *l1 || *l3).count();
            prop_assert_eq!(run.pages as usize, expected);
            prop_assert_eq!(run.l1_pages + run.l3_pages, run.pages);
            prop_assert_eq!(run.l1_pages as usize, pages[..expected].iter().filter(|(l1, _)| *l1).count());
        }
    }
}
