//! The state digest: replicas compare it every so often, a restored snapshot must reproduce it.
//!
//! Entries and slots enter as a wrapping sum of their hashes, kept up with every change; the rest is hashed on demand,
//! as it is encoded.

use xxhash_rust::xxh3::Xxh3;

use super::codec::{Encode, Sink};

/// Which sums over hashes go into a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sums {
    /// Those kept up with each change.
    Kept,
    /// Computed from every entry, slot and page.
    FromScratch,
}

/// A running hash over fields of the state.
pub(super) struct Fields(Xxh3);

impl Fields {
    pub(super) fn new() -> Self {
        Self(Xxh3::new())
    }

    /// Adds a value as it is encoded.
    pub(super) fn add(&mut self, value: impl Encode) -> &mut Self {
        value.encode(self);
        self
    }

    /// Adds values after their number.
    pub(super) fn add_all(&mut self, values: impl ExactSizeIterator<Item: Encode>) -> &mut Self {
        self.add(values.len() as u64);
        for value in values {
            value.encode(self);
        }
        self
    }

    pub(super) fn finish(&self) -> u64 {
        self.0.digest()
    }
}

impl Sink for Fields {
    fn put(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}
