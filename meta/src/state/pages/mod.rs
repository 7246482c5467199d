//! Which pages exist, and where: namespaces, the index of their entries, and what clears left in it.

mod checks;
mod garbage;
mod index;
mod namespaces;
mod pieces;
mod publishing;
mod removal;

use std::collections::{BTreeMap, VecDeque};

use foreword_proto::records::PageRecord;
use foreword_proto::{EntryKey, Epoch, Fingerprint, Namespace, NamespaceId, PageKey, SlotRef};

use super::command::{Limit, Refusal};
use super::digest::{Fields, Sums};
use super::frozen::PresentPage;
use super::room::Room;
use garbage::Garbage;
use index::{BUCKETS, Index, TableId, hash_of_entry};
use namespaces::Namespaces;

pub(super) use checks::{Summary, check, check_step};
pub use index::LocationRef;
pub use namespaces::NamespaceInfo;
pub(super) use publishing::PublishHandler;
pub(super) use removal::RemovalHandler;

/// Namespaces and their pages. A clone is cheap: both share buckets until one changes them.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    namespaces: Namespaces,
    /// Ids of tables are never given out twice.
    next_table: TableId,
    index: Index,
    /// Sum over the hashes of all entries.
    entries_digest: u64,
    /// What clears left, in the order in which it is reclaimed.
    garbage: VecDeque<Garbage>,
}

impl Pages {
    /// No namespace yet.
    pub(super) fn new() -> Self {
        Self {
            namespaces: Namespaces::default(),
            next_table: 1,
            index: Index::default(),
            entries_digest: 0,
            garbage: VecDeque::new(),
        }
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
        let keys = keys.iter().map(PageKey::entry);
        self.index.visit(info.shards(), info.table, keys, every_key, visit);
        Some(info.epoch)
    }

    /// Where one page is.
    pub(super) fn location(&self, namespace: NamespaceId, key: &EntryKey) -> Option<LocationRef<'_>> {
        let info = self.namespaces.get(namespace)?;
        self.index.get(info.shards(), info.table, key)
    }

    /// The pages of a namespace bucket by bucket, buckets without any left out. None for a namespace that is not
    /// registered.
    pub(super) fn entries_of<'a>(
        &'a self,
        namespace: NamespaceId,
        room: &'a Room,
    ) -> Option<impl Iterator<Item = (u32, Vec<PageRecord>)> + Send + 'a> {
        let info = self.namespaces.get(namespace)?;
        let (shards, table) = (info.shards(), info.table);
        let of_bucket = move |bucket: usize| {
            let entries = self.index.bucket(shards, bucket).filter(move |(entry, _)| entry.table == table);
            let pages: Vec<PageRecord> = entries
                .map(|(entry, location)| PageRecord {
                    key: entry.key,
                    parent: room.parent_of(entry.slot),
                    location: location.to_location(),
                })
                .collect();
            (bucket as u32, pages)
        };
        Some((0..BUCKETS).map(of_bucket).filter(|(_, pages)| !pages.is_empty()))
    }

    /// Every page that is present, bucket by bucket. What has been passed is let go of.
    pub(super) fn into_present(self, room: Room) -> impl Iterator<Item = Vec<PresentPage>> + Send {
        let Self { namespaces, index, .. } = self;
        let tables: BTreeMap<TableId, NamespaceId> = namespaces.iter().map(|info| (info.table, info.id)).collect();
        index.into_buckets().map(move |bucket| {
            // Entries of other tables wait to be reclaimed.
            let present = |(table, key, slot)| {
                let namespace = *tables.get(&table)?;
                Some(PresentPage { namespace, key, parent: room.parent_of(slot) })
            };
            bucket.entries().filter_map(present).collect()
        })
    }

    /// Pages present in all namespaces.
    pub(super) fn count(&self) -> u64 {
        self.namespaces.iter().map(|info| info.pages).sum()
    }

    /// Cleared entries that still take slots.
    pub(super) fn reclaimable(&self) -> u64 {
        self.garbage.iter().map(|garbage| garbage.entries).sum()
    }

    /// The same, of one class.
    pub(super) fn reclaimable_of(&self, slot_bytes: u64) -> u64 {
        let of_class = self.garbage.iter().filter(|garbage| garbage.slot_bytes == slot_bytes);
        of_class.map(|garbage| garbage.entries).sum()
    }

    /// Registers a namespace, or finds it.
    pub(super) fn register(&mut self, namespace: &Namespace, chunk_bytes: u32) -> Result<&NamespaceInfo, Refusal> {
        let id = match self.namespaces.by_fingerprint(&namespace.fingerprint()) {
            Some(info) => info.id,
            None => {
                self.namespaces.check_new(namespace)?;
                let (table, id) = (self.take_table()?, self.namespaces.take_id()?);
                self.namespaces.add(NamespaceInfo::new(id, namespace.clone(), chunk_bytes, 1, table));
                id
            }
        };
        self.namespaces.get(id).ok_or(Refusal::NoNamespace { namespace: id })
    }

    /// A table id that was never given out.
    fn take_table(&mut self) -> Result<TableId, Refusal> {
        let table = self.next_table;
        self.next_table = table.checked_add(1).ok_or(Refusal::TooMany(Limit::Clears))?;
        Ok(table)
    }

    /// Adds an entry, with one checksum a shard. False: its bucket is full.
    fn insert(&mut self, table: TableId, key: EntryKey, slot: SlotRef, checksums: &[u64]) -> bool {
        if self.index.insert(table, key, slot, checksums).is_err() {
            return false;
        }
        let location = LocationRef { slot, checksum: checksums[0], further: &checksums[1..] };
        self.entries_digest = self.entries_digest.wrapping_add(hash_of_entry(table, &key, &location));
        true
    }

    /// Takes an entry out; its slot.
    fn remove(&mut self, shards: usize, table: TableId, key: &EntryKey) -> Option<SlotRef> {
        let location = self.index.get(shards, table, key)?;
        let (slot, hash) = (location.slot, hash_of_entry(table, key, &location));
        self.index.remove(shards, table, key);
        self.entries_digest = self.entries_digest.wrapping_sub(hash);
        Some(slot)
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { namespaces, next_table, index, entries_digest, garbage } = self;
        let entries = match sums {
            Sums::Kept => *entries_digest,
            Sums::FromScratch => index.digest_from_scratch(),
        };
        fields.add(next_table).add(entries).add_all(garbage.iter());
        namespaces.hash_into(fields);
    }

    /// Heap bytes of the index, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        self.index.heap_bytes()
    }
}
