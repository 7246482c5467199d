//! A view of the state at one revision, for snapshots and for watchers that start over.

use foreword_proto::records::PageRecord;
use foreword_proto::{Epoch, NamespaceId};

use super::State;
use super::index::BUCKETS;
use super::slab::SlotUse;
use super::snapshot::Chunks;

/// The state as it was when it was frozen; later changes to the live one copy what they touch. Reads go through [`Frozen::state`].
#[derive(Debug, Clone)]
pub struct Frozen(State);

impl Frozen {
    pub(super) fn new(state: State) -> Self {
        Self(state)
    }

    /// The frozen state, to be read.
    pub fn state(&self) -> &State {
        &self.0
    }

    /// The snapshot of this state, in pieces of about 1 MiB. Each piece is let go of once it was handed out, so that the
    /// live state needs no copy of what the writer has passed.
    pub fn chunks(self) -> Chunks {
        Chunks::new(self.0)
    }

    /// The namespace's epoch at this revision.
    pub fn epoch(&self, namespace: NamespaceId) -> Option<Epoch> {
        self.0.namespace(namespace).map(|info| info.epoch)
    }

    /// The pages of a namespace bucket by bucket, buckets without any left out. None for a namespace that is not registered.
    pub fn entries_of(
        &self,
        namespace: NamespaceId,
    ) -> Option<impl Iterator<Item = (u32, Vec<PageRecord>)> + Send + '_> {
        let info = self.0.namespace(namespace)?;
        let (shards, table) = (info.shards(), info.table);
        let of_bucket = move |bucket: usize| {
            let entries = self.0.index.bucket(shards, bucket).filter(move |(entry, _)| entry.table == table);
            let pages: Vec<PageRecord> = entries
                .map(|(entry, location)| {
                    let parent = match self.0.slots.get(entry.slot.slab, entry.slot.slot) {
                        Some((_, SlotUse::Published(parent))) => parent,
                        _ => 0,
                    };
                    PageRecord { key: entry.key, parent, location: location.to_location() }
                })
                .collect();
            (bucket as u32, pages)
        };
        Some((0..BUCKETS).map(of_bucket).filter(|(_, pages)| !pages.is_empty()))
    }
}

impl State {
    /// The hint of a present page's parent; 0 for none.
    pub fn parent_of(&self, namespace: NamespaceId, key: &foreword_proto::EntryKey) -> Option<u64> {
        let slot = self.location(namespace, key)?.slot;
        match self.slots.get(slot.slab, slot.slot) {
            Some((_, SlotUse::Published(parent))) => Some(parent),
            _ => None,
        }
    }

    /// All pages of a namespace, as [`Frozen::entries_of`] gives them.
    pub fn pages_of(&self, namespace: NamespaceId, mut visit: impl FnMut(PageRecord)) {
        if let Some(buckets) = Frozen(self.clone()).entries_of(namespace) {
            buckets.flat_map(|(_, pages)| pages).for_each(&mut visit);
        }
    }
}
