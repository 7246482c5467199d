//! What must hold of the room: by the names of docs/INVARIANTS.md.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::{Generation, SlabId, Slot, SlotRef};

use super::rests::Rest;
use super::slots::Counters;
use super::{Room, SlotCounts, SlotUse};
use crate::state::command::{ClusterSettings, next_generation};
use crate::state::violation::{BACK, Violation, ensure};

#[cfg(test)]
mod canaries;

/// Checks one state.
pub(in crate::state) fn check(room: &Room, settings: &ClusterSettings) -> Result<(), Violation> {
    slots_add_up(room)?;
    budget_is_kept(room, settings)?;
    rests_are_ordered(room)
}

/// `slots-add-up`: every slot is free, granted, resting or published, and the counts say how many.
fn slots_add_up(room: &Room) -> Result<(), Violation> {
    const NAME: &str = "slots-add-up";
    for (id, slab) in &room.slots.slabs {
        let mut counted = SlotCounts { free: slab.slots.into(), ..SlotCounts::default() };
        for (_, _, used) in slab.iter() {
            counted.free -= u64::from(used != SlotUse::Free);
            counted.granted += u64::from(matches!(used, SlotUse::Granted(_)));
            counted.published += u64::from(matches!(used, SlotUse::Published(_)));
            counted.resting += u64::from(used == SlotUse::Resting);
        }
        ensure(NAME, counted == slab.counts, || format!("slab {id}: {counted:?} counted, {:?} kept", slab.counts))?;
    }
    let resting: u64 = room.slots.slabs.values().map(|slab| slab.counts.resting).sum();
    ensure(NAME, resting == room.rests.len() as u64, || {
        format!("{resting} slots rest, {} wait for their release", room.rests.len())
    })
}

/// `budget-is-kept`: slabs take no more than the L3 budget, each belongs to the class of its slot size, ids are below
/// the next.
fn budget_is_kept(room: &Room, settings: &ClusterSettings) -> Result<(), Violation> {
    const NAME: &str = "budget-is-kept";
    let slots = &room.slots;
    let bytes: u64 = slots.slabs.values().map(|slab| slab.file_bytes()).sum();
    ensure(NAME, bytes == slots.file_bytes && bytes <= settings.l3_bytes, || {
        format!("slabs take {bytes} bytes, {} are kept, the budget is {}", slots.file_bytes, settings.l3_bytes)
    })?;
    let classed: usize = slots.classes.values().map(|class| class.slabs.len()).sum();
    ensure(NAME, classed == slots.slabs.len(), || format!("{classed} slabs are in classes"))?;
    for (slot_bytes, class) in &slots.classes {
        ensure(NAME, class.slabs.is_sorted(), || format!("class {slot_bytes}: {:?}", class.slabs))?;
        for slab in &class.slabs {
            let of_class = slots.slabs.get(slab).is_some_and(|table| table.slot_bytes == *slot_bytes);
            let below_next = *slab < slots.counters.next_slab;
            ensure(NAME, of_class && below_next, || format!("slab {slab} in class {slot_bytes}"))?;
        }
    }
    Ok(())
}

/// `rests-are-ordered`: each queue holds resting slots, once, by deadline.
fn rests_are_ordered(room: &Room) -> Result<(), Violation> {
    const NAME: &str = "rests-are-ordered";
    let mut seen = BTreeSet::new();
    for queue in [&room.rests.read, &room.rests.write] {
        let ordered = queue.iter().is_sorted_by_key(|rest| rest.due_ms);
        ensure(NAME, ordered, || format!("deadlines {:?}", queue.iter().map(|rest| rest.due_ms).collect::<Vec<_>>()))?;
        for Rest { slab, slot, .. } in queue.iter() {
            let used = room.get(slab, slot);
            let rests = matches!(used, Some((_, SlotUse::Resting))) && seen.insert((slab, slot));
            ensure(NAME, rests, || format!("slot {slot} of slab {slab} waits for its release, its use is {used:?}"))?;
        }
    }
    Ok(())
}

impl Room {
    /// All slots that were ever granted.
    pub(in crate::state) fn all_slots(&self) -> impl Iterator<Item = (SlotRef, SlotUse)> + '_ {
        self.slots.slabs.iter().flat_map(|(slab, table)| {
            table.iter().map(|(slot, generation, used)| (SlotRef { slab: *slab, slot, generation }, used))
        })
    }

    /// Slots that are published, by the counts that are kept.
    pub(in crate::state) fn published(&self) -> u64 {
        self.slots.slabs.values().map(|slab| slab.counts.published).sum()
    }
}

/// What a later room is held against.
#[derive(Debug, Clone)]
pub(in crate::state) struct Summary {
    counters: Counters,
    slabs: BTreeSet<SlabId>,
    slots: BTreeMap<(SlabId, Slot), (Generation, SlotUse)>,
}

impl Summary {
    pub(in crate::state) fn of(room: &Room) -> Self {
        let slots = room.all_slots().map(|(at, used)| ((at.slab, at.slot), (at.generation, used)));
        Self {
            counters: room.slots.counters,
            slabs: room.slots.slabs.keys().copied().collect(),
            slots: slots.collect(),
        }
    }
}

/// Checks one command's step.
pub(in crate::state) fn check_step(before: &Summary, room: &Room) -> Result<(), Violation> {
    let (was, now) = (before.counters, room.slots.counters);
    let forward = was.next_slab <= now.next_slab && was.slots_reused <= now.slots_reused;
    ensure(BACK, forward, || format!("{now:?} after {was:?}"))?;
    for id in room.slots.slabs.keys() {
        let known = before.slabs.contains(id) || *id >= was.next_slab;
        ensure(BACK, known, || format!("slab {id} came back"))?;
    }
    before.slots.iter().try_for_each(|((slab, slot), was)| step_of_slot(room, (*slab, *slot), *was))
}

/// `generations-never-fall`: a slot's generation rises by one, when it is granted, and otherwise stays;
/// and it is granted only when it was free (`one-slot-one-page`).
fn step_of_slot(room: &Room, (slab, slot): (SlabId, Slot), was: (Generation, SlotUse)) -> Result<(), Violation> {
    const NAME: &str = "generations-never-fall";
    let Some((generation, used)) = room.get(slab, slot) else {
        // The slab was dropped: nothing of it may have been in use.
        return ensure("one-slot-one-page", was.1 == SlotUse::Free, || format!("slab {slab} was dropped with {was:?}"));
    };
    let at = SlotRef { slab, slot, generation };
    if generation != was.0 {
        let granted = matches!(used, SlotUse::Granted(_));
        ensure(NAME, granted && generation == next_generation(was.0), || format!("{at:?} was {was:?}"))?;
        return ensure("one-slot-one-page", was.1 == SlotUse::Free, || format!("{at:?} was granted while {was:?}"));
    }
    let allowed = match (was.1, used) {
        (before, now) if before == now => true,
        (SlotUse::Granted(_), SlotUse::Published(_) | SlotUse::Resting | SlotUse::Free) => true,
        (SlotUse::Published(_), SlotUse::Resting) => true,
        (SlotUse::Resting, SlotUse::Free) => true,
        _ => false,
    };
    ensure("one-slot-one-page", allowed, || format!("{at:?} went from {:?} to {used:?}", was.1))
}
