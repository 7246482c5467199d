//! The state machine said plainly: ordered maps, no packing, no digests, nothing shared with the real one but the
//! vocabulary.
//!
//! Where the real one has a choice (which free slots a grant gives, which cleared entries a reclaim takes first), the
//! model checks that the choice is allowed and follows it; everything else it computes itself.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use foreword_meta::state::command::{
    ClusterSettings, Command, Event, Invalid, Outcome, Refusal, Registered, Retirement, SessionOperation, SlotState,
    SuspectOutcome,
};
use foreword_meta::state::{SUSPICION_ALONE_MS, SUSPICION_KEPT_MS, SUSPICIONS_PER_SESSION_MAX, State};
use foreword_proto::limits::SESSION_WINDOW;
use foreword_proto::records::{self, PageRecord, Record, SuspectRecord};
use foreword_proto::{
    AgentId, DirectoryId, EntryKey, Epoch, Namespace, NamespaceId, PublishOutcome, RetireReason, Revision, Sequence,
    SessionId, SlabId, Slot, SlotRef,
};

pub(crate) type PageName = (NamespaceId, EntryKey);
type Place = (SlabId, Slot);

#[derive(Debug, Clone)]
pub(crate) struct ModelNamespace {
    pub(crate) namespace: Namespace,
    pub(crate) epoch: Epoch,
    pub(crate) deleted_at: Revision,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ModelSession {
    pub(crate) node: String,
    pub(crate) agent: Option<AgentId>,
    pub(crate) incarnation: u64,
    pub(crate) endpoint: String,
    pub(crate) outcomes: BTreeMap<Sequence, Outcome>,
    pub(crate) highest: Sequence,
    pub(crate) limited: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) settings: ClusterSettings,
    pub(crate) tick_ms: u64,
    pub(crate) feature_level: u32,
    pub(crate) namespaces: BTreeMap<NamespaceId, ModelNamespace>,
    pub(crate) namespaces_ever: NamespaceId,
    /// Slot sizes of namespaces that are or were there.
    classes: BTreeSet<u64>,
    pub(crate) entries: BTreeMap<PageName, PageRecord>,
    /// Slots of entries of clears and drops.
    pub(crate) cleared: BTreeSet<Place>,
    pub(crate) slabs: BTreeMap<SlabId, (u64, Slot)>,
    pub(crate) slabs_ever: SlabId,
    pub(crate) slots: BTreeMap<Place, (u32, SlotState)>,
    pub(crate) rests: BTreeMap<Place, u64>,
    pub(crate) sessions: BTreeMap<SessionId, ModelSession>,
    pub(crate) sessions_ever: u64,
    pub(crate) suspicions: BTreeMap<PageName, (SessionId, u64)>,
    pub(crate) slots_reused: u64,
    pub(crate) directories: BTreeMap<u64, DirectoryId>,
}

impl Model {
    pub(crate) fn new(settings: ClusterSettings) -> Self {
        Self {
            settings,
            tick_ms: 0,
            feature_level: 1,
            namespaces: BTreeMap::new(),
            namespaces_ever: 0,
            classes: BTreeSet::new(),
            entries: BTreeMap::new(),
            cleared: BTreeSet::new(),
            slabs: BTreeMap::new(),
            slabs_ever: 0,
            slots: BTreeMap::new(),
            rests: BTreeMap::new(),
            sessions: BTreeMap::new(),
            sessions_ever: 0,
            suspicions: BTreeMap::new(),
            slots_reused: 0,
            directories: BTreeMap::new(),
        }
    }

    pub(crate) fn namespace(&self, id: NamespaceId) -> Option<&ModelNamespace> {
        self.namespaces.get(&id)
    }

    fn slot_bytes(&self, namespace: &Namespace) -> u64 {
        namespace.geometry().slot_bytes(self.settings.chunk_bytes)
    }

    /// Slots a session holds.
    pub(crate) fn held(&self, session: SessionId) -> Vec<SlotRef> {
        let held = self.slots.iter().filter(|(_, (_, state))| *state == SlotState::Granted { session });
        held.map(|((slab, slot), (generation, _))| SlotRef { slab: *slab, slot: *slot, generation: *generation })
            .collect()
    }

    /// What applying the command must answer and tell. `actual` and `after` are what the real one answered and became.
    pub(crate) fn apply(
        &mut self,
        revision: Revision,
        command: &Command,
        actual: &Outcome,
        after: &State,
    ) -> (Outcome, Vec<Event>) {
        let mut events = Vec::new();
        let outcome = match command {
            Command::Tick { now_ms } => self.tick(*now_ms, &mut events),
            Command::RegisterNamespace { namespace } => self.register(namespace),
            Command::OpenSession { session, node, agent, incarnation, endpoint } => {
                self.open_session(*session, (node, *agent), (*incarnation, endpoint), &mut events)
            }
            Command::EndSession { session } => self.end_session(*session, &mut events),
            Command::Session { session, sequence, operation } => {
                self.session_command(revision, *session, *sequence, operation, actual, after, &mut events)
            }
            Command::Suspect { session, namespace, suspects } => {
                self.suspect(*session, *namespace, suspects, &mut events)
            }
            Command::Retire { reason, entries } => self.retire(*reason, entries, &mut events),
            Command::Clear { namespace } => self.clear(*namespace, &mut events),
            Command::DropNamespace { namespace } => self.drop_namespace(*namespace, &mut events),
            Command::Delete { namespace, keys } => self.delete(revision, *namespace, keys, &mut events),
            Command::Reclaim { entries_max } => self.reclaim(*entries_max, after),
            Command::DropSlabs { slabs } => self.drop_slabs(slabs),
            Command::RaiseFeatureLevel { level } => {
                self.feature_level = self.feature_level.max(*level);
                Outcome::Done
            }
            Command::RecordMember { replica_id, directory } => {
                let known = *self.directories.entry(*replica_id).or_insert(*directory);
                let (replica_id, found) = (*replica_id, *directory);
                match known == found {
                    true => Outcome::Done,
                    false => Outcome::Refused(Refusal::Invalid(Invalid::Directory { replica_id, known, found })),
                }
            }
            Command::Hf3fs(_) => unreachable!("page files have a model of their own"),
        };
        (outcome, events)
    }

    fn tick(&mut self, now_ms: u64, events: &mut Vec<Event>) -> Outcome {
        self.tick_ms = self.tick_ms.max(now_ms);
        let due: Vec<Place> =
            self.rests.iter().filter(|(_, due)| **due <= self.tick_ms).map(|(place, _)| *place).collect();
        for place in due {
            self.rests.remove(&place);
            self.slots.get_mut(&place).unwrap().1 = SlotState::Free;
        }
        let alone = self.sessions.len() == 1;
        let age = if alone { SUSPICION_ALONE_MS } else { SUSPICION_KEPT_MS };
        let mut old: Vec<(u64, PageName)> = self.suspicions.iter().map(|(page, (_, since))| (*since, *page)).collect();
        old.retain(|(since, _)| self.tick_ms - since >= age);
        old.sort();
        for (_, page) in old {
            if alone {
                self.retire_page(page, RetireReason::Suspect, events);
            } else {
                self.drop_suspicion(&page);
            }
        }
        Outcome::Done
    }

    fn register(&mut self, namespace: &Namespace) -> Outcome {
        let slot_bytes = self.slot_bytes(namespace);
        let known = self.namespaces.iter().find(|(_, known)| known.namespace == *namespace);
        let id = match known {
            Some((id, _)) => *id,
            None => {
                if namespace.validate().is_err() {
                    return Outcome::Refused(Refusal::Invalid(Invalid::Namespace));
                }
                let name = namespace.identity_without_geometry();
                let clash =
                    self.namespaces.iter().find(|(_, known)| known.namespace.identity_without_geometry() == name);
                if let Some((id, other)) = clash {
                    let other = &other.namespace;
                    let registered = Registered {
                        page_tokens: other.page_tokens,
                        shard_bytes: other.shard_bytes.clone(),
                        other_page_tokens: other.page_tokens != namespace.page_tokens,
                    };
                    return Outcome::Refused(Refusal::OtherGeometry { namespace: *id, registered });
                }
                self.namespaces_ever += 1;
                self.classes.insert(slot_bytes);
                let known = ModelNamespace { namespace: namespace.clone(), epoch: 1, deleted_at: 0 };
                self.namespaces.insert(self.namespaces_ever, known);
                self.namespaces_ever
            }
        };
        Outcome::NamespaceRegistered { namespace: id, epoch: self.namespaces[&id].epoch, slot_bytes }
    }

    fn open_session(
        &mut self,
        session: SessionId,
        (node, agent): (&str, AgentId),
        (incarnation, endpoint): (u64, &str),
        events: &mut Vec<Event>,
    ) -> Outcome {
        if node.is_empty() {
            return Outcome::Refused(Refusal::Invalid(Invalid::Node { bytes: 0 }));
        }
        if self.sessions.contains_key(&session) {
            return Outcome::Refused(Refusal::Invalid(Invalid::Session { found: session }));
        }
        let stands = |open: &&ModelSession| open.agent != Some(agent) || open.incarnation > incarnation;
        if let Some(running) = self.sessions.values().filter(|open| open.node == node).find(stands) {
            let (running, refused) = (running.endpoint.clone(), endpoint.to_owned());
            return Outcome::Refused(Refusal::NameTaken { node: node.to_owned(), running, refused });
        }
        let older: Vec<SessionId> =
            self.sessions.iter().filter(|(_, open)| open.node == node).map(|(id, _)| *id).collect();
        for older in older {
            self.end_session(older, events);
        }
        self.sessions_ever += 1;
        let (node, endpoint) = (node.to_owned(), endpoint.to_owned());
        self.sessions.insert(
            session,
            ModelSession { node, agent: Some(agent), incarnation, endpoint, ..ModelSession::default() },
        );
        Outcome::SessionOpened { session }
    }

    fn end_session(&mut self, session: SessionId, events: &mut Vec<Event>) -> Outcome {
        if self.sessions.remove(&session).is_none() {
            return Outcome::Refused(Refusal::NoSession { session });
        }
        for slot in self.held(session) {
            self.rest((slot.slab, slot.slot), self.settings.write_rest_ms);
        }
        self.suspicions.retain(|_, (by, _)| *by != session);
        events.push(Event::SessionEnded { session });
        Outcome::Done
    }

    fn rest(&mut self, place: Place, rest_ms: u64) {
        self.slots.get_mut(&place).unwrap().1 = SlotState::Resting;
        self.rests.insert(place, self.tick_ms + rest_ms);
    }

    #[allow(clippy::too_many_arguments)]
    fn session_command(
        &mut self,
        revision: Revision,
        session: SessionId,
        sequence: Sequence,
        operation: &SessionOperation,
        actual: &Outcome,
        after: &State,
        events: &mut Vec<Event>,
    ) -> Outcome {
        let Some(open) = self.sessions.get(&session) else { return Outcome::Refused(Refusal::NoSession { session }) };
        if sequence == 0 || open.highest >= sequence + SESSION_WINDOW as u64 {
            return Outcome::Refused(Refusal::SequenceTooOld { sequence, window: SESSION_WINDOW as u32 });
        }
        if let Some(before) = open.outcomes.get(&sequence) {
            return before.clone();
        }
        let outcome = match operation {
            SessionOperation::Grant { slot_bytes, slots } => self.grant(session, *slot_bytes, *slots, actual, after),
            SessionOperation::Publish { namespace, epoch, pages } => {
                self.publish(revision, session, *namespace, *epoch, pages, events)
            }
            SessionOperation::Abort { unwritten, unknown } => self.abort(session, unwritten, unknown),
        };
        let open = self.sessions.get_mut(&session).unwrap();
        open.highest = open.highest.max(sequence);
        open.outcomes.insert(sequence, outcome.clone());
        outcome
    }

    fn grant(&mut self, session: SessionId, slot_bytes: u64, asked: u32, actual: &Outcome, after: &State) -> Outcome {
        if !self.classes.contains(&slot_bytes) {
            return Outcome::Refused(Refusal::Invalid(Invalid::SlotBytes { found: slot_bytes }));
        }
        let taken: u64 = self.slabs.values().map(|(bytes, slots)| bytes * u64::from(*slots)).sum();
        let creatable = (self.settings.l3_bytes - taken) / slot_bytes;
        let total: u64 = self.slabs.values().filter(|slab| slab.0 == slot_bytes).map(|slab| u64::from(slab.1)).sum();
        let of_class = |place: &Place| self.slabs[&place.0].0 == slot_bytes;
        let free =
            self.slots.iter().filter(|(place, slot)| slot.1 == SlotState::Free && of_class(place)).count() as u64;
        let most = ((total + creatable) / 64).max(1).min(u64::from(asked));
        let expected = most.min(free + creatable);

        self.follow_new_slabs(slot_bytes, after);
        let Outcome::Granted { slots } = actual else { panic!("a grant was answered {actual:?}") };
        assert_eq!(slots.len() as u64, expected, "asked {asked}, free {free}, creatable {creatable}, total {total}");
        for slot in slots {
            let (generation, state) = self.slots.get_mut(&(slot.slab, slot.slot)).expect("a slot there is");
            assert_eq!(self.slabs[&slot.slab].0, slot_bytes);
            assert_eq!((*state, *generation + 1), (SlotState::Free, slot.generation), "{slot:?}");
            self.slots_reused += u64::from(*generation > 0);
            (*generation, *state) = (slot.generation, SlotState::Granted { session });
        }
        actual.clone()
    }

    /// Slabs that a grant created: within the budget, of its class, with new ids.
    fn follow_new_slabs(&mut self, slot_bytes: u64, after: &State) {
        for slab in after.slabs().filter(|slab| !self.slabs.contains_key(&slab.slab)).collect::<Vec<_>>() {
            assert_eq!(slab.slab, self.slabs_ever + 1);
            assert_eq!(slab.slot_bytes, slot_bytes);
            self.slabs_ever = slab.slab;
            self.slabs.insert(slab.slab, (slot_bytes, slab.slots));
            self.slots.extend((0..slab.slots).map(|slot| ((slab.slab, slot), (0, SlotState::Free))));
        }
        let taken: u64 = self.slabs.values().map(|(bytes, slots)| bytes * u64::from(*slots)).sum();
        assert!(taken <= self.settings.l3_bytes);
    }

    fn publish(
        &mut self,
        revision: Revision,
        session: SessionId,
        namespace: NamespaceId,
        epoch: Epoch,
        pages: &[u8],
        events: &mut Vec<Event>,
    ) -> Outcome {
        let Some(info) = self.namespace(namespace).cloned() else {
            return Outcome::Refused(Refusal::NoNamespace { namespace });
        };
        let shards = info.namespace.shards();
        let pages = match records::decode::<PageRecord>("pages", pages, shards, 1024) {
            Ok(pages) => pages,
            Err(_) => {
                let (bytes, record_bytes) = (pages.len() as u32, PageRecord::bytes(shards) as u32);
                return Outcome::Refused(Refusal::Invalid(Invalid::Pages { bytes, record_bytes }));
            }
        };
        let slot_bytes = self.slot_bytes(&info.namespace);
        let mut existing = BytesMut::new();
        let mut outcomes = Vec::new();
        for page in pages {
            let slot = page.location.slot;
            let place = (slot.slab, slot.slot);
            let held = self.slots.get(&place) == Some(&(slot.generation, SlotState::Granted { session }));
            outcomes.push(if !held || self.slabs[&slot.slab].0 != slot_bytes {
                PublishOutcome::NotGranted
            } else if epoch != info.epoch {
                PublishOutcome::Cleared
            } else if let Some(there) = self.entries.get(&(namespace, page.key)) {
                there.location.put(&mut existing);
                PublishOutcome::Existing
            } else {
                self.slots.get_mut(&place).unwrap().1 = SlotState::Published;
                self.entries.insert((namespace, page.key), page.clone());
                events.push(Event::Published { namespace, page });
                PublishOutcome::Published
            });
        }
        Outcome::Published { revision, outcomes, existing: existing.freeze() }
    }

    fn abort(&mut self, session: SessionId, unwritten: &[SlotRef], unknown: &[SlotRef]) -> Outcome {
        let held = |model: &Self, slot: &SlotRef| {
            model.slots.get(&(slot.slab, slot.slot)) == Some(&(slot.generation, SlotState::Granted { session }))
        };
        for slot in unknown {
            if held(self, slot) {
                self.rest((slot.slab, slot.slot), self.settings.write_rest_ms);
            }
        }
        for slot in unwritten {
            if held(self, slot) {
                self.slots.get_mut(&(slot.slab, slot.slot)).unwrap().1 = SlotState::Free;
            }
        }
        Outcome::Done
    }

    fn retire_page(&mut self, page: PageName, reason: RetireReason, events: &mut Vec<Event>) -> bool {
        let Some(entry) = self.entries.remove(&page) else { return false };
        let slot = entry.location.slot;
        self.rest((slot.slab, slot.slot), self.settings.read_rest_ms);
        self.drop_suspicion(&page);
        events.push(Event::Retired { namespace: page.0, key: page.1, slot, reason });
        true
    }

    fn drop_suspicion(&mut self, page: &PageName) {
        let Some((session, _)) = self.suspicions.remove(page) else { return };
        let left = self.outstanding(session);
        if let Some(open) = self.sessions.get_mut(&session).filter(|_| left == 0) {
            open.limited = false;
        }
    }

    pub(crate) fn outstanding(&self, session: SessionId) -> u32 {
        self.suspicions.values().filter(|(by, _)| *by == session).count() as u32
    }

    fn retire(&mut self, reason: RetireReason, entries: &[Retirement], events: &mut Vec<Event>) -> Outcome {
        let mut count = 0;
        for entry in entries {
            let page = (entry.namespace, entry.key);
            if self.entries.get(&page).is_some_and(|there| there.location.slot == entry.slot) {
                count += u32::from(self.retire_page(page, reason, events));
            }
        }
        Outcome::Retired { entries: count }
    }

    fn delete(
        &mut self,
        revision: Revision,
        namespace: NamespaceId,
        keys: &[EntryKey],
        events: &mut Vec<Event>,
    ) -> Outcome {
        let Some(info) = self.namespaces.get_mut(&namespace) else {
            return Outcome::Refused(Refusal::NoNamespace { namespace });
        };
        info.deleted_at = revision;
        let mut gone = 0;
        for key in keys {
            if self.retire_page((namespace, *key), RetireReason::Deleted, events) {
                gone += 1;
            } else {
                events.push(Event::AbsentDeleted { namespace, key: *key });
            }
        }
        Outcome::Retired { entries: gone }
    }

    fn clear(&mut self, namespace: NamespaceId, events: &mut Vec<Event>) -> Outcome {
        let Some(info) = self.namespaces.get_mut(&namespace) else {
            return Outcome::Refused(Refusal::NoNamespace { namespace });
        };
        info.epoch += 1;
        let epoch = info.epoch;
        self.leave_pages(namespace);
        events.push(Event::Cleared { namespace, epoch });
        Outcome::Cleared { epoch }
    }

    fn drop_namespace(&mut self, namespace: NamespaceId, events: &mut Vec<Event>) -> Outcome {
        if self.namespaces.remove(&namespace).is_none() {
            return Outcome::Refused(Refusal::NoNamespace { namespace });
        }
        let pages = self.leave_pages(namespace);
        events.push(Event::NamespaceDropped { namespace });
        Outcome::NamespaceDropped { pages }
    }

    /// All pages of a namespace go, their slots are to be reclaimed; how many.
    fn leave_pages(&mut self, namespace: NamespaceId) -> u64 {
        let pages: Vec<PageName> = self.entries.keys().filter(|(of, _)| *of == namespace).copied().collect();
        for page in &pages {
            let slot = self.entries.remove(page).unwrap().location.slot;
            self.cleared.insert((slot.slab, slot.slot));
            self.drop_suspicion(page);
        }
        pages.len() as u64
    }

    /// Which of the cleared entries go first is the real one's choice.
    fn reclaim(&mut self, entries_max: u32, after: &State) -> Outcome {
        let resting = |place: &Place| matches!(after.slot_state(place.0, place.1), Some((_, SlotState::Resting)));
        let gone: Vec<Place> = self.cleared.iter().filter(|place| resting(place)).copied().collect();
        assert!(gone.len() <= entries_max as usize);
        for place in gone {
            self.cleared.remove(&place);
            self.rest(place, self.settings.read_rest_ms);
        }
        Outcome::Reclaimed { left: self.cleared.len() as u64 }
    }

    fn suspect(
        &mut self,
        session: SessionId,
        namespace: NamespaceId,
        suspects: &[SuspectRecord],
        events: &mut Vec<Event>,
    ) -> Outcome {
        if !self.sessions.contains_key(&session) {
            return Outcome::Refused(Refusal::NoSession { session });
        }
        if self.namespace(namespace).is_none() {
            return Outcome::Refused(Refusal::NoNamespace { namespace });
        }
        let outcomes = suspects.iter().map(|report| self.suspect_page(session, namespace, report, events)).collect();
        Outcome::Suspected { outcomes }
    }

    fn suspect_page(
        &mut self,
        session: SessionId,
        namespace: NamespaceId,
        report: &SuspectRecord,
        events: &mut Vec<Event>,
    ) -> SuspectOutcome {
        let page = (namespace, report.key);
        let Some(entry) = self.entries.get(&page) else { return SuspectOutcome::Void };
        let checksum = entry.location.checksums.as_slice().get(report.shard as usize);
        let same = entry.location.slot == report.slot && checksum == Some(&report.checksum);
        if !same || self.sessions[&session].limited {
            return SuspectOutcome::Void;
        }
        match self.suspicions.get(&page).copied() {
            Some((by, since)) => {
                let alone = self.sessions.len() == 1 && self.tick_ms - since >= SUSPICION_ALONE_MS;
                if by == session && !alone {
                    return SuspectOutcome::Noted;
                }
                self.retire_page(page, RetireReason::Suspect, events);
                SuspectOutcome::Retired
            }
            None if self.outstanding(session) >= SUSPICIONS_PER_SESSION_MAX => {
                self.sessions.get_mut(&session).unwrap().limited = true;
                SuspectOutcome::Void
            }
            None => {
                self.suspicions.insert(page, (session, self.tick_ms));
                SuspectOutcome::Noted
            }
        }
    }

    fn drop_slabs(&mut self, slabs: &[SlabId]) -> Outcome {
        for slab in slabs {
            let mut slots = self.slots.range((*slab, 0)..=(*slab, Slot::MAX));
            if !self.slabs.contains_key(slab) || slots.any(|(_, (_, state))| *state != SlotState::Free) {
                return Outcome::Refused(Refusal::Invalid(Invalid::Slab { slab: *slab }));
            }
        }
        for slab in slabs {
            self.slabs.remove(slab);
            self.slots.retain(|place, _| place.0 != *slab);
        }
        Outcome::Done
    }

    /// Compares everything that can be read.
    pub(crate) fn assert_equal(&self, state: &State) {
        assert_eq!(state.tick_ms(), self.tick_ms);
        assert_eq!(state.feature_level(), self.feature_level);
        assert!(state.directories().eq(self.directories.iter().map(|(id, directory)| (*id, *directory))));
        assert_eq!(state.pages(), self.entries.len() as u64);
        assert_eq!(state.reclaimable(), self.cleared.len() as u64);
        assert_eq!(state.namespaces().count(), self.namespaces.len());
        for (info, (id, known)) in state.namespaces().zip(&self.namespaces) {
            let expected = (*id, &known.namespace, known.epoch, known.deleted_at);
            assert_eq!((info.id, &info.namespace, info.epoch, info.deleted_at), expected);
            assert_eq!(state.namespaces_after(id - 1).next().map(|next| next.id), Some(info.id));
            let mut pages = Vec::new();
            state.pages_of(info.id, |page| pages.push(page));
            pages.sort_by_key(|page| page.key);
            let entries = self.entries.range((info.id, EntryKey([0; 16]))..=(info.id, EntryKey([255; 16])));
            assert_eq!(pages, entries.map(|(_, page)| page.clone()).collect::<Vec<_>>());
        }
        let slabs: BTreeMap<SlabId, (u64, Slot)> =
            state.slabs().map(|slab| (slab.slab, (slab.slot_bytes, slab.slots))).collect();
        assert_eq!(slabs, self.slabs);
        for ((slab, slot), expected) in &self.slots {
            assert_eq!(state.slot_state(*slab, *slot), Some(*expected), "slot {slot} of slab {slab}");
        }
        self.assert_sessions_equal(state);
        self.assert_room_equal(state);
    }

    fn assert_sessions_equal(&self, state: &State) {
        assert_eq!(state.sessions().count(), self.sessions.len());
        for (info, (id, known)) in state.sessions().zip(&self.sessions) {
            assert_eq!((info.id, info.node, info.incarnation), (*id, known.node.as_str(), known.incarnation));
            assert_eq!((info.endpoint, info.suspect_limited), (known.endpoint.as_str(), known.limited));
            assert_eq!(info.suspicions, self.outstanding(*id));
            assert_eq!(state.granted_slots(*id).collect::<Vec<_>>(), self.held(*id));
            assert_eq!(info.granted_slots, self.held(*id).len() as u64);
        }
    }

    fn assert_room_equal(&self, state: &State) {
        let bytes = |wanted: fn(&SlotState) -> bool| -> u64 {
            let fits = self.slots.iter().filter(|(_, (_, state))| wanted(state));
            fits.map(|(place, _)| self.slabs[&place.0].0).sum()
        };
        let status = state.l3_status();
        assert_eq!(status.free_bytes, bytes(|state| *state == SlotState::Free));
        assert_eq!(status.granted_bytes, bytes(|state| matches!(state, SlotState::Granted { .. })));
        assert_eq!(status.published_bytes, bytes(|state| *state == SlotState::Published));
        assert_eq!(status.resting_bytes, bytes(|state| *state == SlotState::Resting));
        assert_eq!((status.slabs, status.slots_reused), (self.slabs.len() as u64, self.slots_reused));
    }
}
