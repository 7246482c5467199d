//! Each check finds what it is for: a fault is planted, and the violation must bear the right name.

use foreword_proto::{EntryKey, SessionId};

use crate::state::agents::granted::Granted;
use crate::state::agents::suspicions::Suspicion;
use crate::state::invariants::planted::{KEY, SESSION, found, step_found};

#[test]
fn a_grant_of_a_session_that_ended() {
    let name = found(|state, _| {
        state.agents.sessions.open.clear();
    });
    assert_eq!(name, "grants-end");
}

#[test]
fn a_grant_that_its_session_forgot() {
    let name = found(|state, _| state.agents.sessions.get_mut(SESSION).unwrap().granted = Granted::default());
    assert_eq!(name, "grants-end");
}

#[test]
fn a_digest_that_missed_an_outcome() {
    let name = found(|state, _| state.agents.sessions.get_mut(SESSION).unwrap().window.spoil_digest());
    assert_eq!(name, "digest-is-true");
}

#[test]
fn a_suspicion_of_a_page_that_left() {
    let name = found(|state, _| {
        state.agents.suspicions.add((1, EntryKey([9; 16])), Suspicion { session: SESSION, since_ms: 0 });
    });
    assert_eq!(name, "suspicions-stand");
}

#[test]
fn a_suspicion_that_its_session_does_not_count() {
    let name = found(|state, _| state.agents.suspicions.add((1, KEY), Suspicion { session: SESSION, since_ms: 0 }));
    assert_eq!(name, "suspicions-stand");
}

#[test]
fn a_holder_that_is_another_sessions() {
    for (holder, session) in [(1, SessionId([9; 16])), (2, SESSION)] {
        let name = found(|state, _| {
            state.agents.sessions.holders.insert(holder, session);
        });
        assert_eq!(name, "grants-end");
    }
}

#[test]
fn a_session_or_a_holder_given_out_twice() {
    assert_eq!(step_found(|state, _| state.agents.sessions.next = 1), "nothing-goes-back");
    let twice = step_found(|state, _| state.agents.sessions.get_mut(SESSION).unwrap().node = "z".into());
    assert_eq!(twice, "nothing-goes-back");
    let twice = step_found(|state, _| {
        let closed = state.agents.sessions.close(SESSION).unwrap();
        state.agents.sessions.insert(SessionId([9; 16]), (*closed).clone());
    });
    assert_eq!(twice, "nothing-goes-back");
}
