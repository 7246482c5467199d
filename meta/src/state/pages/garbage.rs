//! What a clear, or the drop of a namespace, left in the index.

use super::index::TableId;
use super::namespaces::NamespaceInfo;
use crate::state::codec::record;

/// Entries that nobody sees any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage {
    pub(super) table: TableId,
    pub(super) shards: u32,
    /// Buckets before this one hold none of them.
    pub(super) bucket: u32,
    pub(super) entries: u64,
    /// The size of the slots they hold.
    pub(super) slot_bytes: u64,
}

record!(Garbage { table, shards, bucket, entries, slot_bytes });

impl Garbage {
    /// All pages that are in a namespace now.
    pub(super) fn of(info: &NamespaceInfo) -> Self {
        let &NamespaceInfo { table, pages: entries, slot_bytes, .. } = info;
        Self { table, shards: info.shards() as u32, bucket: 0, entries, slot_bytes }
    }
}
