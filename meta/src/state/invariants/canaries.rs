//! Each check finds what it is for: a fault is planted, and the violation must bear the right name.

use bytes::Bytes;
use foreword_proto::location::{Checksums, Location};
use foreword_proto::records::{self, PageRecord};
use foreword_proto::{EntryKey, Namespace, SlotRef};

use super::{Summary, check, check_step};
use crate::state::State;
use crate::state::command::{ClusterSettings, Command, Outcome, SessionOperation};
use crate::state::rests::Rest;
use crate::state::slab::SlotUse;
use crate::state::suspicions::Suspicion;

/// Session 1 with a granted slot, one published page, one resting slot.
fn sound() -> (State, Vec<SlotRef>) {
    let settings = ClusterSettings {
        chunk_bytes: 4096,
        slab_bytes: 100 * 4096,
        l3_bytes: 640 * 4096,
        read_rest_ms: 10,
        write_rest_ms: 20,
        lease_ms: 1000,
    };
    let mut state = State::new(settings);
    let mut apply = |command| {
        let revision = state.revision() + 1;
        let outcome = state.apply(revision, &command, &mut Vec::new());
        state.finish_entry(revision);
        outcome
    };
    apply(Command::RegisterNamespace { namespace: Box::new(Namespace::simple("m", 16, vec![4096])) });
    apply(Command::OpenSession { node: "a".into(), incarnation: 1, endpoint: String::new() });
    let session = |sequence, operation| Command::Session { session: 1, sequence, operation };
    let granted = apply(session(1, SessionOperation::Grant { slot_bytes: 4096, slots: 3 }));
    let Outcome::Granted { slots, .. } = granted else { panic!("{granted:?}") };
    let location = Location { slot: slots[0], checksums: Checksums::One([1]) };
    let pages: Bytes = records::encode(&[PageRecord { key: key(), parent: 0, location }], 1);
    apply(session(2, SessionOperation::Publish { namespace: 1, epoch: 1, pages }));
    apply(session(3, SessionOperation::Abort { unwritten: vec![], unknown: vec![slots[1]] }));
    check(&state).expect("a sound state");
    (state, slots)
}

fn key() -> EntryKey {
    EntryKey([5; 16])
}

/// The name of the invariant that is broken after `fault`.
fn found(fault: impl FnOnce(&mut State, &[SlotRef])) -> &'static str {
    let (mut state, slots) = sound();
    fault(&mut state, &slots);
    check(&state).expect_err("a planted fault").name
}

#[test]
fn two_pages_in_one_slot() {
    let name = found(|state, slots| {
        state.index.insert(1, EntryKey([6; 16]), slots[0], &[1]).unwrap();
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn a_page_in_a_slot_of_another_generation() {
    let name = found(|state, slots| {
        let generation = slots[0].generation + 1;
        state.slots.set(SlotRef { generation, ..slots[0] }, SlotUse::Published(0));
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn a_published_slot_without_its_page() {
    let name = found(|state, _| {
        state.index.remove(1, 1, &key());
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn a_count_that_is_off() {
    let name = found(|state, slots| state.slots.slabs.get_mut(&slots[0].slab).unwrap().counts.free += 1);
    assert_eq!(name, "slots-add-up");
}

#[test]
fn a_resting_slot_that_nobody_will_release() {
    let name = found(|state, _| state.rests.write.clear());
    assert_eq!(name, "slots-add-up");
}

#[test]
fn more_slabs_than_the_budget() {
    let name = found(|state, _| state.settings.l3_bytes = 1);
    assert_eq!(name, "budget-is-kept");
}

#[test]
fn a_grant_of_a_session_that_ended() {
    let name = found(|state, _| {
        state.sessions.open.clear();
    });
    assert_eq!(name, "grants-end");
}

#[test]
fn a_grant_that_its_session_forgot() {
    let name = found(|state, _| state.sessions.get_mut(1).unwrap().granted.clear());
    assert_eq!(name, "grants-end");
}

#[test]
fn a_rest_of_a_slot_in_use() {
    let name = found(|state, slots| {
        let rest = state.rests.write.pop_back().unwrap();
        state.rests.write.push_back(Rest { slot: slots[2].slot, slab: slots[2].slab, ..rest });
    });
    assert_eq!(name, "rests-are-ordered");
}

#[test]
fn rests_out_of_order() {
    let name = found(|state, slots| {
        state.slots.set(slots[2], SlotUse::Resting);
        state.sessions.get_mut(1).unwrap().granted.clear();
        state.rests.write.push_back(Rest { due_ms: 0, slab: slots[2].slab, slot: slots[2].slot });
    });
    assert_eq!(name, "rests-are-ordered");
}

#[test]
fn a_suspicion_of_a_page_that_left() {
    let name = found(|state, _| {
        state.suspicions.add((1, EntryKey([9; 16])), Suspicion { session: 1, since_ms: 0 });
    });
    assert_eq!(name, "suspicions-stand");
}

#[test]
fn a_suspicion_that_its_session_does_not_count() {
    let name = found(|state, _| state.suspicions.add((1, key()), Suspicion { session: 1, since_ms: 0 }));
    assert_eq!(name, "suspicions-stand");
}

#[test]
fn two_namespaces_in_one_table() {
    let name = found(|state, _| {
        let namespace = Box::new(Namespace::simple("other", 16, vec![4096]));
        state.apply(9, &Command::RegisterNamespace { namespace }, &mut Vec::new());
        state.namespaces.get_mut(2).unwrap().table = 1;
    });
    assert_eq!(name, "namespaces-are-distinct");
}

#[test]
fn a_page_that_is_not_counted() {
    let name = found(|state, _| state.namespaces.get_mut(1).unwrap().pages = 0);
    assert_eq!(name, "entries-are-counted");
}

#[test]
fn a_digest_that_missed_a_change() {
    let name = found(|state, _| state.entries_digest ^= 1);
    assert_eq!(name, "digest-is-true");
}

/// The name of the invariant that the step from a sound state to the faulty one breaks.
fn step_found(fault: impl FnOnce(&mut State, &[SlotRef])) -> &'static str {
    let (mut state, slots) = sound();
    let before = Summary::of(&state);
    check_step(&before, &state).expect("no step at all");
    fault(&mut state, &slots);
    check_step(&before, &state).expect_err("a planted fault").name
}

#[test]
fn a_generation_that_falls() {
    let name = step_found(|state, slots| {
        state.slots.set(SlotRef { generation: 0, ..slots[2] }, SlotUse::Granted(1));
    });
    assert_eq!(name, "generations-never-fall");
}

#[test]
fn a_generation_that_rises_without_a_grant() {
    let name = step_found(|state, slots| {
        state.slots.set(SlotRef { generation: 2, ..slots[1] }, SlotUse::Resting);
    });
    assert_eq!(name, "generations-never-fall");
}

#[test]
fn a_grant_of_a_resting_slot() {
    let name = step_found(|state, slots| {
        state.slots.set(SlotRef { generation: 2, ..slots[1] }, SlotUse::Granted(1));
    });
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn a_published_slot_that_is_free_without_rest() {
    let name = step_found(|state, slots| state.slots.set(slots[0], SlotUse::Free));
    assert_eq!(name, "one-slot-one-page");
}

#[test]
fn what_goes_back() {
    assert_eq!(step_found(|state, _| state.revision = 1), "nothing-goes-back");
    assert_eq!(step_found(|state, _| state.sessions.next = 1), "nothing-goes-back");
    let twice = step_found(|state, _| state.sessions.get_mut(1).unwrap().node = "z".into());
    assert_eq!(twice, "nothing-goes-back");
}
