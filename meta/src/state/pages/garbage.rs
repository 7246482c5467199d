//! What a clear left in the index.

use super::index::TableId;
use crate::state::codec::record;

/// Entries that a clear made invisible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage {
    pub(super) table: TableId,
    pub(super) shards: u32,
    /// Buckets before this one hold none of them.
    pub(super) bucket: u32,
    pub(super) entries: u64,
}

record!(Garbage { table, shards, bucket, entries });
