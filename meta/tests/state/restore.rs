//! Snapshots that are not whole, not ours, or damaged.

use bytes::Bytes;
use foreword_meta::state::command::{Command, SessionOperation};
use foreword_meta::state::{DecodeError, RestoreError, Restorer, State};
use foreword_proto::Namespace;
use foreword_proto::limits::FORMAT_VERSION;

use crate::examples::{A, Cluster, READ_REST_MS, SECOND};

/// A state with something of everything.
fn varied(pages: u64, slab_slots: u64) -> State {
    let mut cluster = Cluster::with(4 * pages + 200, slab_slots);
    cluster.open("b");
    cluster.fill(pages);
    cluster.delete_oldest(pages / 10);
    cluster.tick(READ_REST_MS / 2);
    cluster.apply(Command::Clear { namespace: 1 });
    cluster.apply(Command::Reclaim { entries_max: pages as u32 / 10 });
    cluster.fill(pages / 2);
    let namespace = Box::new(Namespace { tp_size: 3, ..Namespace::simple("wide", 16, vec![9, 9, 9]) });
    cluster.apply(Command::RegisterNamespace { namespace });
    cluster.grant(SECOND, 9);
    cluster.session(A, SessionOperation::Grant { slot_bytes: 12_288, slots: 2 });
    cluster.state
}

pub(crate) fn pieces(state: &State) -> Vec<Bytes> {
    state.freeze().chunks().collect()
}

pub(crate) fn restore(pieces: Vec<Bytes>) -> Result<State, RestoreError> {
    State::restore(pieces.into_iter().map(Ok))
}

#[test]
fn a_large_state_comes_in_pieces_of_a_mebibyte() {
    let state = varied(90_000, 300_000);
    let pieces = pieces(&state);
    assert!(pieces.len() > 10, "{}", pieces.len());
    let longest = pieces.iter().map(Bytes::len).max().unwrap();
    assert!(longest < (1 << 20) + (64 << 10), "{longest}");
    let again = restore(pieces).unwrap();
    assert_eq!((again.digest(), again.digest_from_scratch()), (state.digest(), state.digest()));
    assert_eq!((again.pages(), again.reclaimable()), (state.pages(), state.reclaimable()));
    assert_eq!(again.l3_status(), state.l3_status());
}

/// 16 bytes for each slot that rests: all in one piece, they were more than a snapshot's file takes from a million on.
#[test]
fn many_rests_come_in_pieces_too() {
    const RESTING: u64 = 80_000;
    let mut cluster = Cluster::with_slots(2 * RESTING);
    cluster.fill(RESTING);
    cluster.delete_oldest(RESTING);
    let pieces = pieces(&cluster.state);
    let longest = pieces.iter().map(Bytes::len).max().unwrap();
    assert!(longest < (1 << 20) + 64, "{longest}");
    let again = restore(pieces).unwrap();
    assert_eq!(again.digest_from_scratch(), cluster.state.digest());
    assert_eq!(again.class(4096).slots.resting, RESTING);
}

#[test]
fn a_snapshot_without_one_of_its_pieces_is_refused() {
    let pieces = pieces(&varied(500, 300));
    for missing in 0..pieces.len() {
        let mut left = pieces.clone();
        left.remove(missing);
        assert!(restore(left).is_err(), "piece {missing} of {}", pieces.len());
    }
    assert_eq!(Restorer::new().finish().unwrap_err(), RestoreError::Incomplete { missing: "the head" });
}

#[test]
fn another_version_is_named_with_ours() {
    let mut pieces = pieces(&varied(10, 300));
    let mut newer = pieces[0].to_vec();
    newer[0] = FORMAT_VERSION as u8 + 1;
    pieces[0] = Bytes::from(newer);
    let error = restore(pieces).unwrap_err();
    assert_eq!(error, DecodeError::Version { what: "snapshot", found: 2, known: 1 }.into());
}

/// Any one byte changed, any piece cut short: an error, or (where the byte says nothing) the same state; never a panic.
#[test]
fn damage_is_found() {
    let state = varied(40, 300);
    let pieces = pieces(&state);
    for piece in 0..pieces.len() {
        for at in 0..pieces[piece].len() {
            let mut damaged = pieces.clone();
            let mut bytes = damaged[piece].to_vec();
            bytes[at] ^= 1 << (at % 8);
            damaged[piece] = Bytes::from(bytes);
            if let Ok(again) = restore(damaged) {
                assert_eq!(again.digest_from_scratch(), state.digest(), "byte {at} of piece {piece}");
            }
            if at % 7 == 0 {
                let mut cut = pieces.clone();
                cut[piece].truncate(at);
                assert!(restore(cut).is_err(), "piece {piece} cut at {at}");
            }
        }
    }
}
