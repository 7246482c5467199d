//! Where a page's bytes are, and how to know them.

use crate::{Generation, SlabId, Slot};

/// A slot in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRef {
    pub slab: SlabId,
    pub slot: Slot,
    pub generation: Generation,
}

impl SlotRef {
    /// No slot: generations begin at 1.
    pub const NONE: Self = Self { slab: 0, slot: 0, generation: 0 };
}

/// Where a published page is: its slot, and per shard the checksum of its bytes ([`crate::checksum`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub slot: SlotRef,
    /// One xxh3-64 a shard, in rank order; as many as the namespace has shards.
    pub checksums: Checksums,
}

/// Checksums of a page's shards: inline for one, on the heap for more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksums {
    One([u64; 1]),
    Many(Box<[u64]>),
}

impl Checksums {
    /// From one checksum a shard.
    pub fn new(checksums: &[u64]) -> Self {
        match checksums {
            [one] => Self::One([*one]),
            many => Self::Many(many.into()),
        }
    }

    /// One checksum a shard, in rank order.
    pub fn as_slice(&self) -> &[u64] {
        match self {
            Self::One(one) => one,
            Self::Many(many) => many,
        }
    }
}
