//! Agents: their sessions with what each was granted and answered, and the pages that they suspect.

mod checks;
mod commands;
mod granted;
mod pieces;
mod sessions;
mod suspecting;
mod suspicions;

use foreword_proto::limits::{NAMESPACE_TEXT_BYTES_MAX, SESSIONS_MAX};
use foreword_proto::{SessionId, SlabId, Slot};
use foreword_seams::{Marker, sometimes};

use super::command::{Event, Invalid, Limit, Outcome, Refusal};
use super::digest::{Fields, Sums};
use super::moment::Moment;
use super::room::{Holder, RestKind, Room};
use sessions::{Session, Sessions};
use suspicions::{Suspected, Suspicions};

pub(super) use checks::{Summary, check, check_step};
pub(super) use commands::SessionHandler;
pub(super) use sessions::Opening;
pub use sessions::SessionInfo;
pub(super) use suspecting::SuspicionHandler;
pub use suspicions::{SUSPICION_ALONE_MS, SUSPICION_KEPT_MS, SUSPICIONS_PER_SESSION_MAX};

/// Sessions and suspicions. A clone shares sessions until one changes them.
#[derive(Debug, Clone)]
pub(super) struct Agents {
    sessions: Sessions,
    suspicions: Suspicions,
}

impl Agents {
    /// No session yet.
    pub(super) fn new() -> Self {
        Self { sessions: Sessions::new(), suspicions: Suspicions::default() }
    }

    /// An open session.
    pub(super) fn session(&self, id: SessionId) -> Option<SessionInfo<'_>> {
        self.sessions.get(id).map(|session| session.info(id))
    }

    /// All open sessions, in the order of their ids.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionInfo<'_>> {
        self.sessions.iter().map(|(id, session)| session.info(id))
    }

    /// The open session that slots name by this number.
    pub(super) fn holding(&self, holder: Holder) -> Option<SessionId> {
        self.sessions.holders.get(&holder).copied()
    }

    /// Slots that a session holds, in order.
    pub(super) fn granted(&self, id: SessionId) -> impl Iterator<Item = (SlabId, Slot)> + '_ {
        self.sessions.get(id).into_iter().flat_map(|session| session.granted.iter())
    }

    /// Opens a session under a node's name and an id that no session has; that of the same agent's earlier process
    /// ends.
    pub(super) fn open(
        &mut self,
        opening: Opening<'_>,
        room: &mut Room,
        at: Moment<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let Opening { session, node, agent, incarnation, endpoint } = opening;
        if node.is_empty() || node.len() > NAMESPACE_TEXT_BYTES_MAX {
            return Err(Refusal::Invalid(Invalid::Node { bytes: node.len() as u32 }));
        }
        if endpoint.len() > NAMESPACE_TEXT_BYTES_MAX {
            return Err(Refusal::Invalid(Invalid::Endpoint { bytes: endpoint.len() as u32 }));
        }
        if self.sessions.get(session).is_some() {
            return Err(Refusal::Invalid(Invalid::Session { found: session }));
        }
        let older = self.sessions.of_node(node);
        if older.is_none() && self.sessions.len() >= SESSIONS_MAX {
            return Err(Refusal::TooMany(Limit::Sessions));
        }
        if let Some(older) = older {
            // The same agent's process that started earlier, too: a machine may be cloned with its state directory.
            let stands = |running: &&Session| running.agent != agent || running.incarnation > incarnation;
            if let Some(running) = self.sessions.get(older).filter(stands) {
                sometimes(Marker::NodeNameTaken);
                let (running, refused) = (running.endpoint.clone(), endpoint.into());
                return Err(Refusal::NameTaken { node: node.into(), running, refused });
            }
            sometimes(Marker::SessionSuperseded);
            self.end(older, room, at, events)?;
        }
        self.sessions.open(opening, at.tick_ms);
        Ok(Outcome::SessionOpened { session })
    }

    /// Ends a session: what it was granted and did not publish rests, what it suspected is forgotten.
    pub(super) fn end(
        &mut self,
        session: SessionId,
        room: &mut Room,
        at: Moment<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let ended = self.sessions.close(session).ok_or(Refusal::NoSession { session })?;
        if !ended.granted.is_empty() {
            sometimes(Marker::SessionEndedHoldingSlots);
        }
        for (slab, slot) in ended.granted.iter() {
            if let Some(slot) = room.present(slab, slot) {
                room.rest(slot, RestKind::Write, at);
            }
        }
        for page in self.suspicions.pages(|_, suspicion| suspicion.session == session) {
            self.suspicions.remove(&page);
        }
        events.push(Event::SessionEnded { session });
        Ok(Outcome::Done)
    }

    /// Pages that left the index are suspected no more.
    pub(super) fn pages_left(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Retired { namespace, key, .. } => self.drop_suspicion(&(*namespace, *key)),
                Event::Cleared { namespace, .. } | Event::NamespaceDropped { namespace } => {
                    for page in self.suspicions.pages(|(of, _), _| of == namespace) {
                        self.drop_suspicion(&page);
                    }
                }
                Event::Published { .. } | Event::AbsentDeleted { .. } | Event::SessionEnded { .. } => {}
            }
        }
    }

    /// Forgets a suspicion, if there is one; a limited reporter with none outstanding is heard again.
    fn drop_suspicion(&mut self, page: &Suspected) {
        let Some(suspicion) = self.suspicions.remove(page) else { return };
        let Some(reporter) = self.sessions.get_mut(suspicion.session) else { return };
        reporter.suspicions -= 1;
        reporter.suspect_limited &= reporter.suspicions > 0;
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { sessions, suspicions } = self;
        sessions.hash_into(fields, sums);
        suspicions.hash_into(fields);
    }
}
