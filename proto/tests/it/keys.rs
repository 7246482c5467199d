//! Keys, ids, checksums and errors: how they look on the wire and to a reader.

use foreword_proto::bad_input::{FIELD_METADATA, field_of, status_for};
use foreword_proto::checksum::shard_checksum;
use foreword_proto::key::{page_keys_from_wire, page_keys_to_wire};
use foreword_proto::{BadInput, ClusterId, EntryKey, PageKey, PublishOutcome, RetireReason};
use proptest::prelude::*;
use tonic::{Code, Status};

#[test]
fn opaque_keys_stay_what_they_are() {
    let key = PageKey::opaque(b"page");
    assert_eq!(key.to_string(), OPAQUE_PAGE);
    assert_eq!(key.entry().to_string(), OPAQUE_PAGE[..32]);
    assert_eq!(OPAQUE_PAGE.parse(), Ok(key));
}

/// They are in logs and snapshots: another hash would lose every page of every page file.
#[test]
fn names_of_page_files_keys_stay_what_they_are() {
    let name = format!("{}-k", "0123456789abcdef".repeat(4));
    assert_eq!(EntryKey::named(name.as_bytes()).to_string(), "d1b71ed501612058293e4b71c79c575c");
    assert_eq!(EntryKey::named(b"").to_string(), "7f498d4624c30160d8984701d306aa99");
}

const OPAQUE_PAGE: &str = "cad079fe52fa1b162e375eceec083d82ed9ac94420e05934969828aee1702491";

#[test]
fn checksums_stay_what_they_are_and_belong_to_key_and_shard() {
    let (a, b) = (EntryKey([1; 16]), EntryKey([2; 16]));
    let sum = shard_checksum(&a, 0, b"bytes");
    assert_eq!(sum, CHECKSUM, "{sum:#x}");
    for other in [shard_checksum(&a, 1, b"bytes"), shard_checksum(&b, 0, b"bytes"), shard_checksum(&a, 0, b"bytez")] {
        assert_ne!(other, sum);
    }
}

/// Frozen: what is on L3 was written under it.
const CHECKSUM: u64 = 0x07e7_3d8d_8237_b8d2;

#[test]
fn a_parent_hint_is_never_none() {
    assert_eq!(EntryKey([0; 16]).parent_hint(), 1);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&0x0102_0304_0506_0708u64.to_le_bytes());
    assert_eq!(EntryKey(key).parent_hint(), 0x0102_0304_0506_0708);
}

#[test]
fn bad_keys_are_refused_with_their_field() {
    let field = |result: Result<Vec<PageKey>, BadInput>| result.unwrap_err().field;
    assert_eq!(field(page_keys_from_wire("keys", &[0; 33], 9)), "keys");
    assert_eq!(field(page_keys_from_wire("parent", &[0; 64], 1)), "parent");
    for text in ["", "zz", &"0".repeat(63), &"g".repeat(64)] {
        assert_eq!(text.parse::<PageKey>().unwrap_err().field, "key");
        assert_eq!(text.parse::<ClusterId>().unwrap_err().field, "cluster_id");
    }
    assert_eq!(ClusterId::from_wire(&[0; 15]).unwrap_err().field, "cluster_id");
}

#[test]
fn a_status_names_its_field() {
    let status = Status::from(BadInput::new("page_tokens", "1 to 8192, got 0").within("namespace"));
    assert_eq!((status.code(), field_of(&status)), (Code::InvalidArgument, Some("namespace.page_tokens")));
    assert_eq!(status.message(), "namespace.page_tokens: expected 1 to 8192, got 0");
    let status = status_for(Code::NotFound, "namespace_id", "namespace 7 is not registered");
    assert_eq!(field_of(&status), Some("namespace_id"));
    // A field that metadata cannot hold is still in the message.
    let status = Status::from(BadInput::new("línea\n", "a line"));
    assert_eq!((field_of(&status), status.metadata().get(FIELD_METADATA)), (None, None));
    assert!(status.message().contains("línea"));
}

#[test]
fn the_wires_numbers_are_closed_sets() {
    for number in 0..=u8::MAX {
        if let Some(outcome) = PublishOutcome::from_u8(number) {
            assert_eq!(outcome as u8, number);
        }
        if let Some(reason) = RetireReason::from_u8(number) {
            assert_eq!(reason as u8, number);
        }
    }
    assert_eq!((0..=u8::MAX).filter_map(PublishOutcome::from_u8).count(), 5);
    assert_eq!((0..=u8::MAX).filter_map(RetireReason::from_u8).count(), 4);
    // 0 is `published` among events and nothing at all among outcomes.
    assert_eq!((PublishOutcome::from_u8(0), RetireReason::from_u8(0)), (None, None));
}

proptest! {
    #[test]
    fn the_wire_carries_keys_unchanged(keys in prop::collection::vec(any::<[u8; 32]>(), 0..20)) {
        let keys: Vec<PageKey> = keys.into_iter().map(PageKey).collect();
        let wire = page_keys_to_wire(&keys);
        prop_assert_eq!(wire.len(), 32 * keys.len());
        prop_assert_eq!(page_keys_from_wire("keys", &wire, 20), Ok(keys));
    }

    #[test]
    fn ids_read_what_they_write(bytes: [u8; 16], key: [u8; 32]) {
        let cluster = ClusterId(bytes);
        prop_assert_eq!(cluster.to_string().parse(), Ok(cluster));
        prop_assert_eq!(ClusterId::from_wire(&bytes), Ok(cluster));
        let json = serde_json::to_string(&cluster).unwrap();
        prop_assert_eq!(serde_json::from_str::<ClusterId>(&json).unwrap(), cluster);
        prop_assert_eq!(PageKey(key).to_string().parse(), Ok(PageKey(key)));
    }
}
