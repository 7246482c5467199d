//! The state machine of the metadata group: which pages exist, where, and who may write which slot.
//!
//! `apply(state, revision, command, events) -> outcome`. Nothing in this folder does I/O, reads a clock, draws a random
//! number, iterates in an order that is not defined, or waits. Two replicas that applied the same entries have equal
//! digests.

mod apply;
mod apply_retire;
mod apply_session;
pub mod codec;
pub mod command;
mod digest;
mod frozen;
pub mod hf3fs;
mod index;
mod input;
pub mod invariants;
mod namespaces;
mod restore;
mod rests;
mod sessions;
mod slab;
mod slots;
mod snapshot;
mod suspicions;

use std::collections::VecDeque;

use foreword_proto::limits::FEATURE_LEVEL_MAX;
use foreword_proto::status::L3Status;
use foreword_proto::{
    EntryKey, Epoch, Fingerprint, Generation, NamespaceId, PageKey, Revision, SessionId, SlabId, Slot, SlotRef,
};

use command::{ClusterSettings, SlabInfo, SlotState};
use digest::Fields;
use hf3fs::{File, Hf3fs};
use index::{Index, TableId};
use namespaces::Namespaces;
use rests::Rests;
use sessions::Sessions;
use slab::SlotUse;
use slots::Slots;
use suspicions::Suspicions;

pub use frozen::Frozen;
pub use index::LocationRef;
pub use input::DecodeError;
pub use namespaces::NamespaceInfo;
pub use restore::{RestoreError, Restorer};
pub use sessions::SessionInfo;
pub use slab::SlotCounts;
pub use slots::ClassStatus;
pub use snapshot::{Chunks, SNAPSHOT_VERSION};
pub use suspicions::{SUSPICION_ALONE_MS, SUSPICION_KEPT_MS, SUSPICIONS_PER_SESSION_MAX};

/// Entries that a clear made invisible, in the order in which they are reclaimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Garbage {
    table: TableId,
    shards: usize,
    /// Buckets before this one hold none of them.
    bucket: usize,
    entries: u64,
}

/// The replicated state. A clone is cheap: both share buckets and slot tables until one changes them.
#[derive(Debug, Clone)]
pub struct State {
    settings: ClusterSettings,
    revision: Revision,
    tick_ms: u64,
    feature_level: u32,
    namespaces: Namespaces,
    next_table: TableId,
    index: Index,
    /// Sum over the hashes of all entries.
    entries_digest: u64,
    slots: Slots,
    sessions: Sessions,
    rests: Rests,
    suspicions: Suspicions,
    garbage: VecDeque<Garbage>,
    hf3fs: Hf3fs,
    /// The term of the entry that is being applied: a decision of another term's leader is void. Not of the state itself.
    entry_term: u64,
}

impl State {
    /// The state of a new cluster, before its first entry.
    pub fn new(settings: ClusterSettings) -> Self {
        Self {
            settings,
            revision: 0,
            tick_ms: 0,
            feature_level: FEATURE_LEVEL_MAX.min(1),
            namespaces: Namespaces::default(),
            next_table: 1,
            index: Index::default(),
            entries_digest: 0,
            slots: Slots::new(),
            sessions: Sessions::new(),
            rests: Rests::default(),
            suspicions: Suspicions::default(),
            garbage: VecDeque::new(),
            hf3fs: Hf3fs::default(),
            entry_term: 0,
        }
    }

    /// What the cluster was initialised with.
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// The last entry that was applied whole.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The last committed tick.
    pub fn tick_ms(&self) -> u64 {
        self.tick_ms
    }

    /// The tick at which the next resting slot is free again.
    pub fn next_release_ms(&self) -> Option<u64> {
        self.rests.next_due_ms()
    }

    /// The committed feature level. A binary that does not know it (above `FEATURE_LEVEL_MAX`) must stop applying.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// A registered namespace.
    pub fn namespace(&self, id: NamespaceId) -> Option<&NamespaceInfo> {
        self.namespaces.get(id)
    }

    /// All registered namespaces, in the order of their ids.
    pub fn namespaces(&self) -> impl Iterator<Item = &NamespaceInfo> {
        self.namespaces.iter()
    }

    /// The namespace with this fingerprint.
    pub fn namespace_by_fingerprint(&self, fingerprint: &Fingerprint) -> Option<&NamespaceInfo> {
        self.namespaces.by_fingerprint(fingerprint)
    }

    /// Looks keys up in order and visits each with its position: up to the first absent one (which is visited), or with
    /// `every_key` all of them. Returns the namespace's epoch; None, and no visit, for a namespace that is not registered.
    pub fn lookup<'a>(
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
    pub fn location(&self, namespace: NamespaceId, key: &EntryKey) -> Option<LocationRef<'_>> {
        let info = self.namespaces.get(namespace)?;
        self.index.get(info.shards(), info.table, key)
    }

    /// An open session.
    pub fn session(&self, id: SessionId) -> Option<SessionInfo<'_>> {
        self.sessions.get(id).map(|session| session.info(id))
    }

    /// All open sessions, in the order of their ids.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo<'_>> {
        self.sessions.open.iter().map(|(id, session)| session.info(*id))
    }

    /// Slots a session holds, in order.
    pub fn granted_slots(&self, id: SessionId) -> impl Iterator<Item = SlotRef> + '_ {
        let granted = self.sessions.get(id).into_iter().flat_map(|session| &session.granted);
        granted.filter_map(|(slab, slot)| {
            let (generation, _) = self.slots.get(*slab, *slot)?;
            Some(SlotRef { slab: *slab, slot: *slot, generation })
        })
    }

    /// L3's room over all classes, in bytes.
    pub fn l3_status(&self) -> L3Status {
        let mut status = L3Status {
            chunk_bytes: self.settings.chunk_bytes,
            budget_bytes: self.settings.l3_bytes,
            slabs: self.slots.slabs.len() as u64,
            slab_bytes: self.slots.file_bytes,
            slots_reused: self.slots.slots_reused,
            ..L3Status::default()
        };
        for class in self.classes() {
            status.free_bytes += class.slots.free * class.slot_bytes;
            status.granted_bytes += class.slots.granted * class.slot_bytes;
            status.published_bytes += class.slots.published * class.slot_bytes;
            status.resting_bytes += class.slots.resting * class.slot_bytes;
        }
        status
    }

    /// The room of each class of slot size, smallest first.
    pub fn classes(&self) -> impl Iterator<Item = ClassStatus> + '_ {
        self.slots.classes.keys().map(|slot_bytes| self.slots.class_status(&self.settings, *slot_bytes))
    }

    /// The room of one class.
    pub fn class(&self, slot_bytes: u64) -> ClassStatus {
        self.slots.class_status(&self.settings, slot_bytes)
    }

    /// SGLang's page files.
    pub fn hf3fs(&self) -> &Hf3fs {
        &self.hf3fs
    }

    /// A slab.
    pub fn slab(&self, id: SlabId) -> Option<SlabInfo> {
        self.slots.info(id)
    }

    /// All slabs, in the order of their ids.
    pub fn slabs(&self) -> impl Iterator<Item = SlabInfo> + '_ {
        self.slots.slabs.keys().filter_map(|slab| self.slots.info(*slab))
    }

    /// What a slot is used for, and its generation (0: never granted).
    pub fn slot_state(&self, slab: SlabId, slot: Slot) -> Option<(Generation, SlotState)> {
        let (generation, used) = self.slots.get(slab, slot)?;
        let state = match used {
            SlotUse::Free => SlotState::Free,
            SlotUse::Granted(session) => SlotState::Granted { session },
            SlotUse::Published(_) => SlotState::Published,
            SlotUse::Resting => SlotState::Resting,
        };
        Some((generation, state))
    }

    /// Pages present in all namespaces.
    pub fn pages(&self) -> u64 {
        self.namespaces.iter().map(|info| info.pages).sum()
    }

    /// Cleared entries that still take slots: [`command::Command::Reclaim`] retires them.
    pub fn reclaimable(&self) -> u64 {
        self.garbage.iter().map(|garbage| garbage.entries).sum()
    }

    /// A hash over the whole state at this revision: equal on replicas that applied the same entries.
    pub fn digest(&self) -> u64 {
        self.digest_with(self.entries_digest, self.slots.digest, File::digest_of_records)
    }

    /// The digest, computed from every entry and slot: what [`State::digest`] must equal.
    pub fn digest_from_scratch(&self) -> u64 {
        let entries =
            self.index.iter().map(|(_, entry, location)| digest::of_entry(entry.table, &entry.key, &location));
        let slots = self.slots.slabs.iter().flat_map(|(slab, table)| {
            table
                .iter()
                .map(|(slot, generation, used)| digest::of_slot(SlotRef { slab: *slab, slot, generation }, used))
        });
        self.digest_with(
            entries.fold(0, u64::wrapping_add),
            slots.fold(0, u64::wrapping_add),
            File::digest_of_records_from_scratch,
        )
    }

    fn digest_with(&self, entries: u64, slots: u64, of_page_file: impl Fn(&File) -> u64) -> u64 {
        let mut fields = Fields::new();
        let settings = &self.settings;
        fields.u64(settings.chunk_bytes.into()).u64(settings.slab_bytes).u64(settings.l3_bytes);
        fields.u64(settings.read_rest_ms).u64(settings.write_rest_ms).u64(settings.lease_ms);
        fields.u64(self.revision).u64(self.tick_ms).u64(self.feature_level.into());
        fields.u64(self.next_table.into()).u64(entries).u64(slots);
        fields.u64(self.slots.next_slab.into()).u64(self.slots.slots_reused);
        for (slab, table) in &self.slots.slabs {
            fields.u64((*slab).into()).u64(table.slot_bytes).u64(table.slots.into());
        }
        for (slot_bytes, class) in &self.slots.classes {
            fields.u64(*slot_bytes).u64(class.last_granted.into());
        }
        for garbage in &self.garbage {
            fields.u64(garbage.table.into()).u64(garbage.shards as u64);
            fields.u64(garbage.bucket as u64).u64(garbage.entries);
        }
        self.namespaces.hash_into(&mut fields);
        self.sessions.hash_into(&mut fields);
        self.rests.hash_into(&mut fields);
        self.suspicions.hash_into(&mut fields);
        self.hf3fs.hash_into(&mut fields, of_page_file);
        fields.finish()
    }

    /// A view of this state that later changes do not touch, for a snapshot or a watcher's resync.
    pub fn freeze(&self) -> Frozen {
        Frozen::new(self.clone())
    }

    /// Estimated heap bytes of the index, the slot tables and the page files, from their capacities.
    pub fn heap_bytes(&self) -> usize {
        self.index.heap_bytes() + self.slots.heap_bytes() + self.hf3fs.heap_bytes()
    }
}
