//! A view of the state at one revision, for snapshots and for watchers that start over.

use foreword_proto::key::ParentHint;
use foreword_proto::records::PageRecord;
use foreword_proto::{EntryKey, Epoch, NamespaceId};

use super::State;
use super::snapshot::Chunks;

/// A page that is present, as the eviction policy starts from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentPage {
    pub namespace: NamespaceId,
    pub key: EntryKey,
    /// The hint of its parent; 0 for none.
    pub parent: ParentHint,
}

/// The state as it was when it was frozen; later changes to the live one copy what they touch. Reads go through
/// [`Frozen::state`].
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

    /// The snapshot of this state, in pieces of about 1 MiB. Each piece is let go of once it was handed out, so that
    /// the live state needs no copy of what the writer has passed.
    pub fn chunks(self) -> Chunks {
        Chunks::new(self.0)
    }

    /// The namespace's epoch at this revision.
    pub fn epoch(&self, namespace: NamespaceId) -> Option<Epoch> {
        self.0.namespace(namespace).map(|info| info.epoch)
    }

    /// Every present page of all namespaces, bucket by bucket in one pass. Each bucket is let go of once it was handed
    /// out.
    pub fn into_pages(self) -> impl Iterator<Item = Vec<PresentPage>> + Send {
        let State { pages, room, .. } = self.0;
        pages.into_present(room)
    }

    /// The pages of a namespace bucket by bucket, buckets without any left out; costs what the namespace has, whatever
    /// others have. None for a namespace that is not registered.
    pub fn entries_of(
        &self,
        namespace: NamespaceId,
    ) -> Option<impl Iterator<Item = (u32, Vec<PageRecord>)> + Send + '_> {
        self.0.pages.entries_of(namespace, &self.0.room)
    }
}

impl State {
    /// The hint of a present page's parent; 0 for none.
    pub fn parent_of(&self, namespace: NamespaceId, key: &EntryKey) -> Option<u64> {
        self.location(namespace, key).map(|location| self.room.parent_of(location.slot))
    }

    /// The pages of one of a namespace's buckets, where there are 2^`bits` of them; costs what is in it.
    pub fn pages_in_bucket(
        &self,
        namespace: NamespaceId,
        bits: u32,
        bucket: u32,
    ) -> impl Iterator<Item = PageRecord> + '_ {
        self.pages.pages_in_bucket(namespace, (bits, bucket), &self.room)
    }

    /// All pages of a namespace, as [`Frozen::entries_of`] gives them.
    pub fn pages_of(&self, namespace: NamespaceId, mut visit: impl FnMut(PageRecord)) {
        if let Some(buckets) = self.pages.entries_of(namespace, &self.room) {
            buckets.flat_map(|(_, pages)| pages).for_each(&mut visit);
        }
    }
}
