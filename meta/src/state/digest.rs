//! The state digest: replicas compare it every so often, a restored snapshot must reproduce it.
//!
//! Entries and slots enter as a wrapping sum of their hashes, kept up with every change; the rest is hashed on demand.

use foreword_proto::SlotRef;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::index::{LocationRef, TableId};
use super::slab::SlotUse;
use foreword_proto::EntryKey;

/// Hash of one slot: 0 for one that was never granted.
pub(super) fn of_slot(slot: SlotRef, used: SlotUse) -> u64 {
    if slot.generation == 0 {
        return 0;
    }
    let mut bytes = [0; 21];
    bytes[..4].copy_from_slice(&slot.slab.to_le_bytes());
    bytes[4..8].copy_from_slice(&slot.slot.to_le_bytes());
    bytes[8..12].copy_from_slice(&slot.generation.to_le_bytes());
    bytes[12..20].copy_from_slice(&used.word().to_le_bytes());
    bytes[20] = used.kind();
    xxh3_64(&bytes)
}

/// Hash of one entry.
pub(super) fn of_entry(table: TableId, key: &EntryKey, location: &LocationRef<'_>) -> u64 {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&key.0);
    bytes[16..20].copy_from_slice(&table.to_le_bytes());
    bytes[20..24].copy_from_slice(&location.slot.slab.to_le_bytes());
    bytes[24..28].copy_from_slice(&location.slot.slot.to_le_bytes());
    bytes[28..32].copy_from_slice(&location.slot.generation.to_le_bytes());
    bytes[32..40].copy_from_slice(&location.checksum.to_le_bytes());
    let mut hash = xxh3_64(&bytes);
    for checksum in location.further {
        hash = hash.rotate_left(13).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ *checksum;
    }
    hash
}

/// A running hash over fields of the state.
pub(super) struct Fields(Xxh3);

impl Fields {
    pub(super) fn new() -> Self {
        Self(Xxh3::new())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.update(&value.to_le_bytes());
        self
    }

    /// Bytes with their length.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u64(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    pub(super) fn finish(&self) -> u64 {
        self.0.digest()
    }
}
