//! A sound state to plant faults in, and the name of the check that finds one.

use bytes::Bytes;
use foreword_proto::location::{Checksums, Location};
use foreword_proto::records::{self, PageRecord};
use foreword_proto::{AgentId, DirectoryId, EntryKey, Namespace, SessionId, SlotRef};

use super::{Summary, check, check_step};
use crate::state::State;
use crate::state::command::{ClusterSettings, Command, Outcome, SessionOperation};

/// The key of the page that is published.
pub(in crate::state) const KEY: EntryKey = EntryKey([5; 16]);

/// The session that is open; to its slots it is holder 1.
pub(in crate::state) const SESSION: SessionId = SessionId([6; 16]);

/// The replica id that has a directory.
pub(in crate::state) const REPLICA: u64 = 3;

/// Namespace 1 with one page. [`SESSION`] with its slots: one published, one resting, one granted.
pub(in crate::state) fn sound() -> (State, Vec<SlotRef>) {
    let settings = ClusterSettings { slab_bytes: 100 * 4096, l3_bytes: 640 * 4096, ..ClusterSettings::of_a_test() };
    let mut state = State::new(settings);
    let mut apply = |command| {
        let revision = state.revision() + 1;
        let outcome = state.apply(revision, &command, &mut Vec::new());
        state.finish_entry(revision);
        outcome
    };
    apply(Command::RegisterNamespace { namespace: Box::new(Namespace::simple("m", 16, vec![4096])) });
    let (node, agent, endpoint) = ("a".into(), AgentId([1; 16]), String::new());
    apply(Command::OpenSession { session: SESSION, node, agent, incarnation: 1, endpoint });
    let session = |sequence, operation| Command::Session { session: SESSION, sequence, operation };
    let granted = apply(session(1, SessionOperation::Grant { slot_bytes: 4096, slots: 3 }));
    let Outcome::Granted { slots, .. } = granted else { panic!("{granted:?}") };
    let location = Location { slot: slots[0], checksums: Checksums::One([1]) };
    let pages: Bytes = records::encode(&[PageRecord { key: KEY, parent: 0, location }], 1);
    apply(session(2, SessionOperation::Publish { namespace: 1, epoch: 1, pages }));
    apply(session(3, SessionOperation::Abort { unwritten: vec![], unknown: vec![slots[1]] }));
    apply(Command::RecordMember { replica_id: REPLICA, directory: DirectoryId([3; 16]) });
    check(&state).expect("a sound state");
    (state, slots)
}

/// The name of the invariant that is broken after `fault`.
pub(in crate::state) fn found(fault: impl FnOnce(&mut State, &[SlotRef])) -> &'static str {
    let (mut state, slots) = sound();
    fault(&mut state, &slots);
    check(&state).expect_err("a planted fault").name
}

/// The name of the invariant that the step from a sound state to the faulty one breaks.
pub(in crate::state) fn step_found(fault: impl FnOnce(&mut State, &[SlotRef])) -> &'static str {
    let (mut state, slots) = sound();
    let before = Summary::of(&state);
    check_step(&before, &state).expect("no step at all");
    fault(&mut state, &slots);
    check_step(&before, &state).expect_err("a planted fault").name
}
