//! The state machine of the metadata group: which pages exist, where, and who may write which slot.
//!
//! `apply(state, revision, command, events) -> outcome`. Nothing in this folder does I/O, reads a clock, draws a random
//! number, iterates in an order that is not defined, or waits. Two replicas that applied the same entries have equal
//! digests.

mod agents;
mod apply;
pub mod codec;
pub mod command;
mod copies;
mod digest;
mod frozen;
pub mod hf3fs;
mod input;
pub mod invariants;
mod members;
mod moment;
mod pages;
mod pieces;
mod refusal;
mod restore;
mod room;
mod snapshot;
mod violation;

use foreword_proto::status::L3Status;
use foreword_proto::{
    DirectoryId, EntryKey, Epoch, Fingerprint, Generation, NamespaceId, PageKey, Revision, SessionId, SlabId, Slot,
    SlotRef,
};

use agents::Agents;
use command::{ClusterSettings, SlabInfo, SlotState};
use digest::{Fields, Sums};
use hf3fs::Hf3fs;
use members::Members;
use moment::{Moment, Term};
use pages::Pages;
use room::{Room, SlotUse};

pub use agents::{SUSPICION_ALONE_MS, SUSPICION_KEPT_MS, SUSPICIONS_PER_SESSION_MAX, SessionInfo};
pub use copies::Copies;
pub use frozen::{Frozen, PresentPage};
pub use input::DecodeError;
pub use pages::{LocationRef, NamespaceInfo};
pub use restore::{RestoreError, Restorer};
pub use room::{ClassStatus, SlotCounts};
pub use snapshot::Chunks;

/// The replicated state: its owners, none of which reaches into another. A clone is cheap: both share what neither
/// changes.
#[derive(Debug, Clone)]
pub struct State {
    settings: ClusterSettings,
    revision: Revision,
    tick_ms: u64,
    feature_level: u32,
    pages: Pages,
    room: Room,
    agents: Agents,
    hf3fs: Hf3fs,
    members: Members,
    /// Of the leader whose entry is being applied. Not of the state itself.
    term: Term,
}

impl State {
    /// The state of a new cluster, before its first entry.
    pub fn new(settings: ClusterSettings) -> Self {
        Self {
            feature_level: settings.first_feature_level,
            settings,
            revision: 0,
            tick_ms: 0,
            pages: Pages::new(),
            room: Room::new(),
            agents: Agents::new(),
            hf3fs: Hf3fs::default(),
            members: Members::default(),
            term: Term::default(),
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
        self.room.next_release_ms()
    }

    /// The committed feature level. A binary that does not know it (above `FEATURE_LEVEL_MAX`) must stop applying.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// A registered namespace.
    pub fn namespace(&self, id: NamespaceId) -> Option<&NamespaceInfo> {
        self.pages.namespace(id)
    }

    /// The registered namespace with this fingerprint.
    pub fn namespace_of(&self, fingerprint: &Fingerprint) -> Option<&NamespaceInfo> {
        self.pages.by_fingerprint(fingerprint)
    }

    /// All registered namespaces, in the order of their ids.
    pub fn namespaces(&self) -> impl Iterator<Item = &NamespaceInfo> {
        self.pages.namespaces()
    }

    /// Registered namespaces with ids above `id`, in their order.
    pub fn namespaces_after(&self, id: NamespaceId) -> impl Iterator<Item = &NamespaceInfo> {
        self.pages.namespaces_after(id)
    }

    /// The namespace with this fingerprint.
    pub fn namespace_by_fingerprint(&self, fingerprint: &Fingerprint) -> Option<&NamespaceInfo> {
        self.pages.by_fingerprint(fingerprint)
    }

    /// Looks keys up in order and visits each with its position: up to the first absent one (which is visited), or with
    /// `every_key` all of them. Returns the namespace's epoch; None, and no visit, for a namespace that is not
    /// registered.
    pub fn lookup<'a>(
        &'a self,
        namespace: NamespaceId,
        keys: &[PageKey],
        every_key: bool,
        visit: impl FnMut(usize, Option<LocationRef<'a>>),
    ) -> Option<Epoch> {
        self.pages.lookup(namespace, keys, every_key, visit)
    }

    /// Where one page is.
    pub fn location(&self, namespace: NamespaceId, key: &EntryKey) -> Option<LocationRef<'_>> {
        self.pages.location(namespace, key)
    }

    /// An open session.
    pub fn session(&self, id: SessionId) -> Option<SessionInfo<'_>> {
        self.agents.session(id)
    }

    /// All open sessions, in the order of their ids.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo<'_>> {
        self.agents.sessions()
    }

    /// Slots a session holds, in order.
    pub fn granted_slots(&self, id: SessionId) -> impl Iterator<Item = SlotRef> + '_ {
        self.agents.granted(id).filter_map(|(slab, slot)| self.room.present(slab, slot))
    }

    /// L3's room over all classes, in bytes.
    pub fn l3_status(&self) -> L3Status {
        self.room.l3_status(&self.settings)
    }

    /// The room of each class of slot size, smallest first.
    pub fn classes(&self) -> impl Iterator<Item = ClassStatus> + '_ {
        self.room.classes(&self.settings)
    }

    /// The room of one class.
    pub fn class(&self, slot_bytes: u64) -> ClassStatus {
        self.room.class(&self.settings, slot_bytes)
    }

    /// SGLang's page files.
    pub fn hf3fs(&self) -> &Hf3fs {
        &self.hf3fs
    }

    /// The data directory of a replica id that is or was a member's.
    pub fn directory(&self, replica_id: u64) -> Option<DirectoryId> {
        self.members.directory(replica_id)
    }

    /// All replica ids that are or were a member's, with their data directories.
    pub fn directories(&self) -> impl Iterator<Item = (u64, DirectoryId)> {
        self.members.iter()
    }

    /// A slab.
    pub fn slab(&self, id: SlabId) -> Option<SlabInfo> {
        self.room.slab(id)
    }

    /// All slabs, in the order of their ids.
    pub fn slabs(&self) -> impl Iterator<Item = SlabInfo> + '_ {
        self.room.slabs()
    }

    /// What a slot is used for, and its generation (0: never granted); None for a slot there is not.
    pub fn slot_state(&self, slab: SlabId, slot: Slot) -> Option<(Generation, SlotState)> {
        let (generation, used) = self.room.get(slab, slot)?;
        let state = match used {
            SlotUse::Free => SlotState::Free,
            SlotUse::Granted(holder) => SlotState::Granted { session: self.agents.holding(holder)? },
            SlotUse::Published(_) => SlotState::Published,
            SlotUse::Resting => SlotState::Resting,
        };
        Some((generation, state))
    }

    /// Pages present in all namespaces.
    pub fn pages(&self) -> u64 {
        self.pages.count()
    }

    /// Entries of cleared and dropped namespaces that still take slots: [`command::Command::Reclaim`] retires them.
    pub fn reclaimable(&self) -> u64 {
        self.pages.reclaimable()
    }

    /// The same, of one class of slot size.
    pub fn reclaimable_of(&self, slot_bytes: u64) -> u64 {
        self.pages.reclaimable_of(slot_bytes)
    }

    /// A hash over the whole state at this revision: equal on replicas that applied the same entries.
    pub fn digest(&self) -> u64 {
        self.digest_with(Sums::Kept)
    }

    /// The digest, computed from every entry and slot: what [`State::digest`] must equal.
    pub fn digest_from_scratch(&self) -> u64 {
        self.digest_with(Sums::FromScratch)
    }

    fn digest_with(&self, sums: Sums) -> u64 {
        let Self { settings, revision, tick_ms, feature_level, pages, room, agents, hf3fs, members, term: _ } = self;
        let mut fields = Fields::new();
        fields.add(settings).add((revision, tick_ms, feature_level));
        pages.hash_into(&mut fields, sums);
        room.hash_into(&mut fields, sums);
        agents.hash_into(&mut fields, sums);
        hf3fs.hash_into(&mut fields, sums);
        members.hash_into(&mut fields);
        fields.finish()
    }

    /// Now, as the last entry left it.
    fn moment(&self) -> Moment<'_> {
        Moment { settings: &self.settings, revision: self.revision, tick_ms: self.tick_ms, term: self.term }
    }

    /// A view of this state that later changes do not touch, for a snapshot or a watcher's resync.
    pub fn freeze(&self) -> Frozen {
        Frozen::new(self.clone())
    }

    /// Estimated heap bytes of the index, the slot tables, the rests and the page files, from their capacities.
    pub fn heap_bytes(&self) -> usize {
        self.pages.heap_bytes() + self.room.heap_bytes() + self.hf3fs.heap_bytes()
    }
}
