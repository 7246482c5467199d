//! Sessions of agents: what each holds, and the last outcomes of its commands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use foreword_proto::limits::SESSION_WINDOW;
use foreword_proto::{Sequence, SessionId, SlabId, Slot};

use super::digest::Fields;

/// An open session, for agents and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionInfo<'a> {
    pub id: SessionId,
    pub node: &'a str,
    pub incarnation: u64,
    pub endpoint: &'a str,
    /// The tick at which it was opened.
    pub opened_ms: u64,
    pub granted_slots: u64,
    /// Suspicions of this session that wait for a second agent's word.
    pub suspicions: u32,
    /// It reported more than it may have outstanding: its reports count for nothing until the outstanding ones are settled.
    pub suspect_limited: bool,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) node: String,
    pub(super) incarnation: u64,
    pub(super) endpoint: String,
    pub(super) opened_ms: u64,
    /// Slots granted and neither published nor given back.
    pub(super) granted: BTreeSet<(SlabId, Slot)>,
    pub(super) window: Window,
    pub(super) suspicions: u32,
    pub(super) suspect_limited: bool,
}

impl Session {
    pub(super) fn new(node: String, incarnation: u64, endpoint: String, opened_ms: u64) -> Self {
        let (granted, window) = (BTreeSet::new(), Window::default());
        Self { node, incarnation, endpoint, opened_ms, granted, window, suspicions: 0, suspect_limited: false }
    }

    /// What status shows of it.
    pub(super) fn info(&self, id: SessionId) -> SessionInfo<'_> {
        SessionInfo {
            id,
            node: &self.node,
            incarnation: self.incarnation,
            endpoint: &self.endpoint,
            opened_ms: self.opened_ms,
            granted_slots: self.granted.len() as u64,
            suspicions: self.suspicions,
            suspect_limited: self.suspect_limited,
        }
    }

    fn hash_into(&self, fields: &mut Fields) {
        fields.bytes(self.node.as_bytes()).u64(self.incarnation).bytes(self.endpoint.as_bytes());
        fields.u64(self.opened_ms).u64(self.suspicions.into()).u64(self.suspect_limited.into());
        fields.u64(self.window.highest).u64(self.granted.len() as u64);
        for (sequence, outcome) in &self.window.outcomes {
            fields.u64(*sequence).bytes(outcome);
        }
    }
}

/// What the window knows of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    New,
    /// Applied before, with this encoded outcome.
    Before(Bytes),
    TooOld,
}

/// The outcomes of a session's last commands: the `SESSION_WINDOW` sequences up to the highest seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Window {
    pub(super) highest: Sequence,
    pub(super) outcomes: BTreeMap<Sequence, Bytes>,
}

impl Window {
    /// Looks a sequence up. Commands of one session may arrive in any order within the window.
    pub(super) fn seen(&self, sequence: Sequence) -> Seen {
        if let Some(outcome) = self.outcomes.get(&sequence) {
            return Seen::Before(outcome.clone());
        }
        if sequence == 0 || sequence.saturating_add(SESSION_WINDOW as u64) <= self.highest {
            return Seen::TooOld;
        }
        Seen::New
    }

    /// Keeps the outcome of a new sequence, and drops those that leave the window.
    pub(super) fn keep(&mut self, sequence: Sequence, outcome: Bytes) {
        self.highest = self.highest.max(sequence);
        self.outcomes.insert(sequence, outcome);
        if let Some(oldest) = self.highest.checked_sub(SESSION_WINDOW as u64 - 1) {
            self.outcomes = self.outcomes.split_off(&oldest);
        }
    }
}

/// All open sessions. Ids increase and are never given out twice.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    pub(super) open: BTreeMap<SessionId, Arc<Session>>,
    pub(super) next: SessionId,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { open: BTreeMap::new(), next: 1 }
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.open.get(&id).map(|session| &**session)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.open.get_mut(&id).map(Arc::make_mut)
    }

    /// Opens a session; its id.
    pub(super) fn open(&mut self, session: Session) -> SessionId {
        let id = self.next;
        self.next += 1;
        self.open.insert(id, Arc::new(session));
        id
    }

    /// The open session of a node.
    pub(super) fn of_node(&self, node: &str) -> Option<SessionId> {
        self.open.iter().find(|(_, session)| session.node == node).map(|(id, _)| *id)
    }

    pub(super) fn hash_into(&self, fields: &mut Fields) {
        fields.u64(self.next).u64(self.open.len() as u64);
        for (id, session) in &self.open {
            fields.u64(*id);
            session.hash_into(fields);
        }
    }
}
