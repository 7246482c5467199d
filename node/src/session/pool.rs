//! Slots granted to a session and not used yet.

use std::collections::BTreeMap;

use foreword_proto::SlotRef;

/// Slots of one session, by slot size. A slot is in the pool only while nothing that could still be written to it is
/// under way: it was never submitted, or its write completed and its publish said that the key exists elsewhere.
#[derive(Debug, Default)]
pub struct SlotPool {
    classes: BTreeMap<u32, Vec<SlotRef>>,
}

impl SlotPool {
    /// Adds slots of a grant; they are handed out in the grant's order.
    pub fn add(&mut self, slot_bytes: u32, slots: &[SlotRef]) {
        let class = self.classes.entry(slot_bytes).or_default();
        class.splice(0..0, slots.iter().rev().copied());
    }

    /// Takes up to `slots_max` slots.
    pub fn take(&mut self, slot_bytes: u32, slots_max: usize) -> Vec<SlotRef> {
        let Some(class) = self.classes.get_mut(&slot_bytes) else { return Vec::new() };
        let left = class.len().saturating_sub(slots_max);
        let mut taken = class.split_off(left);
        taken.reverse();
        taken
    }

    /// Puts a slot back that nothing can still be writing to; it is the next to be handed out.
    pub fn give_back(&mut self, slot_bytes: u32, slot: SlotRef) {
        self.classes.entry(slot_bytes).or_default().push(slot);
    }

    /// Slots of this size in the pool.
    pub fn held(&self, slot_bytes: u32) -> usize {
        self.classes.get(&slot_bytes).map_or(0, Vec::len)
    }

    /// Empties the pool: the session is over, or its slots go back to the group.
    pub fn drain(&mut self) -> Vec<SlotRef> {
        std::mem::take(&mut self.classes).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(slot: u32) -> SlotRef {
        SlotRef { slab: 1, slot, generation: 1 }
    }

    #[test]
    fn slots_come_in_the_order_of_the_grants() {
        let mut pool = SlotPool::default();
        pool.add(4096, &[slot(0), slot(1), slot(2)]);
        pool.add(4096, &[slot(3)]);
        pool.add(8192, &[slot(9)]);
        assert_eq!(pool.take(4096, 2), [slot(0), slot(1)]);
        pool.give_back(4096, slot(1));
        assert_eq!(pool.take(4096, 10), [slot(1), slot(2), slot(3)]);
        assert_eq!((pool.held(4096), pool.held(8192)), (0, 1));
        assert_eq!(pool.drain(), [slot(9)]);
        assert_eq!(pool.held(8192), 0);
    }
}
