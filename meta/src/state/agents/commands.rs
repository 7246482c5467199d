//! What a session asks for: slots, publishes, aborts; each is applied once, however often it is repeated.

use bytes::Bytes;
use foreword_proto::limits::{SESSION_WINDOW, SLOTS_PER_ABORT_MAX, SLOTS_PER_GRANT_MAX};
use foreword_proto::{Epoch, NamespaceId, Sequence, SessionId, SlotRef};
use foreword_seams::{Marker, sometimes};

use super::Agents;
use super::sessions::Seen;
use crate::state::codec;
use crate::state::command::{Event, Limit, Outcome, Refusal, SessionOperation};
use crate::state::moment::Moment;
use crate::state::pages::{Pages, PublishHandler};
use crate::state::room::{Holder, RestKind, Room};

/// What a command of a session may touch.
pub(in crate::state) struct SessionHandler<'st> {
    pub(in crate::state) agents: &'st mut Agents,
    pub(in crate::state) pages: &'st mut Pages,
    pub(in crate::state) room: &'st mut Room,
    pub(in crate::state) at: Moment<'st>,
    pub(in crate::state) events: &'st mut Vec<Event>,
}

impl SessionHandler<'_> {
    /// Applies a command, or answers one that came before as it was answered then.
    pub(in crate::state) fn apply(
        &mut self,
        session: SessionId,
        sequence: Sequence,
        operation: &SessionOperation,
    ) -> Result<Outcome, Refusal> {
        let Some(open) = self.agents.sessions.get(session) else {
            sometimes(Marker::EndedSessionRefused);
            return Err(Refusal::NoSession { session });
        };
        let too_old = Refusal::SequenceTooOld { sequence, window: SESSION_WINDOW as u32 };
        match open.window.seen(sequence) {
            Seen::New => {}
            Seen::TooOld => return Err(too_old),
            Seen::Before(mut outcome) => {
                // What was kept was encoded here: that it cannot be read would be a bug, and answering "too old" is
                // safe.
                let outcome = codec::decode_outcome(&mut outcome).map_err(|_| too_old)?;
                self.note_replay(&outcome);
                return Ok(outcome);
            }
        }
        let outcome = self.operation(session, operation).unwrap_or_else(Outcome::Refused);
        if let Some(open) = self.agents.sessions.get_mut(session) {
            open.window.keep(sequence, codec::outcome_bytes(&outcome));
        }
        Ok(outcome)
    }

    fn note_replay(&self, outcome: &Outcome) {
        let Outcome::Published { revision, .. } = outcome else { return };
        sometimes(Marker::PublishReplayed);
        if *revision < self.at.term.began {
            sometimes(Marker::PublishReplayedAcrossLeaders);
        }
    }

    fn operation(&mut self, session: SessionId, operation: &SessionOperation) -> Result<Outcome, Refusal> {
        match operation {
            SessionOperation::Grant { slot_bytes, slots } => self.grant(session, *slot_bytes, *slots),
            SessionOperation::Publish { namespace, epoch, pages } => self.publish(session, *namespace, *epoch, pages),
            SessionOperation::Abort { unwritten, unknown } => self.abort(session, unwritten, unknown),
        }
    }

    /// What a session's slots name it by.
    fn holder(&self, session: SessionId) -> Result<Holder, Refusal> {
        self.agents.sessions.get(session).map(|open| open.holder).ok_or(Refusal::NoSession { session })
    }

    fn grant(&mut self, session: SessionId, slot_bytes: u64, slots: u32) -> Result<Outcome, Refusal> {
        if slots > SLOTS_PER_GRANT_MAX {
            return Err(Refusal::TooMany(Limit::GrantedSlots));
        }
        let slots = self.room.grant(self.holder(session)?, slot_bytes, slots, self.at.settings)?;
        if let Some(open) = self.agents.sessions.get_mut(session) {
            for slot in &slots {
                open.granted.insert(slot.slab, slot.slot);
            }
        }
        Ok(Outcome::Granted { slots })
    }

    fn publish(
        &mut self,
        session: SessionId,
        namespace: NamespaceId,
        epoch: Epoch,
        pages: &Bytes,
    ) -> Result<Outcome, Refusal> {
        let (holder, from) = (self.holder(session)?, self.events.len());
        let mut publish = PublishHandler { pages: self.pages, room: self.room, at: self.at, events: self.events };
        let outcome = publish.apply(holder, namespace, epoch, pages)?;
        if let Some(open) = self.agents.sessions.get_mut(session) {
            for event in &self.events[from..] {
                if let Event::Published { page, .. } = event {
                    open.granted.remove(page.location.slot.slab, page.location.slot.slot);
                }
            }
        }
        Ok(outcome)
    }

    /// Slots that the session does not hold (any more) are passed over: an abort may be repeated, and of a slot of
    /// another session, or of this agent's earlier life, nobody but its own holder knows that it is unwritten.
    fn abort(&mut self, session: SessionId, unwritten: &[SlotRef], unknown: &[SlotRef]) -> Result<Outcome, Refusal> {
        if unwritten.len() + unknown.len() > SLOTS_PER_ABORT_MAX {
            return Err(Refusal::TooMany(Limit::AbortedSlots));
        }
        // A slot in both lists rests: that is the safe one.
        for slot in unknown {
            if self.take_back(session, *slot) {
                sometimes(Marker::UnknownWriteRested);
                self.room.rest(*slot, RestKind::Write, self.at);
            }
        }
        for slot in unwritten {
            if self.take_back(session, *slot) {
                self.room.give_back(*slot);
            }
        }
        Ok(Outcome::Done)
    }

    fn take_back(&mut self, session: SessionId, slot: SlotRef) -> bool {
        let Some(open) = self.agents.sessions.get_mut(session) else { return false };
        self.room.is_granted(slot, open.holder) && open.granted.remove(slot.slab, slot.slot)
    }
}
