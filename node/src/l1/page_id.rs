//! A page's name in L1, and its hash.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use foreword_proto::buckets::spread;
use foreword_proto::{EntryKey, Epoch, NamespaceId};

/// Name of a page within this agent's cluster: a cleared namespace goes on under the next epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageId {
    pub namespace: NamespaceId,
    pub epoch: Epoch,
    pub key: EntryKey,
}

impl PageId {
    /// Its hash, never 0. Keys are digests already, or spread as if they were.
    pub(super) fn hashed(&self) -> u64 {
        let whose = (u64::from(self.namespace) | u64::from(self.epoch) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (spread(&self.key) ^ whose ^ whose >> 32).max(1)
    }
}

impl Hash for PageId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hashed());
    }
}

/// Maps by [`PageId`], which brings its own hash.
pub(super) type Hashed = BuildHasherDefault<AsItIs>;

#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        unreachable!("a page's name has one hash, not {} bytes", bytes.len());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
