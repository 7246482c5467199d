//! The largest batches that the limits allow, as messages: they fit the limits of messages.

use bytes::Bytes;
use foreword_proto::limits::*;
use foreword_proto::location::{Checksums, SlotRef};
use foreword_proto::records::{PageRecord, Record, SuspectRecord, encode};
use foreword_proto::wire::{common, meta, node};
use foreword_proto::{EntryKey, Location};
use prost::Message;

fn bytes(len: usize) -> Bytes {
    vec![0xff; len].into()
}

fn assert_fits<M: Message>(message: M, bytes_max: usize) {
    let len = message.encoded_len();
    assert!(len <= bytes_max, "{len} bytes in a message of at most {bytes_max}");
}

#[test]
fn the_largest_batches_fit_their_messages() {
    let tokens =
        common::Tokens { algorithm: 2, unit: 2, seed: bytes(32), token_ids: bytes(TOKEN_IDS_BYTES_MAX), wide: true };
    let freshness = common::Freshness { min_revision: u64::MAX, linearizable: true };
    assert_fits(
        meta::LookupRequest {
            namespace_id: u32::MAX,
            keys: Bytes::new(),
            tokens: Some(tokens.clone()),
            freshness: Some(freshness),
            with_locations: true,
            every_key: true,
        },
        META_MESSAGE_BYTES_MAX,
    );
    assert_fits(
        node::LocateRequest {
            namespace_id: u32::MAX,
            keys: Bytes::new(),
            tokens: Some(tokens),
            freshness: Some(freshness),
        },
        NODE_MESSAGE_BYTES_MAX,
    );
    let locations = bytes(KEYS_MAX * Location::bytes(1));
    assert_fits(
        meta::LookupResponse { revision: u64::MAX, prefix: u32::MAX, present: bytes(KEYS_MAX), locations },
        META_MESSAGE_BYTES_MAX,
    );
    let suspects = bytes(SUSPECTS_PER_REPORT_MAX * SuspectRecord::bytes(SHARDS_MAX));
    assert_fits(
        meta::SuspectRequest { session: vec![255; 16].into(), namespace_id: u32::MAX, suspects },
        META_MESSAGE_BYTES_MAX,
    );
    let keys = bytes(HEAT_KEYS_PER_REPORT_MAX * ENTRY_KEY_BYTES);
    assert_fits(
        meta::ReportHeatRequest { session: vec![255; 16].into(), namespace_id: u32::MAX, epoch: u32::MAX, keys },
        META_MESSAGE_BYTES_MAX,
    );
    let unwritten = bytes(SLOTS_PER_ABORT_MAX * SlotRef::bytes(1));
    assert_fits(
        meta::AbortRequest { session: vec![255; 16].into(), sequence: u64::MAX, unknown: unwritten.clone(), unwritten },
        META_MESSAGE_BYTES_MAX,
    );
}

#[test]
fn a_publish_of_the_most_pages_and_shards_fits_its_message() {
    let slot = SlotRef { slab: u32::MAX, slot: u32::MAX, generation: u32::MAX };
    let location = Location { slot, checksums: Checksums::new(&[u64::MAX; SHARDS_MAX]) };
    let page = PageRecord { key: EntryKey([0xff; 16]), parent: u64::MAX, location };
    let pages = encode(&vec![page; PAGES_PER_PUBLISH_MAX], SHARDS_MAX);
    let request = meta::PublishRequest {
        session: vec![255; 16].into(),
        sequence: u64::MAX,
        namespace_id: u32::MAX,
        epoch: u32::MAX,
        pages,
    };
    assert_fits(request, META_MESSAGE_BYTES_MAX);
}

#[test]
fn a_full_get_message_fits() {
    let piece = node::Piece { index: u32::MAX, shard: u32::MAX, offset: u64::MAX, data: bytes(PIECES_BYTES_MAX) };
    let end = node::PageEnd { index: u32::MAX, hit: true, tier: 3, reason: "breaker_open".into(), revision: u64::MAX };
    assert_fits(node::GetResponse { pieces: vec![piece], ends: vec![end; 256] }, NODE_MESSAGE_BYTES_MAX);
}
