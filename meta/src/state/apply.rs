//! Applying one command: the dispatch, and what concerns time, namespaces, sessions and slabs.

use foreword_proto::limits::{NAMESPACE_TEXT_BYTES_MAX, SESSION_WINDOW, SESSIONS_MAX};
use foreword_proto::{Namespace, RetireReason, Revision, Sequence, SessionId, SlabId, SlotRef};

use super::State;
use super::codec;
use super::command::{Command, Event, Outcome, Refusal, SessionOperation};
use super::namespaces::NamespaceInfo;
use super::rests::{RELEASES_PER_TICK_MAX, Rest, RestKind};
use super::sessions::{Seen, Session};
use super::slab::{SlotCounts, SlotUse};
use super::suspicions::{SUSPICION_ALONE_MS, SUSPICION_KEPT_MS};

impl State {
    /// Applies one command of the entry `revision`; what it changed is appended to `events`, in order.
    pub fn apply(&mut self, revision: Revision, command: &Command, events: &mut Vec<Event>) -> Outcome {
        let applied = match command {
            Command::Tick { now_ms } => Ok(self.tick(*now_ms, events)),
            Command::RegisterNamespace { namespace } => self.register(namespace),
            Command::OpenSession { node, incarnation, endpoint } => {
                self.open_session(node, *incarnation, endpoint, events)
            }
            Command::EndSession { session } => self.end_session(*session, events),
            Command::Session { session, sequence, operation } => {
                self.session_command(revision, *session, *sequence, operation, events)
            }
            Command::Suspect { session, namespace, suspects } => self.suspect(*session, *namespace, suspects, events),
            Command::Retire { reason, entries } => Ok(self.retire(*reason, entries, events)),
            Command::Clear { namespace } => self.clear(*namespace, events),
            Command::Delete { namespace, keys } => self.delete(*namespace, keys, events),
            Command::Reclaim { entries_max } => Ok(self.reclaim(*entries_max)),
            Command::DropSlabs { slabs } => self.drop_slabs(slabs),
            Command::RaiseFeatureLevel { level } => {
                self.feature_level = self.feature_level.max(*level);
                Ok(Outcome::Done)
            }
            Command::Hf3fs(command) => self.apply_hf3fs(command).map(Outcome::Hf3fs),
        };
        applied.unwrap_or_else(Outcome::Refused)
    }

    /// Begins an entry of the leader of `term`, before the first of its commands.
    pub fn begin_entry(&mut self, term: u64) {
        self.entry_term = term;
    }

    /// Ends the entry `revision`, after the last of its commands (it may have none).
    pub fn finish_entry(&mut self, revision: Revision) {
        debug_assert!(revision > self.revision, "entry {revision} after {}", self.revision);
        self.revision = revision;
    }

    fn tick(&mut self, now_ms: u64, events: &mut Vec<Event>) -> Outcome {
        self.tick_ms = self.tick_ms.max(now_ms);
        for _ in 0..RELEASES_PER_TICK_MAX {
            let Some(rest) = self.rests.pop_due(self.tick_ms) else { break };
            if let Some((generation, _)) = self.slots.get(rest.slab, rest.slot) {
                self.slots.set(SlotRef { slab: rest.slab, slot: rest.slot, generation }, SlotUse::Free);
            }
        }
        self.settle_old_suspicions(events);
        Outcome::Done
    }

    /// Retires what the only agent has long suspected, or drops what nobody confirmed.
    fn settle_old_suspicions(&mut self, events: &mut Vec<Event>) {
        let alone = self.sessions.open.len() == 1;
        let age_ms = if alone { SUSPICION_ALONE_MS } else { SUSPICION_KEPT_MS };
        while let Some((namespace, key)) = self.suspicions.oldest(self.tick_ms, age_ms) {
            if alone {
                self.retire_entry(namespace, &key, RetireReason::Suspect, events);
            }
            self.drop_suspicion(&(namespace, key));
        }
    }

    fn register(&mut self, namespace: &Namespace) -> Result<Outcome, Refusal> {
        if let Some(info) = self.namespaces.by_fingerprint(&namespace.fingerprint()) {
            let (namespace, epoch, slot_bytes) = (info.id, info.epoch, info.slot_bytes);
            return Ok(Outcome::NamespaceRegistered { namespace, epoch, slot_bytes });
        }
        self.namespaces.check_new(namespace)?;
        let table = self.take_table()?;
        let id = self.namespaces.next_id();
        let info = NamespaceInfo::new(id, namespace.clone(), self.settings.chunk_bytes, 1, table);
        let slot_bytes = info.slot_bytes;
        self.namespaces.add(info);
        self.slots.classes.entry(slot_bytes).or_default();
        Ok(Outcome::NamespaceRegistered { namespace: id, epoch: 1, slot_bytes })
    }

    /// A table id that was never given out.
    pub(super) fn take_table(&mut self) -> Result<u32, Refusal> {
        let table = self.next_table;
        let too_many = || Refusal::TooMany { field: "clears".into(), limit: u32::MAX.into() };
        self.next_table = table.checked_add(1).ok_or_else(too_many)?;
        Ok(table)
    }

    fn open_session(
        &mut self,
        node: &str,
        incarnation: u64,
        endpoint: &str,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        for (field, text, least) in [("node", node, 1), ("endpoint", endpoint, 0)] {
            if text.len() < least || text.len() > NAMESPACE_TEXT_BYTES_MAX {
                let expected = format!("{least} to {NAMESPACE_TEXT_BYTES_MAX} bytes, got {}", text.len());
                return Err(Refusal::Invalid { field: field.into(), expected });
            }
        }
        let older = self.sessions.of_node(node);
        if older.is_none() && self.sessions.open.len() >= SESSIONS_MAX {
            return Err(Refusal::TooMany { field: "sessions".into(), limit: SESSIONS_MAX as u64 });
        }
        if let Some(older) = older {
            self.end_session(older, events)?;
        }
        let session = Session::new(node.into(), incarnation, endpoint.into(), self.tick_ms);
        Ok(Outcome::SessionOpened { session: self.sessions.open(session) })
    }

    fn end_session(&mut self, session: SessionId, events: &mut Vec<Event>) -> Result<Outcome, Refusal> {
        let ended = self.sessions.open.remove(&session).ok_or(Refusal::NoSession { session })?;
        for (slab, slot) in &ended.granted {
            if let Some((generation, _)) = self.slots.get(*slab, *slot) {
                self.rest(SlotRef { slab: *slab, slot: *slot, generation }, RestKind::Write);
            }
        }
        for page in self.suspicions.pages(|_, suspicion| suspicion.session == session) {
            self.suspicions.remove(&page);
        }
        events.push(Event::SessionEnded { session });
        Ok(Outcome::Done)
    }

    fn session_command(
        &mut self,
        revision: Revision,
        session: SessionId,
        sequence: Sequence,
        operation: &SessionOperation,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let open = self.sessions.get(session).ok_or(Refusal::NoSession { session })?;
        let too_old = Refusal::SequenceTooOld { sequence, window: SESSION_WINDOW as u32 };
        match open.window.seen(sequence) {
            Seen::New => {}
            Seen::TooOld => return Err(too_old),
            // What was kept was encoded here: that it cannot be read would be a bug, and answering "too old" is safe.
            Seen::Before(mut outcome) => return codec::decode_outcome(&mut outcome).map_err(|_| too_old),
        }
        let outcome = self.session_operation(revision, session, operation, events).unwrap_or_else(Outcome::Refused);
        if let Some(open) = self.sessions.get_mut(session) {
            open.window.keep(sequence, codec::outcome_bytes(&outcome));
        }
        Ok(outcome)
    }

    /// Puts a slot to rest.
    pub(super) fn rest(&mut self, slot: SlotRef, kind: RestKind) {
        let rest_ms = match kind {
            RestKind::Read => self.settings.read_rest_ms,
            RestKind::Write => self.settings.write_rest_ms,
        };
        let due_ms = self.tick_ms.saturating_add(rest_ms);
        self.slots.set(slot, SlotUse::Resting);
        self.rests.push(kind, Rest { due_ms, slab: slot.slab, slot: slot.slot });
    }

    fn drop_slabs(&mut self, slabs: &[SlabId]) -> Result<Outcome, Refusal> {
        for slab in slabs {
            let counts = self.slots.slabs.get(slab).map(|table| table.counts);
            if counts.is_none_or(|counts| counts != SlotCounts { free: counts.total(), ..SlotCounts::default() }) {
                let expected = format!("slabs all of whose slots are free, {slab} is not one");
                return Err(Refusal::Invalid { field: "slabs".into(), expected });
            }
        }
        for slab in slabs {
            self.slots.drop_slab(*slab);
        }
        Ok(Outcome::Done)
    }
}
