//! Each check finds what it is for: a fault is planted, and the violation must bear the right name.

use foreword_proto::SlotRef;

use crate::state::invariants::planted::{found, step_found};
use crate::state::room::SlotUse;
use crate::state::room::rests::{Queue, Rest};

#[test]
fn a_count_that_is_off() {
    let name = found(|state, slots| state.room.slots.slabs.get_mut(&slots[0].slab).unwrap().counts.free += 1);
    assert_eq!(name, "slots-add-up");
}

#[test]
fn a_resting_slot_that_nobody_will_release() {
    let name = found(|state, _| state.room.rests.write = Queue::default());
    assert_eq!(name, "slots-add-up");
}

#[test]
fn more_slabs_than_the_budget() {
    let name = found(|state, _| state.settings.l3_bytes = 1);
    assert_eq!(name, "budget-is-kept");
}

#[test]
fn a_rest_of_a_slot_in_use() {
    let name = found(|state, slots| {
        let rest = state.room.rests.write.pop().unwrap();
        state.room.rests.write.push(Rest { slot: slots[2].slot, slab: slots[2].slab, ..rest });
    });
    assert_eq!(name, "rests-are-ordered");
}

#[test]
fn rests_out_of_order() {
    let name = found(|state, slots| {
        state.room.slots.set(slots[2], SlotUse::Resting);
        state.room.rests.write.push(Rest { due_ms: 0, slab: slots[2].slab, slot: slots[2].slot });
    });
    assert_eq!(name, "rests-are-ordered");
}

#[test]
fn a_generation_that_falls() {
    let name = step_found(|state, slots| {
        state.room.slots.set(SlotRef { generation: 0, ..slots[2] }, SlotUse::Granted(1));
    });
    assert_eq!(name, "generations-never-fall");
}

#[test]
fn a_generation_that_rises_without_a_grant() {
    let name = step_found(|state, slots| {
        state.room.slots.set(SlotRef { generation: 2, ..slots[1] }, SlotUse::Resting);
    });
    assert_eq!(name, "generations-never-fall");
}

#[test]
fn a_grant_of_a_resting_slot() {
    let name = step_found(|state, slots| {
        state.room.slots.set(SlotRef { generation: 2, ..slots[1] }, SlotUse::Granted(1));
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn a_published_slot_that_is_free_without_rest() {
    let name = step_found(|state, slots| state.room.slots.set(slots[0], SlotUse::Free));
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn a_slab_id_given_out_twice() {
    let name = step_found(|state, _| state.room.slots.counters.next_slab = 1);
    assert_eq!(name, "nothing-goes-back");
}
