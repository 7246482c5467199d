//! Each check finds what it is for: a fault is planted, and the violation must bear the right name.

use std::sync::Arc;

use foreword_proto::EntryKey;

use super::super::{File, FileName, Hf3fsCommand, Hf3fsOperation, PageIndex};
use super::ListName;
use crate::state::State;
use crate::state::command::{ClusterSettings, Command, Outcome};
use crate::state::invariants::{Summary, check, check_command, check_step};

fn key(number: u8) -> EntryKey {
    EntryKey([number; 16])
}

fn apply(state: &mut State, command: Command) {
    let revision = state.revision() + 1;
    state.begin_entry(1, revision);
    let outcome = state.apply(revision, &command, &mut Vec::new());
    assert!(matches!(outcome, Outcome::Hf3fs(_) | Outcome::Done), "{outcome:?}");
    state.finish_entry(revision);
}

fn on(operation: Hf3fsOperation) -> Command {
    Command::Hf3fs(Hf3fsCommand::On { file: 0, touched: vec![], operation })
}

fn reserve(keys: &[u8], victims: Vec<PageIndex>) -> Command {
    on(Hf3fsOperation::Reserve { term: 1, keys: keys.iter().map(|number| key(*number)).collect(), victims })
}

fn confirm(pages: &[(u8, PageIndex)], released: Vec<PageIndex>) -> Command {
    let written = pages.iter().map(|(number, index)| (key(*number), *index)).collect();
    on(Hf3fsOperation::Confirm { written, released })
}

/// Pages 0 to 9 of file 0: 0 to 2 never used, 3 and 4 cleared, 5 resting until 70, 6 reserved for 4, 7 to 9 confirmed
/// for 3, 2 and 1, of which 9 was read; now is 50, where the cleared ones rest until 60.
fn sound() -> State {
    let mut state = State::new(ClusterSettings::of_a_test());
    let name = FileName { deployment: String::new(), rank: 0, pool: "kv".into() };
    apply(&mut state, Command::Hf3fs(Hf3fsCommand::Initialize { name, pages: 10 }));
    apply(&mut state, reserve(&[1, 2, 3, 4, 5, 6, 7], vec![]));
    apply(&mut state, on(Hf3fsOperation::Clear { rest_ms: 0 }));
    apply(&mut state, Command::Tick { now_ms: 50 });
    apply(&mut state, reserve(&[1, 2, 3, 4, 5], vec![]));
    apply(&mut state, confirm(&[(1, 9), (2, 8), (3, 7)], vec![5]));
    apply(&mut state, Command::Hf3fs(Hf3fsCommand::On { file: 0, touched: vec![9], operation: Hf3fsOperation::Touch }));
    file(&mut state).cleared_from_ms = 60;
    check(&state).expect("a sound state");
    state
}

fn file(state: &mut State) -> &mut File {
    Arc::make_mut(state.hf3fs.files.get_mut(&0).expect("file 0"))
}

/// The name of the invariant that is broken after `fault`.
fn found(fault: impl FnOnce(&mut File)) -> &'static str {
    let mut state = sound();
    fault(file(&mut state));
    check(&state).expect_err("a planted fault").name
}

#[test]
fn faults_of_one_state() {
    type Fault = fn(&mut File);
    let faults: [(&str, Fault); 15] = [
        ("a page whose key finds another", |file| file.table.link_mut(8).key = key(1)),
        ("a key without its page", |file| file.places.remove(&key(2), 8)),
        ("a key that no page has", |file| {
            let table = file.table.clone();
            file.places.insert(&key(99), 5, &table);
        }),
        ("a page that no list leads to", |file| file.table.link_mut(8).next = super::NO_PAGE),
        ("a link back to another page", |file| file.table.link_mut(7).prev = 9),
        ("a list that is a circle", |file| file.table.link_mut(7).next = 8),
        ("a page of another use in a list", |file| file.table.link_mut(7).list = Some(ListName::Reserved)),
        ("a count that is off", |file| file.table.ends_mut(ListName::Written).pages += 1),
        ("a head that was forgotten", |file| file.table.ends_mut(ListName::Resting).head = super::NO_PAGE),
        ("pages out of the order of their use", |file| file.table.link_mut(8).stamp = 2),
        ("one use of two pages", |file| file.table.link_mut(9).stamp = 2),
        ("a use that is still to come", |file| file.sequence = 1),
        ("a deadline that nobody counts", |file| file.dues = super::super::dues::Dues::default()),
        ("a page held that was never used", |file| file.never_used += 4),
        ("pages that are never given out again", |file| file.cleared.end -= 1),
    ];
    for (what, fault) in faults {
        assert_eq!(found(fault), "one-page-one-key", "{what}");
    }
    assert_eq!(found(|file| file.table.digest ^= 1), "digest-is-true");
}

#[test]
fn two_files_of_one_name() {
    let mut state = sound();
    let twin = state.hf3fs.files[&0].clone();
    state.hf3fs.files.insert(1, twin);
    state.hf3fs.next_file = 2;
    assert_eq!(check(&state).expect_err("a planted fault").name, "one-page-one-key");
}

/// The name of the invariant that the step from a sound state to the faulty one breaks.
fn step_found(what: &str, fault: impl FnOnce(&mut File)) -> &'static str {
    let mut state = sound();
    let before = Summary::of(&state);
    check_step(&before, &state).expect("no step at all");
    fault(file(&mut state));
    let violation = check_step(&before, &state).expect_err(what);
    violation.name
}

#[test]
fn pages_that_go_where_they_may_not() {
    type Fault = fn(&mut File);
    let faults: [(&str, Fault); 9] = [
        ("a reserved page is given to another writer", |file| {
            file.forget(6);
            file.hold(ListName::Reserved, 6, key(50), 50);
        }),
        ("a reserved page is another key's", |file| {
            file.forget(6);
            file.hold_confirmed(6, key(50));
        }),
        ("a resting page is reserved before it is due", |file| {
            file.table.take(5);
            file.hold(ListName::Reserved, 5, key(50), 50);
        }),
        ("a cleared page is reserved before it is due", |file| file.hold(ListName::Reserved, 4, key(50), 50)),
        ("a cleared page is imported", |file| file.hold_confirmed(4, key(50))),
        ("a released page rests too short", |file| {
            file.forget(6);
            file.push_resting(6, 69, 50);
        }),
        ("a resting page is due earlier", |file| {
            file.table.take(5);
            file.push_resting(5, 69, 50);
        }),
        ("a held page is free at once", |file| {
            file.cleared_from_ms = 60;
            file.forget(8);
        }),
        ("an eviction that is not counted", |file| {
            file.forget(8);
            file.hold(ListName::Reserved, 8, key(50), 50);
        }),
    ];
    for (what, fault) in faults {
        assert_eq!(step_found(what, fault), "one-page-one-key", "{what}");
    }
}

#[test]
fn what_goes_back() {
    type Fault = fn(&mut File);
    let faults: [(&str, Fault); 4] = [
        ("a counter falls", |file| file.sequence -= 1),
        ("a page was never used after all", |file| file.never_used += 1),
        ("a page was never held after all", |file| file.never_held += 1),
        ("cleared pages are due earlier", |file| file.cleared_from_ms = 0),
    ];
    for (what, fault) in faults {
        assert_eq!(step_found(what, fault), "nothing-goes-back", "{what}");
    }
    let mut state = sound();
    let before = Summary::of(&state);
    state.hf3fs.files.clear();
    assert_eq!(check_step(&before, &state).expect_err("a file that is gone").name, "nothing-goes-back");
}

/// An eviction is some leader's decision of this term, and for a reserve.
#[test]
fn an_eviction_that_nobody_decided() {
    let mut state = sound();
    let before = Summary::of(&state);
    let evicting = |victims| reserve(&[21, 22, 23, 24], victims);
    apply(&mut state, evicting(vec![7]));
    check_step(&before, &state).unwrap();
    check_command(&before, &evicting(vec![7]), &state).unwrap();
    for other in [evicting(vec![8, 9]), Command::Tick { now_ms: 60 }, on(Hf3fsOperation::Touch)] {
        assert_eq!(check_command(&before, &other, &state).unwrap_err().name, "one-page-one-key");
    }
    state.begin_entry(2, state.revision() + 1);
    assert_eq!(check_command(&before, &evicting(vec![7]), &state).unwrap_err().name, "one-page-one-key");
}

#[test]
fn a_dropped_file_that_comes_back() {
    let mut state = sound();
    let file = state.hf3fs.files[&0].clone();
    apply(&mut state, Command::Hf3fs(Hf3fsCommand::Drop { file: 0, rest_ms: 0 }));
    let before = Summary::of(&state);
    state.hf3fs.put(0, File::clone(&file));
    assert_eq!(check_step(&before, &state).expect_err("it is back").name, "nothing-goes-back");
}

#[test]
fn a_file_made_anew_that_gives_pages_out_which_may_be_in_use() {
    let mut state = sound();
    let name = state.hf3fs.files[&0].name().clone();
    apply(&mut state, Command::Hf3fs(Hf3fsCommand::Drop { file: 0, rest_ms: 0 }));
    let before = Summary::of(&state);
    state.hf3fs.next_file = 2;
    state.hf3fs.put(1, File::new(name, 10));
    assert_eq!(check_step(&before, &state).expect_err("it has room").name, "one-page-one-key");
}
