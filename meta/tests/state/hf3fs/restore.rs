//! Snapshots of page files: whole, damaged, and made up.

use bytes::{BufMut, Bytes, BytesMut};
use foreword_meta::state::hf3fs::{Hf3fsOperation, Hf3fsOutcome};
use foreword_meta::state::{RestoreError, State};
use foreword_proto::limits::FORMAT_VERSION;

use super::{Files, file_name, key, keys, pages};
use crate::restore::{pieces, restore};

/// Two files with something of everything: each list, a cleared range, an import, counters.
fn varied() -> Files {
    let mut files = Files::with(40);
    files.write(0..20);
    files.touch(&[30, 31, 39]);
    files.tick(100);
    files.reserve(&keys(20..24));
    files.on(0, &[], Hf3fsOperation::Delete { keys: keys(3..6), rest_ms: 500 });
    files.confirm(&[(key(77), 1)], &[18, 3]);
    files.initialize(file_name("m", -1, "mamba"), 12);
    let entries = (0..5).map(|number| (key(number), 2 * number as u32)).collect();
    let imported = files.on(1, &[], Hf3fsOperation::Import { entries, rest_ms: 0 });
    assert_eq!(imported, Hf3fsOutcome::Imported { conflicts: 0 });
    files.initialize(file_name("", 2, "kv"), 9);
    let operation = Hf3fsOperation::Reserve { term: 1, keys: keys(0..3), victims: vec![] };
    files.on(2, &[], operation);
    files.on(2, &[], Hf3fsOperation::Clear { rest_ms: 10 });
    files
}

#[test]
fn what_is_restored_goes_on_as_it_would_have() {
    let mut files = varied();
    let mut again = Files { state: restore(pieces(&files.state)).unwrap(), term: 1 };
    assert_eq!(again.state.digest_from_scratch(), files.state.digest());
    for _ in 0..8 {
        for of in [&mut files, &mut again] {
            of.tick(150);
            let batch: Vec<_> = keys((0..12).map(|number| number * 5 + of.state.tick_ms()));
            let reserved = of.reserve(&batch);
            let victims = of.file().victims(3, 4, |index| index % 2 == 0);
            assert_eq!(reserved.len(), batch.len());
            of.touch(&victims);
            of.on(0, &[], Hf3fsOperation::Expire { unheard_ms: 0, pages_max: 7 });
        }
        assert_eq!(again.state.digest(), files.state.digest());
        assert_eq!(again.counts(), files.counts());
    }
}

/// Any one byte changed, any piece cut short or left out: an error, or the same state; never a panic.
#[test]
fn damage_is_found() {
    let files = varied();
    let pieces = pieces(&files.state);
    for piece in 0..pieces.len() {
        let mut left = pieces.clone();
        left.remove(piece);
        // Agents, room and index have their counters as in an empty state: nothing is lost with them.
        let of_nothing = [11, 13, 17].contains(&pieces[piece][1]);
        assert!(of_nothing || restore(left).is_err(), "piece {piece} of {}", pieces.len());
        for at in 0..pieces[piece].len() {
            let mut damaged = pieces.clone();
            let mut bytes = damaged[piece].to_vec();
            bytes[at] ^= 1 << (at % 8);
            damaged[piece] = Bytes::from(bytes);
            if let Ok(again) = restore(damaged) {
                assert_eq!(again.digest_from_scratch(), files.state.digest(), "byte {at} of piece {piece}");
            }
            if at % 7 == 0 {
                let mut cut = pieces.clone();
                cut[piece].truncate(at);
                assert!(restore(cut).is_err(), "piece {piece} cut at {at}");
            }
        }
    }
}

#[test]
fn lists_longer_than_a_piece_keep_their_order() {
    let mut files = Files::with(100_000);
    let unchecked = |files: &mut Files, operation| {
        use foreword_meta::state::command::{Command, Outcome};
        let command = foreword_meta::state::hf3fs::Hf3fsCommand::On { file: 0, touched: vec![], operation };
        match files.apply_unchecked(&Command::Hf3fs(command)) {
            Outcome::Hf3fs(Hf3fsOutcome::Reserved { pages }) => pages,
            Outcome::Hf3fs(_) => Vec::new(),
            other => panic!("{other:?}"),
        }
    };
    for start in [0, 50_000] {
        let keys = keys(start..start + 50_000);
        let reserve = Hf3fsOperation::Reserve { term: 1, keys: keys.clone(), victims: vec![] };
        let written = keys.into_iter().zip(pages(&unchecked(&mut files, reserve))).collect();
        unchecked(&mut files, Hf3fsOperation::Confirm { written, released: vec![] });
    }
    // Not in the order of their indexes.
    let every_third: Vec<u64> = (0..100_000).step_by(3).collect();
    unchecked(&mut files, Hf3fsOperation::Reserve { term: 1, keys: keys(every_third), victims: vec![] });
    let pieces = pieces(&files.state);
    let longest = pieces.iter().map(Bytes::len).max().unwrap();
    assert!(pieces.len() >= 5 && longest < (1 << 20) + 64, "{} pieces, the longest of {longest} bytes", pieces.len());
    let again = restore(pieces).unwrap();
    let order = |state: &State| state.hf3fs().file(0).unwrap().victims(usize::MAX, 1, |_| true);
    assert_eq!(order(&again), order(&files.state));
    assert_eq!(again.digest(), files.state.digest());
}

/// Made-up pieces of pages are refused by what they say, whatever digest is recorded.
#[test]
fn pages_that_cannot_be_are_refused() {
    const RESERVED: u8 = 1;
    const WRITTEN: u8 = 2;
    const RESTING: u8 = 4;
    let mut files = Files::with(10);
    files.write([1, 2]);
    let whole = pieces(&files.state);
    let refused = |file: u32, list: u8, pages: &[(u32, u64, Option<u64>)]| {
        let mut piece = BytesMut::new();
        piece.put_slice(&[FORMAT_VERSION as u8, 10]);
        piece.put_u32_le(file);
        piece.put_u8(list);
        piece.put_u32_le(pages.len() as u32);
        for (index, stamp, number) in pages {
            piece.put_u32_le(*index);
            piece.put_u64_le(*stamp);
            if let Some(number) = number {
                piece.put_slice(&key(*number).0);
            }
        }
        let mut pieces = whole.clone();
        let pages_at = pieces.iter().position(|piece| piece[1] == 10).unwrap();
        pieces[pages_at] = piece.freeze();
        matches!(restore(pieces), Err(RestoreError::Decode(_)))
    };
    let one = |index, stamp, number| [(index, stamp, Some(number))];
    assert!(!refused(0, WRITTEN, &one(9, 0, 1)), "only the digest tells");
    assert!(refused(1, WRITTEN, &one(9, 0, 1)), "no such file");
    assert!(refused(0, 0, &one(9, 0, 1)) && refused(0, 5, &one(9, 0, 1)), "no such list");
    assert!(refused(0, WRITTEN, &one(10, 0, 1)) && refused(0, WRITTEN, &one(u32::MAX, 0, 1)), "beyond the end");
    assert!(refused(0, WRITTEN, &one(7, 0, 1)), "never used");
    assert!(refused(0, WRITTEN, &one(9, 99, 1)), "a use that is still to come");
    assert!(refused(0, RESERVED, &one(9, 1, 1)), "heard of after now");
    assert!(refused(0, WRITTEN, &[(9, 0, Some(1)), (9, 1, Some(2))]), "one page twice");
    assert!(refused(0, WRITTEN, &[(9, 0, Some(1)), (8, 1, Some(1))]), "one key twice");
    assert!(refused(0, WRITTEN, &[(9, 1, Some(1)), (8, 1, Some(2))]), "one use twice");
    assert!(refused(0, RESTING, &[(9, 7, None), (8, 6, None)]), "out of order");
    assert!(!refused(0, RESTING, &[(9, 7, None), (8, 7, None)]));
}

/// A state without page files writes what it always did: an older replica reads it, and so do we an older snapshot.
#[test]
fn nothing_is_written_where_there_is_no_page_file() {
    let kinds = |state: &State| pieces(state).iter().map(|piece| piece[1]).collect::<Vec<u8>>();
    assert_eq!(kinds(&State::new(super::settings())), [1, 11, 13, 17, 8]);
    assert_eq!(kinds(&Files::with(3).state), [1, 11, 13, 17, 20, 9, 8]);
}
