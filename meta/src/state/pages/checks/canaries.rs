//! Each check finds what it is for: a fault is planted, and the violation must bear the right name.

use foreword_proto::{EntryKey, Namespace, SlotRef};

use super::super::namespaces::NamespaceInfo;
use crate::state::command::Command;
use crate::state::invariants::planted::{KEY, found, step_found};

#[test]
fn two_pages_in_one_slot() {
    let name = found(|state, slots| {
        state.pages.index.insert(1, EntryKey([6; 16]), slots[0], &[1]).unwrap();
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn a_published_slot_without_its_page() {
    let name = found(|state, _| {
        state.pages.index.remove(1, 1, &KEY);
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn two_namespaces_in_one_table() {
    let name = found(|state, _| {
        let namespace = Box::new(Namespace::simple("other", 16, vec![4096]));
        state.apply(9, &Command::RegisterNamespace { namespace }, &mut Vec::new());
        state.pages.namespaces.get_mut(2).unwrap().table = 1;
    });
    assert_eq!(name, "namespaces-are-distinct");
}

#[test]
fn a_page_that_is_not_counted() {
    let name = found(|state, _| state.pages.namespaces.get_mut(1).unwrap().pages = 0);
    assert_eq!(name, "entries-are-counted");
}

#[test]
fn a_digest_that_missed_a_change() {
    let name = found(|state, _| state.pages.entries_digest ^= 1);
    assert_eq!(name, "digest-is-true");
}

#[test]
fn a_page_in_a_slot_of_another_generation() {
    let name = found(|state, slots| {
        state.pages.index.remove(1, 1, &KEY);
        let slot = SlotRef { generation: slots[0].generation + 1, ..slots[0] };
        state.pages.index.insert(1, KEY, slot, &[1]).unwrap();
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn an_epoch_that_falls() {
    let name = step_found(|state, _| state.pages.namespaces.get_mut(1).unwrap().epoch = 0);
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
