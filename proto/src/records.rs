//! Fixed-size little-endian records: how batches travel in one bytes field, in log entries and in snapshots.
//!
//! A batch's record size follows from the namespace's number of shards, so it is never on the wire twice.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::key::ParentHint;
use crate::limits::ENTRY_KEY_BYTES;
use crate::location::{Checksums, Location, SlotRef};
use crate::{BadInput, EntryKey, RetireReason, Revision};

/// A value with a fixed size, given the namespace's number of shards (ignored by records without checksums).
pub trait Record: Sized {
    /// Bytes of one record.
    fn bytes(shards: usize) -> usize;
    /// Appends the record.
    fn put(&self, out: &mut BytesMut);
    /// Reads one record; the caller has checked the length. None: a value outside its closed set.
    fn take(input: &mut &[u8], shards: usize) -> Option<Self>;
}

/// Encodes a batch.
pub fn encode<R: Record>(records: &[R], shards: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(records.len() * R::bytes(shards));
    for record in records {
        record.put(&mut out);
    }
    out.freeze()
}

/// Decodes a batch; an error names `field`.
pub fn decode<R: Record>(field: &str, input: &[u8], shards: usize, records_max: usize) -> Result<Vec<R>, BadInput> {
    let size = R::bytes(shards);
    if !input.len().is_multiple_of(size) {
        return Err(BadInput::new(field, format!("records of {size} bytes, got {} bytes", input.len())));
    }
    let count = input.len() / size;
    if count > records_max {
        return Err(BadInput::new(field, format!("at most {records_max} records, got {count}")));
    }
    let mut rest = input;
    (0..count)
        .map(|i| R::take(&mut rest, shards).ok_or_else(|| BadInput::new(field, format!("a known kind in record {i}"))))
        .collect()
}

fn take_key(input: &mut &[u8]) -> EntryKey {
    let mut key = [0; ENTRY_KEY_BYTES];
    input.copy_to_slice(&mut key);
    EntryKey(key)
}

fn take_checksums(input: &mut &[u8], shards: usize) -> Checksums {
    if shards == 1 {
        return Checksums::One([input.get_u64_le()]);
    }
    Checksums::Many((0..shards).map(|_| input.get_u64_le()).collect())
}

fn put_checksums(checksums: &Checksums, out: &mut BytesMut) {
    for checksum in checksums.as_slice() {
        out.put_u64_le(*checksum);
    }
}

impl Record for EntryKey {
    fn bytes(_: usize) -> usize {
        ENTRY_KEY_BYTES
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }

    fn take(input: &mut &[u8], _: usize) -> Option<Self> {
        Some(take_key(input))
    }
}

impl Record for SlotRef {
    fn bytes(_: usize) -> usize {
        12
    }

    fn put(&self, out: &mut BytesMut) {
        let Self { slab, slot, generation } = *self;
        out.put_u32_le(slab);
        out.put_u32_le(slot);
        out.put_u32_le(generation);
    }

    fn take(input: &mut &[u8], _: usize) -> Option<Self> {
        Some(Self { slab: input.get_u32_le(), slot: input.get_u32_le(), generation: input.get_u32_le() })
    }
}

impl Record for Location {
    fn bytes(shards: usize) -> usize {
        12 + 8 * shards
    }

    fn put(&self, out: &mut BytesMut) {
        let Self { slot, checksums } = self;
        slot.put(out);
        put_checksums(checksums, out);
    }

    fn take(input: &mut &[u8], shards: usize) -> Option<Self> {
        Some(Self { slot: SlotRef::take(input, shards)?, checksums: take_checksums(input, shards) })
    }
}

/// One page of a publish; also one entry of a snapshot and of a mirror's resync. 36 B plus 8 B a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRecord {
    pub key: EntryKey,
    /// The page before it in its chain, 0 for none or unknown.
    pub parent: ParentHint,
    pub location: Location,
}

impl Record for PageRecord {
    fn bytes(shards: usize) -> usize {
        ENTRY_KEY_BYTES + 8 + Location::bytes(shards)
    }

    fn put(&self, out: &mut BytesMut) {
        let Self { key, parent, location } = self;
        key.put(out);
        out.put_u64_le(*parent);
        location.put(out);
    }

    fn take(input: &mut &[u8], shards: usize) -> Option<Self> {
        Some(Self { key: take_key(input), parent: input.get_u64_le(), location: Location::take(input, shards)? })
    }
}

/// A report that a slot does not hold the page its entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuspectRecord {
    pub key: EntryKey,
    pub slot: SlotRef,
    pub shard: u32,
    /// The checksum the entry promised: the report is void if the entry has another by now.
    pub checksum: u64,
}

impl Record for SuspectRecord {
    fn bytes(_: usize) -> usize {
        ENTRY_KEY_BYTES + 12 + 4 + 8
    }

    fn put(&self, out: &mut BytesMut) {
        let Self { key, slot, shard, checksum } = *self;
        key.put(out);
        slot.put(out);
        out.put_u32_le(shard);
        out.put_u64_le(checksum);
    }

    fn take(input: &mut &[u8], shards: usize) -> Option<Self> {
        Some(Self {
            key: take_key(input),
            slot: SlotRef::take(input, shards)?,
            shard: input.get_u32_le(),
            checksum: input.get_u64_le(),
        })
    }
}

/// What a mirror learns from one log entry, for one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceEvent {
    Published {
        key: EntryKey,
        parent: ParentHint,
        location: Location,
    },
    /// The entry that was at this slot is gone. At [`SlotRef::NONE`]: a page was deleted that was in no index any more,
    /// so that copies of it go.
    Retired {
        key: EntryKey,
        slot: SlotRef,
        reason: RetireReason,
    },
}

impl NamespaceEvent {
    const PUBLISHED: u8 = 0;

    /// Appends the event: one kind byte (0 published, else the retire reason), then its record.
    pub fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Published { key, parent, location } => {
                out.put_u8(Self::PUBLISHED);
                key.put(out);
                out.put_u64_le(*parent);
                location.put(out);
            }
            Self::Retired { key, slot, reason } => {
                out.put_u8(*reason as u8);
                key.put(out);
                slot.put(out);
            }
        }
    }

    /// Appends the event that this page was published.
    pub fn put_published(page: &PageRecord, out: &mut BytesMut) {
        out.put_u8(Self::PUBLISHED);
        page.put(out);
    }

    /// Decodes the events of one entry; an error names `events`.
    pub fn decode_all(mut input: &[u8], shards: usize) -> Result<Vec<Self>, BadInput> {
        let mut events = Vec::new();
        while !input.is_empty() {
            events.push(
                Self::take(&mut input, shards)
                    .ok_or_else(|| BadInput::new("events", format!("whole events, {} bytes are left", input.len())))?,
            );
        }
        Ok(events)
    }

    fn take(input: &mut &[u8], shards: usize) -> Option<Self> {
        let kind = input.get_u8();
        if kind == Self::PUBLISHED {
            (input.len() >= PageRecord::bytes(shards)).then_some(())?;
            let page = PageRecord::take(input, shards)?;
            return Some(Self::Published { key: page.key, parent: page.parent, location: page.location });
        }
        (input.len() >= ENTRY_KEY_BYTES + SlotRef::bytes(shards)).then_some(())?;
        let reason = RetireReason::from_u8(kind)?;
        Some(Self::Retired { key: take_key(input), slot: SlotRef::take(input, shards)?, reason })
    }
}

/// The events of one log entry for one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryEvents {
    pub revision: Revision,
    pub events: Vec<NamespaceEvent>,
}
