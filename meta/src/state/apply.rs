//! Applying one command: which owner it is for, and what it may touch of the others.

use foreword_proto::{Namespace, Revision};

use super::State;
use super::agents::{Opening, SessionHandler, SuspicionHandler};
use super::command::{Command, Event, Outcome, Refusal};
use super::moment::Moment;
use super::pages::RemovalHandler;

impl State {
    /// Begins the entry `revision` of the leader of `term`, before the first of its commands.
    pub fn begin_entry(&mut self, term: u64, revision: Revision) {
        self.term.entry(term, revision);
    }

    /// Applies one command of the entry `revision`; what it changed is appended to `events`, in order.
    pub fn apply(&mut self, revision: Revision, command: &Command, events: &mut Vec<Event>) -> Outcome {
        let from = events.len();
        let outcome = self.dispatch(revision, command, events).unwrap_or_else(Outcome::Refused);
        self.agents.pages_left(&events[from..]);
        outcome
    }

    /// Ends the entry `revision`, after the last of its commands (it may have none).
    pub fn finish_entry(&mut self, revision: Revision) {
        debug_assert!(revision > self.revision, "entry {revision} after {}", self.revision);
        self.revision = revision;
    }

    fn dispatch(&mut self, revision: Revision, command: &Command, events: &mut Vec<Event>) -> Result<Outcome, Refusal> {
        if let Command::Tick { now_ms } = command {
            self.tick_ms = self.tick_ms.max(*now_ms);
        }
        let Self { settings, revision: _, tick_ms, feature_level, pages, room, agents, hf3fs, members, term } = self;
        let at = Moment { settings, revision, tick_ms: *tick_ms, term: *term };
        match command {
            Command::Tick { .. } => {
                room.release_due(at.tick_ms);
                hf3fs.tick(at.tick_ms);
                SuspicionHandler { agents, removal: RemovalHandler { pages, room, at, events } }.settle_old();
                Ok(Outcome::Done)
            }
            Command::RegisterNamespace { namespace } => self.register(namespace),
            Command::OpenSession { session, node, agent, incarnation, endpoint } => {
                let opening = Opening { session: *session, node, agent: *agent, incarnation: *incarnation, endpoint };
                agents.open(opening, room, at, events)
            }
            Command::EndSession { session } => agents.end(*session, room, at, events),
            Command::Session { session, sequence, operation } => {
                SessionHandler { agents, pages, room, at, events }.apply(*session, *sequence, operation)
            }
            Command::Suspect { session, namespace, suspects } => {
                let removal = RemovalHandler { pages, room, at, events };
                SuspicionHandler { agents, removal }.suspect(*session, *namespace, suspects)
            }
            Command::Retire { reason, entries } => {
                Ok(RemovalHandler { pages, room, at, events }.retire(*reason, entries))
            }
            Command::Clear { namespace } => RemovalHandler { pages, room, at, events }.clear(*namespace),
            Command::DropNamespace { namespace } => {
                RemovalHandler { pages, room, at, events }.drop_namespace(*namespace)
            }
            Command::Delete { namespace, keys } => RemovalHandler { pages, room, at, events }.delete(*namespace, keys),
            Command::Reclaim { entries_max } => Ok(RemovalHandler { pages, room, at, events }.reclaim(*entries_max)),
            Command::DropSlabs { slabs } => room.drop_slabs(slabs).map(|()| Outcome::Done),
            Command::RaiseFeatureLevel { level } => {
                *feature_level = (*feature_level).max(*level);
                Ok(Outcome::Done)
            }
            Command::RecordMember { replica_id, directory } => members.record(*replica_id, *directory),
            Command::Hf3fs(command) => hf3fs.apply(command, at).map(Outcome::Hf3fs),
        }
    }

    fn register(&mut self, namespace: &Namespace) -> Result<Outcome, Refusal> {
        let info = self.pages.register(namespace, self.settings.chunk_bytes)?;
        self.room.open_class(info.slot_bytes);
        Ok(Outcome::NamespaceRegistered { namespace: info.id, epoch: info.epoch, slot_bytes: info.slot_bytes })
    }
}
