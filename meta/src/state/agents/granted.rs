//! The slots a session holds: a grant is runs of slots, so a word says it of 64.

use std::collections::BTreeMap;

use foreword_proto::{SlabId, Slot};

/// A set of slots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Granted {
    /// By slab and number of the word; none is 0.
    words: BTreeMap<(SlabId, u32), u64>,
    len: usize,
}

/// The word of a slot, and its bit there.
fn place(slab: SlabId, slot: Slot) -> ((SlabId, u32), u64) {
    ((slab, slot / 64), 1 << (slot % 64))
}

impl Granted {
    /// Adds a slot; false if it was there.
    pub(super) fn insert(&mut self, slab: SlabId, slot: Slot) -> bool {
        let (number, bit) = place(slab, slot);
        let word = self.words.entry(number).or_default();
        let fresh = *word & bit == 0;
        *word |= bit;
        self.len += usize::from(fresh);
        fresh
    }

    /// Takes a slot out; false if it was not there.
    pub(super) fn remove(&mut self, slab: SlabId, slot: Slot) -> bool {
        let (number, bit) = place(slab, slot);
        let Some(word) = self.words.get_mut(&number).filter(|word| **word & bit != 0) else { return false };
        *word &= !bit;
        if *word == 0 {
            self.words.remove(&number);
        }
        self.len -= 1;
        true
    }

    pub(super) fn contains(&self, slab: SlabId, slot: Slot) -> bool {
        let (number, bit) = place(slab, slot);
        self.words.get(&number).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SlabId, Slot)> + '_ {
        self.words.iter().flat_map(|((slab, number), word)| {
            let set = (0..64).filter(move |bit| word & (1 << bit) != 0);
            set.map(move |bit| (*slab, number * 64 + bit))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_in_order(steps in prop::collection::vec((1u32..3, 0u32..200, any::<bool>()), 0..200)) {
            let (mut granted, mut model) = (Granted::default(), BTreeSet::new());
            for (slab, slot, add) in steps {
                if add {
                    prop_assert_eq!(granted.insert(slab, slot), model.insert((slab, slot)));
                } else {
                    prop_assert_eq!(granted.remove(slab, slot), model.remove(&(slab, slot)));
                }
                prop_assert_eq!(granted.contains(slab, slot), add);
                prop_assert_eq!((granted.len(), granted.is_empty()), (model.len(), model.is_empty()));
            }
            prop_assert!(granted.iter().eq(model.into_iter()));
        }
    }
}
