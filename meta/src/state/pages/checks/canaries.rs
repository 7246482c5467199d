//! Each check finds what it is for: a fault is planted, and the violation must bear the right name.

use foreword_proto::{EntryKey, SlotRef};

use super::super::namespaces::NamespaceInfo;
use crate::state::State;
use crate::state::command::Command;
use crate::state::invariants::planted::{KEY, found, step_found};

/// Changes namespace 1.
fn change<T>(state: &mut State, change: impl FnOnce(&mut NamespaceInfo) -> T) -> T {
    state.pages.namespaces.change(1, change).unwrap()
}

#[test]
fn two_pages_in_one_slot() {
    let name = found(|state, slots| {
        change(state, |info| info.table.insert(EntryKey([6; 16]), slots[0], &[1]).map(|_| ()).unwrap());
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn a_published_slot_without_its_page() {
    let name = found(|state, _| {
        change(state, |info| info.table.remove(&KEY).unwrap());
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn a_namespace_under_the_id_of_another() {
    let name = found(|state, _| change(state, |info| info.id = 2));
    assert_eq!(name, "namespaces-are-distinct");
}

#[test]
fn a_cleared_page_that_is_not_counted() {
    let name = found(|state, _| {
        state.apply(9, &Command::Clear { namespace: 1 }, &mut Vec::new());
        state.pages.garbage.entries = 0;
    });
    assert_eq!(name, "entries-are-counted");
}

#[test]
fn a_digest_that_missed_a_change() {
    let name = found(|state, _| state.pages.namespaces.spoil_digest());
    assert_eq!(name, "digest-is-true");
}

#[test]
fn a_page_in_a_slot_of_another_generation() {
    let name = found(|state, slots| {
        let slot = SlotRef { generation: slots[0].generation + 1, ..slots[0] };
        change(state, |info| {
            info.table.remove(&KEY);
            info.table.insert(KEY, slot, &[1]).unwrap();
        });
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn an_epoch_that_falls() {
    let name = step_found(|state, _| change(state, |info| info.epoch = 0));
    assert_eq!(name, "nothing-goes-back");
}

#[test]
fn a_dropped_namespace_that_comes_back() {
    let name = step_found(|state, _| {
        let info = state.pages.namespaces.remove(1).unwrap();
        state.pages.namespaces.add(NamespaceInfo { id: 0, ..NamespaceInfo::clone(&info) });
    });
    assert_eq!(name, "nothing-goes-back");
}
