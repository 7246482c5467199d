//! Sessions of agents: what each holds, and the last outcomes of its commands.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use foreword_proto::limits::SESSION_WINDOW;
use foreword_proto::{AgentId, Sequence, SessionId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::granted::Granted;
use crate::state::codec::{Decode, Encode, Sink, record};
use crate::state::digest::{Fields, Sums};
use crate::state::input::{DecodeError, Input};
use crate::state::room::Holder;

/// An open session, for agents and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionInfo<'a> {
    pub id: SessionId,
    pub node: &'a str,
    pub agent: AgentId,
    pub incarnation: u64,
    pub endpoint: &'a str,
    /// The tick at which it was opened.
    pub opened_ms: u64,
    pub granted_slots: u64,
    /// Suspicions of this session that wait for a second agent's word.
    pub suspicions: u32,
    /// It reported more than it may have outstanding: its reports count for nothing until the outstanding ones are
    /// settled.
    pub suspect_limited: bool,
}

/// Who asks for a session, and under which id.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) struct Opening<'a> {
    pub(in crate::state) session: SessionId,
    pub(in crate::state) node: &'a str,
    pub(in crate::state) agent: AgentId,
    pub(in crate::state) incarnation: u64,
    pub(in crate::state) endpoint: &'a str,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) node: String,
    pub(super) agent: AgentId,
    pub(super) incarnation: u64,
    pub(super) endpoint: String,
    pub(super) opened_ms: u64,
    /// What its slots name it by.
    pub(super) holder: Holder,
    /// Slots granted and neither published nor given back.
    pub(super) granted: Granted,
    pub(super) window: Window,
    pub(super) suspicions: u32,
    pub(super) suspect_limited: bool,
}

record!(Session { node, agent, incarnation, endpoint, opened_ms, holder, suspicions, suspect_limited, window } rebuilt { granted });

impl Session {
    fn new(opening: Opening<'_>, opened_ms: u64, holder: Holder) -> Self {
        Self {
            node: opening.node.into(),
            agent: opening.agent,
            incarnation: opening.incarnation,
            endpoint: opening.endpoint.into(),
            opened_ms,
            holder,
            granted: Granted::default(),
            window: Window::default(),
            suspicions: 0,
            suspect_limited: false,
        }
    }

    /// As it is in a snapshot, beside its outcomes and what it was granted.
    pub(super) fn without_outcomes(&self) -> Self {
        let Self { node, agent, incarnation, endpoint, opened_ms, holder, suspicions, suspect_limited, .. } = self;
        Self {
            node: node.clone(),
            agent: *agent,
            incarnation: *incarnation,
            endpoint: endpoint.clone(),
            opened_ms: *opened_ms,
            holder: *holder,
            granted: Granted::default(),
            window: Window { highest: self.window.highest, ..Window::default() },
            suspicions: *suspicions,
            suspect_limited: *suspect_limited,
        }
    }

    /// What status shows of it.
    pub(super) fn info(&self, id: SessionId) -> SessionInfo<'_> {
        SessionInfo {
            id,
            node: &self.node,
            agent: self.agent,
            incarnation: self.incarnation,
            endpoint: &self.endpoint,
            opened_ms: self.opened_ms,
            granted_slots: self.granted.len() as u64,
            suspicions: self.suspicions,
            suspect_limited: self.suspect_limited,
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
    outcomes: BTreeMap<Sequence, Bytes>,
    /// Sum over the hashes of all outcomes.
    digest: u64,
}

impl Encode for Window {
    fn encode(&self, out: &mut impl Sink) {
        let Self { highest, outcomes, digest: _ } = self;
        highest.encode(out);
        (outcomes.len() as u32).encode(out);
        outcomes.iter().for_each(|outcome| outcome.encode(out));
    }
}

impl Decode for Window {
    const BYTES_MIN: usize = 12;

    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let highest = Decode::decode(input)?;
        let outcomes = Vec::<(Sequence, Bytes)>::decode(input)?;
        let mut window = Self { highest, ..Self::default() };
        match outcomes.iter().all(|(sequence, outcome)| window.put_back(*sequence, outcome)) {
            true => Ok(window),
            false => Err(input.invalid(format!("outcomes of a window up to {highest}: twice, or outside it"))),
        }
    }
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

    /// Puts an outcome of a snapshot back; false if it cannot be there.
    pub(super) fn put_back(&mut self, sequence: Sequence, outcome: &[u8]) -> bool {
        let within = sequence <= self.highest && self.seen(sequence) == Seen::New;
        if within {
            // A copy: a slice would keep the whole piece alive.
            self.insert(sequence, Bytes::copy_from_slice(outcome));
        }
        within
    }

    /// Keeps the outcome of a new sequence, and drops those that leave the window.
    pub(super) fn keep(&mut self, sequence: Sequence, outcome: Bytes) {
        self.highest = self.highest.max(sequence);
        self.insert(sequence, outcome);
        let oldest = self.highest.saturating_sub(SESSION_WINDOW as u64 - 1);
        while let Some(leaves) = self.outcomes.first_entry().filter(|first| *first.key() < oldest) {
            let (sequence, outcome) = leaves.remove_entry();
            self.digest = self.digest.wrapping_sub(hash_of_outcome(sequence, &outcome));
        }
    }

    fn insert(&mut self, sequence: Sequence, outcome: Bytes) {
        self.digest = self.digest.wrapping_add(hash_of_outcome(sequence, &outcome));
        self.outcomes.insert(sequence, outcome);
    }

    /// The outcomes that are kept, by sequence.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (Sequence, Bytes)> + use<> {
        self.outcomes.clone().into_iter()
    }

    /// A fault for the check that recomputes digests.
    #[cfg(test)]
    pub(super) fn spoil_digest(&mut self) {
        self.digest ^= 1;
    }

    fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { highest, outcomes, digest } = self;
        let digest = match sums {
            Sums::Kept => *digest,
            Sums::FromScratch => {
                let hashes = outcomes.iter().map(|(sequence, outcome)| hash_of_outcome(*sequence, outcome));
                hashes.fold(0, u64::wrapping_add)
            }
        };
        fields.add((highest, outcomes.len() as u64, digest));
    }
}

fn hash_of_outcome(sequence: Sequence, outcome: &[u8]) -> u64 {
    xxh3_64_with_seed(outcome, sequence)
}

/// All open sessions, by id and by holder.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    pub(super) open: BTreeMap<SessionId, Arc<Session>>,
    pub(super) holders: BTreeMap<Holder, SessionId>,
    pub(super) next: Holder,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { open: BTreeMap::new(), holders: BTreeMap::new(), next: 1 }
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.open.get(&id).map(|session| &**session)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.open.get_mut(&id).map(Arc::make_mut)
    }

    /// Opens a session under an id that none has.
    pub(super) fn open(&mut self, opening: Opening<'_>, opened_ms: u64) {
        let holder = self.next;
        self.next += 1;
        self.insert(opening.session, Session::new(opening, opened_ms, holder));
    }

    /// Puts a session in; false if its id or its holder is another's.
    pub(super) fn insert(&mut self, id: SessionId, session: Session) -> bool {
        let fresh = self.holders.insert(session.holder, id).is_none();
        self.open.insert(id, Arc::new(session)).is_none() && fresh
    }

    /// Takes a session out.
    pub(super) fn close(&mut self, id: SessionId) -> Option<Arc<Session>> {
        let closed = self.open.remove(&id)?;
        self.holders.remove(&closed.holder);
        Some(closed)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.open.iter().map(|(id, session)| (*id, &**session))
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The open session of a node.
    pub(super) fn of_node(&self, node: &str) -> Option<SessionId> {
        self.open.iter().find(|(_, session)| session.node == node).map(|(id, _)| *id)
    }

    /// Costs a session's few fields for each, however much it holds.
    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { open, holders: _, next } = self;
        fields.add((next, open.len() as u64));
        for (id, session) in open {
            let Session { node, agent, incarnation, endpoint, opened_ms, holder, granted, .. } = &**session;
            let Session { window, suspicions, suspect_limited, .. } = &**session;
            fields.add((id, agent, incarnation)).add(node).add(endpoint).add((opened_ms, holder));
            fields.add((granted.len() as u64, suspicions, suspect_limited));
            window.hash_into(fields, sums);
        }
    }
}
