//! Namespaces and pages in a snapshot.
//!
//! ```text
//! index       next_table, last namespace id
//! namespaces  count, then each: id, namespace, epoch, table, pages
//! garbage     count, then each: table, shards, bucket, entries, slot size
//! entries     shards, count, then each: table, key, slot, a checksum a shard
//! ```

use bytes::BytesMut;
use foreword_proto::limits::SHARDS_MAX;
use foreword_proto::location::Location;
use foreword_proto::{EntryKey, NamespaceId, SlotRef};

use super::Pages;
use super::garbage::Garbage;
use super::index::TableId;
use super::namespaces::NamespaceInfo;
use crate::state::codec::{Decode, Encode, Sink};
use crate::state::input::{DecodeError, Input};
use crate::state::pieces::{PieceKind, piece, pieces};

/// An entry of the index; its number of shards is the piece's.
struct EntryRecord {
    table: TableId,
    key: EntryKey,
    location: Location,
}

impl Encode for EntryRecord {
    fn encode(&self, out: &mut impl Sink) {
        let Self { table, key, location: Location { slot, checksums } } = self;
        (table, key, slot).encode(out);
        checksums.as_slice().iter().for_each(|checksum| checksum.encode(out));
    }
}

/// Takes entries with as many checksums as `checksums` has room for, and adds each.
fn take_entries(pages: &mut Pages, shards: usize, input: &mut Input<'_>) -> Result<(), DecodeError> {
    let mut checksums = vec![0u64; shards];
    for _ in 0..input.count(<(TableId, EntryKey, SlotRef)>::BYTES_MIN + 8 * shards)? {
        let (table, key, slot) = Decode::decode(input)?;
        for checksum in &mut checksums {
            *checksum = Decode::decode(input)?;
        }
        if !pages.insert(table, key, slot, &checksums) {
            return Err(input.invalid("a bucket with too many entries"));
        }
    }
    Ok(())
}

impl Pages {
    /// All pieces. What has been passed is let go of.
    pub(in crate::state) fn into_pieces(self) -> impl Iterator<Item = BytesMut> {
        let Self { namespaces, next_table, index, entries_digest: _, garbage } = self;
        let entries = index.into_groups().flat_map(|(shards, entries)| {
            let records = entries.map(|(table, key, location)| EntryRecord { table, key, location });
            pieces(PieceKind::Entries, shards as u32, records)
        });
        std::iter::once(piece(PieceKind::Index, (next_table, namespaces.last_id())))
            .chain(pieces(PieceKind::Namespaces, (), namespaces.into_list()))
            .chain(pieces(PieceKind::Garbage, (), garbage.into_iter()))
            .chain(entries)
    }

    pub(in crate::state) fn take_index(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let (next_table, last_id) = <(TableId, NamespaceId)>::decode(input)?;
        self.next_table = next_table;
        self.namespaces.given_out_to(last_id);
        Ok(())
    }

    pub(in crate::state) fn take_namespaces(
        &mut self,
        chunk_bytes: u32,
        input: &mut Input<'_>,
    ) -> Result<(), DecodeError> {
        for _ in 0..input.count(NamespaceInfo::BYTES_MIN)? {
            let info = NamespaceInfo::decode(chunk_bytes, input)?;
            if info.id == 0 || info.id > self.namespaces.last_id() || self.namespaces.get(info.id).is_some() {
                return Err(input.invalid(format!("namespace id {}: twice, or never given out", info.id)));
            }
            self.namespaces.add(info);
        }
        Ok(())
    }

    pub(in crate::state) fn take_garbage(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        self.garbage.extend(Vec::<Garbage>::decode(input)?);
        Ok(())
    }

    pub(in crate::state) fn take_entries(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let shards = input.u32()? as usize;
        if shards == 0 || shards > SHARDS_MAX {
            return Err(input.invalid(format!("entries with {shards} shards")));
        }
        take_entries(self, shards, input)
    }
}
