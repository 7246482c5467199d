//! Which pages exist, and where: namespaces with the tables of their pages, and what clears left.

mod checks;
mod garbage;
mod namespaces;
mod pieces;
mod publishing;
mod removal;

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_index::{Bucket, Copies};
use foreword_proto::records::PageRecord;
use foreword_proto::{EntryKey, Epoch, Fingerprint, Namespace, NamespaceId, PageKey};

use super::command::Refusal;
use super::digest::{Fields, Sums};
use super::frozen::PresentPage;
use super::room::Room;
use garbage::Garbage;
use namespaces::Namespaces;

pub(super) use checks::{Summary, check, check_step};
pub use foreword_index::LocationRef;
pub use namespaces::NamespaceInfo;
pub(super) use publishing::PublishHandler;
pub(super) use removal::RemovalHandler;

/// Namespaces and their pages. A clone is cheap: both share buckets until one changes them.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    namespaces: Namespaces,
    garbage: Garbage,
}

/// Buckets, copied ahead of their change.
#[derive(Debug)]
pub(super) struct PageCopies(Vec<(NamespaceId, Copies<Bucket>)>);

impl PageCopies {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Pages {
    /// No namespace yet.
    pub(super) fn new() -> Self {
        Self { namespaces: Namespaces::default(), garbage: Garbage::default() }
    }

    /// A registered namespace.
    pub(super) fn namespace(&self, id: NamespaceId) -> Option<&NamespaceInfo> {
        self.namespaces.get(id)
    }

    /// The highest id of a namespace that was ever given out, 0 for none.
    pub(super) fn last_namespace(&self) -> NamespaceId {
        self.namespaces.last_id()
    }

    /// All registered namespaces, in the order of their ids.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &NamespaceInfo> {
        self.namespaces.iter()
    }

    /// Registered namespaces with ids above `id`, in their order.
    pub(super) fn namespaces_after(&self, id: NamespaceId) -> impl Iterator<Item = &NamespaceInfo> {
        self.namespaces.after(id)
    }

    /// The namespace with this fingerprint.
    pub(super) fn by_fingerprint(&self, fingerprint: &Fingerprint) -> Option<&NamespaceInfo> {
        self.namespaces.by_fingerprint(fingerprint)
    }

    /// Visits where keys are, in order: up to the first absent one (which is visited), or with `every_key` all of them.
    /// Returns the namespace's epoch; None, and no visit, for a namespace that is not registered.
    pub(super) fn lookup<'a>(
        &'a self,
        namespace: NamespaceId,
        keys: &[PageKey],
        every_key: bool,
        visit: impl FnMut(usize, Option<LocationRef<'a>>),
    ) -> Option<Epoch> {
        let info = self.namespaces.get(namespace)?;
        info.table.visit(keys.iter().map(PageKey::entry), every_key, visit);
        Some(info.epoch)
    }

    /// Where one page is.
    pub(super) fn location(&self, namespace: NamespaceId, key: &EntryKey) -> Option<LocationRef<'_>> {
        self.namespaces.get(namespace)?.table.get(key)
    }

    /// The pages of a namespace bucket by bucket, buckets without any left out. None for a namespace that is not
    /// registered.
    pub(super) fn entries_of<'a>(
        &'a self,
        namespace: NamespaceId,
        room: &'a Room,
    ) -> Option<impl Iterator<Item = (u32, Vec<PageRecord>)> + Send + 'a> {
        let table = &self.namespaces.get(namespace)?.table;
        let of_bucket = move |bucket: u32| (bucket, records(table.pages_in(bucket), room));
        Some((0..table.count()).map(of_bucket).filter(|(_, pages)| !pages.is_empty()))
    }

    /// Every page that is present, bucket by bucket. What has been passed is let go of.
    pub(super) fn into_present(self, room: Room) -> impl Iterator<Item = Vec<PresentPage>> + Send {
        let room = Arc::new(room);
        self.namespaces.into_list().flat_map(move |info| {
            let (room, namespace, shards, table) = (room.clone(), info.id, info.shards(), info.table.clone());
            drop(info);
            table.into_buckets().map(move |(_, bucket)| {
                let present = |(key, location): (EntryKey, LocationRef<'_>)| {
                    let parent = room.parent_of(location.slot);
                    PresentPage { namespace, key, parent }
                };
                bucket.iter(shards).map(present).collect()
            })
        })
    }

    /// The pages of one of a namespace's buckets, where there are 2^`bits` of them.
    pub(super) fn pages_in_bucket<'a>(
        &'a self,
        namespace: NamespaceId,
        (bits, bucket): (u32, u32),
        room: &'a Room,
    ) -> impl Iterator<Item = PageRecord> + 'a {
        let info = self.namespaces.get(namespace);
        let pages = info.into_iter().flat_map(move |info| info.table.pages_of(bits, bucket));
        pages.map(|(key, location)| PageRecord {
            key,
            parent: room.parent_of(location.slot),
            location: location.to_location(),
        })
    }

    /// The buckets of these keys that a frozen view shares, copied ahead of their change.
    pub(super) fn copies_for(&self, keys: BTreeMap<NamespaceId, Vec<EntryKey>>) -> PageCopies {
        let copies = keys.into_iter().filter_map(|(id, keys)| {
            let copies = self.namespaces.get(id)?.table.copies_for(keys.into_iter());
            (!copies.is_empty()).then_some((id, copies))
        });
        PageCopies(copies.collect())
    }

    /// Puts such copies in; nothing was changed since they were made.
    pub(super) fn put_copies(&mut self, copies: PageCopies) {
        for (id, copies) in copies.0 {
            self.namespaces.change(id, |info| info.table.put_copies(copies));
        }
    }

    /// Pages present in all namespaces.
    pub(super) fn count(&self) -> u64 {
        self.namespaces.pages()
    }

    /// Cleared entries that still take slots.
    pub(super) fn reclaimable(&self) -> u64 {
        self.garbage.entries
    }

    /// The same, of one class.
    pub(super) fn reclaimable_of(&self, slot_bytes: u64) -> u64 {
        self.garbage.entries_of(slot_bytes)
    }

    /// Registers a namespace, or finds it.
    pub(super) fn register(&mut self, namespace: &Namespace, chunk_bytes: u32) -> Result<&NamespaceInfo, Refusal> {
        let id = match self.namespaces.by_fingerprint(&namespace.fingerprint()) {
            Some(info) => info.id,
            None => {
                self.namespaces.check_new(namespace)?;
                let id = self.namespaces.take_id()?;
                self.namespaces.add(NamespaceInfo::new(id, namespace.clone(), chunk_bytes, 1, 1));
                id
            }
        };
        self.namespaces.get(id).ok_or(Refusal::NoNamespace { namespace: id })
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { namespaces, garbage } = self;
        namespaces.hash_into(fields, sums);
        garbage.hash_into(fields, sums);
    }

    /// Heap bytes of the index, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        let left = self.garbage.left.iter().map(|left| left.table.heap_bytes());
        self.namespaces.heap_bytes() + left.sum::<usize>()
    }
}

/// Pages as records, each with its parent's hint.
fn records<'a>(pages: impl Iterator<Item = (EntryKey, LocationRef<'a>)>, room: &Room) -> Vec<PageRecord> {
    let record = |(key, location): (EntryKey, LocationRef<'a>)| PageRecord {
        key,
        parent: room.parent_of(location.slot),
        location: location.to_location(),
    };
    pages.map(record).collect()
}
