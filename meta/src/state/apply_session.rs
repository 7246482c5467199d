//! What a session asks for: slots, publishes, aborts.

use bytes::{Bytes, BytesMut};
use foreword_proto::limits::{PAGE_BYTES_MAX, PAGES_PER_PUBLISH_MAX, SLOTS_PER_ABORT_MAX, SLOTS_PER_GRANT_MAX};
use foreword_proto::records::{self, PageRecord, Record};
use foreword_proto::{Epoch, NamespaceId, PublishOutcome, Revision, SessionId, SlotRef};

use super::State;
use super::command::{Event, Outcome, Refusal, SessionOperation};
use super::digest;
use super::index::{LocationRef, TableId};
use super::rests::RestKind;
use super::slab::SlotUse;
use super::slots::slots_per_slab;

/// What a publish needs to know of its namespace.
#[derive(Clone, Copy)]
struct PublishInto {
    namespace: NamespaceId,
    table: TableId,
    shards: usize,
    slot_bytes: u64,
    /// The writer saw another epoch: its pages stay cleared.
    cleared: bool,
}

impl State {
    pub(super) fn session_operation(
        &mut self,
        revision: Revision,
        session: SessionId,
        operation: &SessionOperation,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        match operation {
            SessionOperation::Grant { slot_bytes, slots } => self.grant(session, *slot_bytes, *slots),
            SessionOperation::Publish { namespace, epoch, pages } => {
                self.publish(revision, session, (*namespace, *epoch), pages, events)
            }
            SessionOperation::Abort { unwritten, unknown } => self.abort(session, unwritten, unknown),
        }
    }

    fn grant(&mut self, session: SessionId, slot_bytes: u64, slots: u32) -> Result<Outcome, Refusal> {
        if slots > SLOTS_PER_GRANT_MAX {
            return Err(Refusal::TooMany { field: "slots".into(), limit: SLOTS_PER_GRANT_MAX.into() });
        }
        if slot_bytes > PAGE_BYTES_MAX.next_multiple_of(self.settings.chunk_bytes.into())
            || !self.slots.classes.contains_key(&slot_bytes)
        {
            let expected = format!("the slot size of a registered namespace, got {slot_bytes}");
            return Err(Refusal::Invalid { field: "slot_bytes".into(), expected });
        }
        let granted = self.slots.grant(&self.settings, session, slot_bytes, slots);
        if let Some(open) = self.sessions.get_mut(session) {
            open.granted.extend(granted.iter().map(|slot| (slot.slab, slot.slot)));
        }
        Ok(Outcome::Granted { slots: granted, slots_per_slab: slots_per_slab(&self.settings, slot_bytes) })
    }

    fn publish(
        &mut self,
        revision: Revision,
        session: SessionId,
        (namespace, epoch): (NamespaceId, Epoch),
        pages: &Bytes,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let info = self.namespaces.get(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        let (table, shards, slot_bytes) = (info.table, info.shards(), info.slot_bytes);
        let into = PublishInto { namespace, table, shards, slot_bytes, cleared: epoch != info.epoch };
        let count = pages.len() / PageRecord::bytes(shards);
        if count > PAGES_PER_PUBLISH_MAX {
            return Err(Refusal::TooMany { field: "pages".into(), limit: PAGES_PER_PUBLISH_MAX as u64 });
        }
        let pages: Vec<PageRecord> = records::decode("pages", pages, shards, PAGES_PER_PUBLISH_MAX)
            .map_err(|error| Refusal::Invalid { field: error.field, expected: error.expected })?;
        let mut existing = BytesMut::new();
        let mut outcomes = Vec::with_capacity(pages.len());
        for page in pages {
            let outcome = self.publish_page(session, into, &page, &mut existing);
            if outcome == PublishOutcome::Published {
                events.push(Event::Published { namespace, page });
            }
            outcomes.push(outcome);
        }
        Ok(Outcome::Published { revision, outcomes, existing: existing.freeze() })
    }

    /// Publishes one page. The slot is looked at first: only a slot the session holds may be said to stay with it.
    fn publish_page(
        &mut self,
        session: SessionId,
        into: PublishInto,
        page: &PageRecord,
        existing: &mut BytesMut,
    ) -> PublishOutcome {
        let slot = page.location.slot;
        let of_class = self.slots.slabs.get(&slot.slab).is_some_and(|slab| slab.slot_bytes == into.slot_bytes);
        if !of_class || !self.slots.is_granted(slot, session) {
            return PublishOutcome::NotGranted;
        }
        if into.cleared {
            return PublishOutcome::Cleared;
        }
        if let Some(location) = self.index.get(into.shards, into.table, &page.key) {
            location.put(existing);
            return PublishOutcome::Existing;
        }
        let checksums = page.location.checksums.as_slice();
        if self.index.insert(into.table, page.key, slot, checksums).is_err() {
            return PublishOutcome::OverQuota;
        }
        let location = LocationRef { slot, checksum: checksums[0], further: &checksums[1..] };
        let hash = digest::of_entry(into.table, &page.key, &location);
        self.entries_digest = self.entries_digest.wrapping_add(hash);
        self.slots.set(slot, SlotUse::Published(page.parent));
        if let Some(open) = self.sessions.get_mut(session) {
            open.granted.remove(&(slot.slab, slot.slot));
        }
        if let Some(info) = self.namespaces.get_mut(into.namespace) {
            info.pages += 1;
        }
        PublishOutcome::Published
    }

    /// Slots that the session does not hold (any more) are passed over: an abort may be repeated.
    fn abort(&mut self, session: SessionId, unwritten: &[SlotRef], unknown: &[SlotRef]) -> Result<Outcome, Refusal> {
        if unwritten.len() + unknown.len() > SLOTS_PER_ABORT_MAX {
            return Err(Refusal::TooMany { field: "unwritten and unknown".into(), limit: SLOTS_PER_ABORT_MAX as u64 });
        }
        // A slot in both lists rests: that is the safe one.
        for slot in unknown {
            if self.take_back(session, *slot) {
                self.rest(*slot, RestKind::Write);
            }
        }
        for slot in unwritten {
            if self.take_back(session, *slot) {
                self.slots.set(*slot, SlotUse::Free);
            }
        }
        Ok(Outcome::Done)
    }

    fn take_back(&mut self, session: SessionId, slot: SlotRef) -> bool {
        if !self.slots.is_granted(slot, session) {
            return false;
        }
        self.sessions.get_mut(session).is_some_and(|open| open.granted.remove(&(slot.slab, slot.slot)))
    }
}
