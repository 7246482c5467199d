//! Namespaces and pages in a snapshot.
//!
//! ```text
//! index       last namespace id
//! namespaces  count, then each: id, namespace, epoch, revision of its last delete, buckets
//! garbage     count, then each: shards, buckets, first bucket, slot size
//! entries     namespace id, or 0 and the number of a garbage; shards, count, then each: key, slot, a checksum a shard
//! ```
//! A table comes back with as many buckets as it had: in which order garbage is reclaimed must be the same everywhere.

use std::sync::Arc;

use bytes::BytesMut;
use foreword_proto::limits::SHARDS_MAX;
use foreword_proto::{EntryKey, NamespaceId, SlotRef};

use super::Pages;
use super::garbage::Left;
use super::namespaces::NamespaceInfo;
use crate::state::codec::{Decode, Encode, Sink};
use crate::state::input::{DecodeError, Input};
use crate::state::pieces::{PieceKind, piece, pieces};
use foreword_index::{BUCKETS_MAX, Bucket, Table};

/// A page in its bucket.
struct EntryRecord {
    bucket: Arc<Bucket>,
    at: usize,
    shards: usize,
}

impl Encode for EntryRecord {
    fn encode(&self, out: &mut impl Sink) {
        let Self { bucket, at, shards } = self;
        let location = bucket.location(*at, *shards);
        (bucket.entry(*at).key, location.slot, location.checksum).encode(out);
        location.further.iter().for_each(|checksum| checksum.encode(out));
    }
}

/// Whose entries a piece holds: a namespace's, or those of a garbage by its number in the queue.
type Owner = (NamespaceId, u32);

/// The pages of a table. What has been passed is let go of.
fn entries(owner: Owner, table: Table) -> impl Iterator<Item = BytesMut> {
    let shards = table.shards();
    let records = table.into_buckets().flat_map(move |(_, bucket)| {
        (0..bucket.len()).map(move |at| EntryRecord { bucket: bucket.clone(), at, shards })
    });
    pieces(PieceKind::Entries, (owner.0, owner.1, shards as u32), records)
}

impl Pages {
    /// All pieces. What has been passed is let go of.
    pub(in crate::state) fn into_pieces(self) -> impl Iterator<Item = BytesMut> {
        let Self { namespaces, garbage } = self;
        let left: Vec<_> = garbage.left.into_iter().collect();
        let shape = |left: &Left| ((left.table.shards() as u32, left.table.count()), left.bucket, left.slot_bytes);
        let shapes: Vec<_> = left.iter().map(shape).collect();
        let tables = left.into_iter().zip(0..).flat_map(|(left, number)| entries((0, number), left.table));
        let last_id = namespaces.last_id();
        let list = namespaces.list();
        let pages = namespaces.into_list().flat_map(|info| {
            let (id, table) = (info.id, info.table.clone());
            drop(info);
            entries((id, 0), table)
        });
        std::iter::once(piece(PieceKind::Index, last_id))
            .chain(pieces(PieceKind::Namespaces, (), list.into_iter()))
            .chain(pieces(PieceKind::Garbage, (), shapes.into_iter()))
            .chain(tables)
            .chain(pages)
    }

    pub(in crate::state) fn take_index(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        self.namespaces.given_out_to(NamespaceId::decode(input)?);
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
        for ((shards, count), bucket, slot_bytes) in Vec::<((u32, u32), u32, u64)>::decode(input)? {
            let sound = (1..=SHARDS_MAX as u32).contains(&shards) && (1..=BUCKETS_MAX).contains(&count);
            if !sound || bucket >= count {
                return Err(input.invalid(format!("garbage of {shards} shards from bucket {bucket} of {count} on")));
            }
            self.garbage.left.push_back(Left { table: Table::new(shards as usize, count), bucket, slot_bytes });
        }
        Ok(())
    }

    pub(in crate::state) fn take_entries(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let (namespace, number, shards) = <(NamespaceId, u32, u32)>::decode(input)?;
        let unowned = input.invalid(format!("pages of {shards} shards in namespace {namespace}, garbage {number}"));
        if namespace > 0 {
            let take = |info: &mut NamespaceInfo| {
                let fits = info.table.shards() == shards as usize;
                if fits { take_pages(&mut info.table, input) } else { Err(unowned.clone()) }
            };
            return self.namespaces.change(namespace, take).unwrap_or(Err(unowned.clone()));
        }
        let left = self.garbage.left.get_mut(number as usize);
        let left = left.filter(|left| left.table.shards() == shards as usize).ok_or(unowned)?;
        let before = left.table.entries();
        take_pages(&mut left.table, input)?;
        self.garbage.entries += left.table.entries() - before;
        Ok(())
    }
}

/// Takes pages with one checksum a shard.
fn take_pages(table: &mut Table, input: &mut Input<'_>) -> Result<(), DecodeError> {
    let mut checksums = vec![0u64; table.shards()];
    for _ in 0..input.count(<(EntryKey, SlotRef)>::BYTES_MIN + 8 * table.shards())? {
        let (key, slot) = Decode::decode(input)?;
        for checksum in &mut checksums {
            *checksum = Decode::decode(input)?;
        }
        match table.insert(key, slot, &checksums) {
            Ok(None) => {}
            Ok(Some(_)) => return Err(input.invalid(format!("page {key}: twice"))),
            Err(_) => return Err(input.invalid("a bucket with too many entries")),
        }
    }
    Ok(())
}
