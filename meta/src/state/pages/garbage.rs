//! What clears, and drops of namespaces, left to be reclaimed: whole tables that nobody sees any more.

use std::collections::VecDeque;

use crate::state::digest::{Fields, Sums};
use foreword_index::Table;

/// One table.
#[derive(Debug, Clone)]
pub(super) struct Left {
    pub(super) table: Table,
    /// Buckets before this one are empty.
    pub(super) bucket: u32,
    /// The size of the slots that its pages hold.
    pub(super) slot_bytes: u64,
}

/// All of it, in the order in which it is reclaimed.
#[derive(Debug, Clone, Default)]
pub(super) struct Garbage {
    pub(super) left: VecDeque<Left>,
    /// Entries of all tables.
    pub(super) entries: u64,
}

impl Garbage {
    /// Adds what is left of a namespace.
    pub(super) fn add(&mut self, table: Table, slot_bytes: u64) {
        let entries = table.entries();
        if entries > 0 {
            self.entries += entries;
            self.left.push_back(Left { table, bucket: 0, slot_bytes });
        }
    }

    /// Entries of one class of slot size.
    pub(super) fn entries_of(&self, slot_bytes: u64) -> u64 {
        let of_class = self.left.iter().filter(|left| left.slot_bytes == slot_bytes);
        of_class.map(|left| left.table.entries()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { left, entries } = self;
        fields.add(entries);
        fields.add_all(left.iter().map(|Left { table, bucket, slot_bytes }| {
            let digest = match sums {
                Sums::Kept => table.digest(),
                Sums::FromScratch => table.digest_from_scratch(),
            };
            ((*bucket, *slot_bytes), (table.count(), table.shards() as u32), (table.entries(), digest))
        }));
    }
}
