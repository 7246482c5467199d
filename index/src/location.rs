//! A page's location where the index keeps it.

use bytes::BufMut;
use foreword_proto::SlotRef;
use foreword_proto::location::{Checksums, Location};

/// A page's location where the index keeps it: nothing is copied or allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocationRef<'a> {
    pub slot: SlotRef,
    /// Checksum of shard 0.
    pub checksum: u64,
    /// Checksums of shards 1 and up.
    pub further: &'a [u64],
}

impl LocationRef<'_> {
    /// The checksum of a shard, if the page has that shard.
    pub fn checksum_of(&self, shard: usize) -> Option<u64> {
        if shard == 0 { Some(self.checksum) } else { self.further.get(shard - 1).copied() }
    }

    /// An owned copy.
    pub fn to_location(&self) -> Location {
        let checksums = if self.further.is_empty() {
            Checksums::One([self.checksum])
        } else {
            Checksums::Many(std::iter::once(self.checksum).chain(self.further.iter().copied()).collect())
        };
        Location { slot: self.slot, checksums }
    }

    /// Appends the [`Location`] record: slot, then one checksum a shard.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u32_le(self.slot.slab);
        out.put_u32_le(self.slot.slot);
        out.put_u32_le(self.slot.generation);
        out.put_u64_le(self.checksum);
        for checksum in self.further {
            out.put_u64_le(*checksum);
        }
    }
}
