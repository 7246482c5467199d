//! Commands and outcomes of page files; `crate::codec` takes them through every round trip and every damage.

use bytes::Bytes;
use foreword_meta::state::DecodeError;
use foreword_meta::state::codec::{decode_command, decode_outcome, outcome_bytes};
use foreword_meta::state::command::{Command, Outcome};
use foreword_meta::state::hf3fs::{FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, Reserved};
use foreword_proto::limits::{ENTRY_BYTES_MAX, FORMAT_VERSION, HF3FS_KEYS_MAX};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::codec::{encoded, key};

fn indexes() -> impl Strategy<Value = Vec<u32>> {
    vec(any::<u32>(), 0..5)
}

fn operation() -> impl Strategy<Value = Hf3fsOperation> {
    let pages = || vec((key(), any::<u32>()), 0..4);
    prop_oneof![
        (any::<u64>(), vec(key(), 0..4), indexes()).prop_map(|(term, keys, victims)| Hf3fsOperation::Reserve {
            term,
            keys,
            victims
        }),
        (pages(), indexes()).prop_map(|(written, released)| Hf3fsOperation::Confirm { written, released }),
        (vec(key(), 0..4), any::<u64>()).prop_map(|(keys, rest_ms)| Hf3fsOperation::Delete { keys, rest_ms }),
        any::<u64>().prop_map(|rest_ms| Hf3fsOperation::Clear { rest_ms }),
        Just(Hf3fsOperation::Touch),
        any::<(u64, u32)>().prop_map(|(unheard_ms, pages_max)| Hf3fsOperation::Expire { unheard_ms, pages_max }),
        (pages(), any::<u64>()).prop_map(|(entries, rest_ms)| Hf3fsOperation::Import { entries, rest_ms }),
    ]
}

pub(crate) fn command() -> impl Strategy<Value = Hf3fsCommand> {
    let name = any::<(String, i64, String)>().prop_map(|(deployment, rank, pool)| FileName { deployment, rank, pool });
    prop_oneof![
        1 => (name, any::<u32>()).prop_map(|(name, pages)| Hf3fsCommand::Initialize { name, pages }),
        7 => (any::<u32>(), indexes(), operation())
            .prop_map(|(file, touched, operation)| Hf3fsCommand::On { file, touched, operation }),
        1 => any::<(u32, u64)>().prop_map(|(file, rest_ms)| Hf3fsCommand::Drop { file, rest_ms }),
    ]
}

pub(crate) fn outcome() -> impl Strategy<Value = Hf3fsOutcome> {
    let reserved = prop_oneof![
        any::<u32>().prop_map(Reserved::Existing),
        any::<u32>().prop_map(Reserved::Page),
        Just(Reserved::NoPage),
    ];
    prop_oneof![
        any::<u32>().prop_map(|file| Hf3fsOutcome::Initialized { file }),
        any::<u32>().prop_map(|pages| Hf3fsOutcome::OtherSize { pages }),
        vec(reserved, 0..6).prop_map(|pages| Hf3fsOutcome::Reserved { pages }),
        any::<(u32, u32)>().prop_map(|(ignored_confirms, ignored_releases)| Hf3fsOutcome::Confirmed {
            ignored_confirms,
            ignored_releases
        }),
        any::<u32>().prop_map(|pages| Hf3fsOutcome::Deleted { pages }),
        Just(Hf3fsOutcome::Cleared),
        Just(Hf3fsOutcome::Touched),
        any::<(u32, bool)>().prop_map(|(pages, left)| Hf3fsOutcome::Expired { pages, left }),
        any::<u32>().prop_map(|conflicts| Hf3fsOutcome::Imported { conflicts }),
        Just(Hf3fsOutcome::NoFile),
        Just(Hf3fsOutcome::Dropped),
    ]
}

#[test]
fn an_unknown_operation_is_named() {
    for found in [0, 4, 200] {
        let error = decode_command(&mut Bytes::copy_from_slice(&[1, 15, found])).unwrap_err();
        assert_eq!(error, DecodeError::Kind { what: "hf3fs command", found: found.into(), known: 1 });
    }
    for found in [0, 1, 9, 200] {
        let bytes = [&[1, 15, 2][..], &[0; 8], &[found]].concat();
        let error = decode_command(&mut Bytes::from(bytes)).unwrap_err();
        assert_eq!(error, DecodeError::Kind { what: "hf3fs operation", found: found.into(), known: 1 });
    }
    for found in [0, 12, 200] {
        let error = decode_outcome(&mut Bytes::copy_from_slice(&[1, 10, found])).unwrap_err();
        assert_eq!(error, DecodeError::Kind { what: "hf3fs outcome", found: found.into(), known: 1 });
    }
}

/// The wire is a contract with every log there is: each operation's first bytes, as they are now.
#[test]
fn operations_have_their_numbers() {
    let number = |operation| {
        let bytes = encoded(&Command::Hf3fs(Hf3fsCommand::On { file: 0, touched: vec![], operation }));
        assert_eq!(bytes[..3], [1, 15, 2]);
        // File and the number of touched pages are before it.
        bytes[11]
    };
    let operations = [
        Hf3fsOperation::Reserve { term: 1, keys: vec![], victims: vec![] },
        Hf3fsOperation::Confirm { written: vec![], released: vec![] },
        Hf3fsOperation::Delete { keys: vec![], rest_ms: 1 },
        Hf3fsOperation::Clear { rest_ms: 1 },
        Hf3fsOperation::Touch,
        Hf3fsOperation::Expire { unheard_ms: 1, pages_max: 1 },
        Hf3fsOperation::Import { entries: vec![], rest_ms: 1 },
    ];
    assert_eq!(operations.map(number), [2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_reserve_of_the_most_keys_fits_an_entry() {
    let (keys, indexes) = (vec![foreword_proto::EntryKey([7; 16]); HF3FS_KEYS_MAX], vec![9; HF3FS_KEYS_MAX]);
    let operation = Hf3fsOperation::Reserve { term: u64::MAX, keys, victims: indexes.clone() };
    let command = Command::Hf3fs(Hf3fsCommand::On { file: 0, touched: indexes, operation });
    let mut bytes = encoded(&command);
    let batch = foreword_meta::state::codec::encode_batch(FORMAT_VERSION, std::slice::from_ref(&bytes));
    assert!(batch.len() <= ENTRY_BYTES_MAX, "{}", batch.len());
    assert_eq!(decode_command(&mut bytes), Ok(command));
    let pages = vec![Reserved::Existing(u32::MAX); HF3FS_KEYS_MAX];
    let outcome = outcome_bytes(&Outcome::Hf3fs(Hf3fsOutcome::Reserved { pages }));
    assert!(outcome.len() <= ENTRY_BYTES_MAX, "{}", outcome.len());
}

/// A count of items that are not there is refused before room is made for them.
#[test]
fn counts_are_checked() {
    let touch =
        encoded(&Command::Hf3fs(Hf3fsCommand::On { file: 0, touched: vec![], operation: Hf3fsOperation::Touch }));
    let mut bytes = touch.to_vec();
    bytes[7..11].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = decode_command(&mut Bytes::from(bytes)).unwrap_err();
    assert_eq!(error, DecodeError::Truncated { what: "command" });
    let error = decode_outcome(&mut Bytes::copy_from_slice(&[1, 10, 3, 0xff, 0xff, 0xff, 0xff, 1])).unwrap_err();
    assert_eq!(error, DecodeError::Truncated { what: "outcome" });
}
