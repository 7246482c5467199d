//! Records: each reads what it writes, and refuses everything else without a panic.

use bytes::BytesMut;
use foreword_proto::location::{Checksums, SlotRef};
use foreword_proto::records::{NamespaceEvent, PageRecord, Record, SuspectRecord, decode, encode};
use foreword_proto::{EntryKey, Location, RetireReason};
use proptest::prelude::*;

fn any_key() -> impl Strategy<Value = EntryKey> {
    any::<[u8; 16]>().prop_map(EntryKey)
}

fn any_slot() -> impl Strategy<Value = SlotRef> {
    any::<(u32, u32, u32)>().prop_map(|(slab, slot, generation)| SlotRef { slab, slot, generation })
}

fn any_location(shards: usize) -> impl Strategy<Value = Location> {
    (any_slot(), prop::collection::vec(any::<u64>(), shards))
        .prop_map(|(slot, sums)| Location { slot, checksums: Checksums::new(&sums) })
}

fn any_page(shards: usize) -> impl Strategy<Value = PageRecord> {
    (any_key(), any::<u64>(), any_location(shards)).prop_map(|(key, parent, location)| PageRecord {
        key,
        parent,
        location,
    })
}

fn any_suspect() -> impl Strategy<Value = SuspectRecord> {
    (any_key(), any_slot(), any::<u32>(), any::<u64>()).prop_map(|(key, slot, shard, checksum)| SuspectRecord {
        key,
        slot,
        shard,
        checksum,
    })
}

fn any_event(shards: usize) -> impl Strategy<Value = NamespaceEvent> {
    let published = any_page(shards).prop_map(|page| NamespaceEvent::Published {
        key: page.key,
        parent: page.parent,
        location: page.location,
    });
    let reason = (1u8..=5).prop_filter_map("a reason", RetireReason::from_u8);
    let retired =
        (any_key(), any_slot(), reason).prop_map(|(key, slot, reason)| NamespaceEvent::Retired { key, slot, reason });
    prop_oneof![published, retired]
}

/// Shards, and a batch of something with so many.
fn batch<S: Strategy>(of: impl Fn(usize) -> S) -> impl Strategy<Value = (usize, Vec<S::Value>)>
where
    S::Value: Clone,
{
    (1usize..5).prop_flat_map(move |shards| (Just(shards), prop::collection::vec(of(shards), 0..12)))
}

fn round_trip<R: Record + PartialEq + std::fmt::Debug>(records: Vec<R>, shards: usize) -> Result<(), TestCaseError> {
    let wire = encode(&records, shards);
    prop_assert_eq!(wire.len(), records.len() * R::bytes(shards), "a record's size is what it says");
    if !records.is_empty() {
        prop_assert_eq!(decode::<R>("pages", &wire[1..], shards, 99).unwrap_err().field, "pages");
        prop_assert_eq!(decode::<R>("pages", &wire, shards, records.len() - 1).unwrap_err().field, "pages");
    }
    prop_assert_eq!(decode("pages", &wire, shards, records.len()), Ok(records));
    Ok(())
}

proptest! {
    #[test]
    fn pages_read_what_they_write((shards, records) in batch(any_page)) {
        round_trip(records, shards)?;
    }

    #[test]
    fn locations_read_what_they_write((shards, records) in batch(any_location)) {
        round_trip(records, shards)?;
    }

    #[test]
    fn slots_keys_and_suspects_read_what_they_write(
        slots in prop::collection::vec(any_slot(), 0..12),
        keys in prop::collection::vec(any_key(), 0..12),
        suspects in prop::collection::vec(any_suspect(), 0..12),
        shards in 1usize..5,
    ) {
        round_trip(slots, shards)?;
        round_trip(keys, shards)?;
        round_trip(suspects, shards)?;
    }

    #[test]
    fn events_read_what_they_write((shards, events) in batch(any_event)) {
        let mut wire = BytesMut::new();
        for event in &events {
            event.put(&mut wire);
        }
        prop_assert_eq!(NamespaceEvent::decode_all(&wire, shards), Ok(events.clone()));
        // A cut leaves whole events or an error, never anything else.
        for cut in 0..wire.len() {
            match NamespaceEvent::decode_all(&wire[..cut], shards) {
                Ok(fewer) => prop_assert_eq!(fewer.as_slice(), &events[..fewer.len()]),
                Err(error) => prop_assert_eq!(error.field, "events"),
            }
        }
    }

    #[test]
    fn noise_is_an_error_and_no_panic(noise in prop::collection::vec(any::<u8>(), 0..200), shards in 1usize..65) {
        let _ = NamespaceEvent::decode_all(&noise, shards);
        let _ = decode::<PageRecord>("pages", &noise, shards, 3);
        let _ = decode::<SuspectRecord>("suspects", &noise, shards, 3);
    }
}

#[test]
fn unknown_kinds_are_refused() {
    for kind in [6, 255] {
        let mut event = vec![kind];
        event.extend([0; 28]);
        assert_eq!(NamespaceEvent::decode_all(&event, 1).unwrap_err().field, "events");
    }
}

#[test]
fn the_bytes_stay_what_they_are() {
    let slot = SlotRef { slab: 1, slot: 2, generation: 0x0a0b_0c0d };
    let location = Location { slot, checksums: Checksums::new(&[0x11, 0x22]) };
    let key = EntryKey(std::array::from_fn(|i| i as u8));
    let page = PageRecord { key, parent: 5, location: location.clone() };
    let page_hex = concat!(
        "000102030405060708090a0b0c0d0e0f", // key
        "0500000000000000",                 // parent
        "01000000020000000d0c0b0a",         // slab, slot, generation
        "11000000000000002200000000000000", // checksums
    );
    assert_eq!(hex::encode(encode(&[page], 2)), page_hex);
    let suspect = SuspectRecord { key, slot, shard: 1, checksum: 0x22 };
    let suspect_hex = "000102030405060708090a0b0c0d0e0f01000000020000000d0c0b0a010000002200000000000000";
    assert_eq!(hex::encode(encode(&[suspect], 2)), suspect_hex);

    let mut events = BytesMut::new();
    NamespaceEvent::Published { key, parent: 5, location }.put(&mut events);
    NamespaceEvent::Retired { key, slot, reason: RetireReason::Suspect }.put(&mut events);
    let retired_hex = "03000102030405060708090a0b0c0d0e0f01000000020000000d0c0b0a";
    assert_eq!(hex::encode(&events), format!("00{page_hex}{retired_hex}"));
}
