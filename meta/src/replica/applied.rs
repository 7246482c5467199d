//! What this replica has applied: the state, with the log position and membership that belong to it.

use std::collections::VecDeque;
use std::sync::Arc;

use foreword_proto::Revision;
use foreword_proto::limits::{DIGEST_EVERY_ENTRIES, DIGESTS_KEPT};
use openraft::LogId;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::observer::{EntryEvents, Observer};
use crate::consensus::types::StoredMembership;
use crate::state::State;
use crate::state::command::{Command, Event, Outcome};

/// The log position and membership of a state.
#[derive(Debug, Clone, Default)]
pub struct Position {
    pub last_applied: Option<LogId<u64>>,
    pub membership: StoredMembership,
}

struct Inner {
    state: State,
    position: Position,
}

/// The applied state: read by lookups, written by the apply task only. The lock is never held across an await.
pub struct Applied {
    inner: RwLock<Inner>,
    observers: Vec<Arc<dyn Observer>>,
    revision: watch::Sender<Revision>,
    /// Digests at the revisions that all replicas note, oldest first.
    digests: Mutex<VecDeque<(Revision, u64)>>,
}

impl Applied {
    /// Starts from a state at its position; `observers` follow it, each told in this order.
    pub fn new(state: State, position: Position, observers: Vec<Arc<dyn Observer>>) -> Self {
        let revision = state.revision();
        observers.iter().for_each(|observer| observer.replaced(&state));
        Self {
            inner: RwLock::new(Inner { state, position }),
            observers,
            revision: watch::Sender::new(revision),
            digests: Mutex::default(),
        }
    }

    /// Reads the state; keep it short: applying waits.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner.read().state)
    }

    /// Reads the state with its position.
    pub fn read_with_position<T>(&self, look: impl FnOnce(&State, &Position) -> T) -> T {
        let inner = self.inner.read();
        look(&inner.state, &inner.position)
    }

    /// Watches the applied revision.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// The applied revision.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Applies one entry's commands, then tells the observers.
    pub fn apply_commands(&self, log_id: LogId<u64>, commands: &[Command]) -> Vec<Outcome> {
        let mut events = Vec::new();
        let outcomes = {
            let mut inner = self.inner.write();
            let state = &mut inner.state;
            state.begin_entry(log_id.leader_id.term, log_id.index);
            let outcomes = commands.iter().map(|command| state.apply(log_id.index, command, &mut events)).collect();
            state.finish_entry(log_id.index);
            inner.position.last_applied = Some(log_id);
            self.tell(&inner.state, log_id.index, events);
            self.note_digest(&inner.state);
            outcomes
        };
        self.revision.send_replace(log_id.index);
        outcomes
    }

    /// Applies an entry without commands.
    pub fn apply_empty(&self, log_id: LogId<u64>, membership: Option<StoredMembership>) {
        {
            let mut inner = self.inner.write();
            inner.state.begin_entry(log_id.leader_id.term, log_id.index);
            // The entry that forms the group has index 0, which as a revision means "nothing applied yet".
            if log_id.index > 0 {
                inner.state.finish_entry(log_id.index);
                self.note_digest(&inner.state);
            }
            inner.position.last_applied = Some(log_id);
            if let Some(membership) = membership {
                inner.position.membership = membership;
            }
            self.tell(&inner.state, log_id.index, Vec::new());
        }
        self.revision.send_replace(log_id.index);
    }

    /// Replaces everything with a snapshot's state; watchers start over.
    pub fn replace(&self, state: State, position: Position) {
        let revision = state.revision();
        {
            let mut inner = self.inner.write();
            *inner = Inner { state, position };
            self.observers.iter().for_each(|observer| observer.replaced(&inner.state));
        }
        self.revision.send_replace(revision);
    }

    fn tell(&self, state: &State, revision: Revision, events: Vec<Event>) {
        let entry = Arc::new(EntryEvents { revision, events });
        self.observers.iter().for_each(|observer| observer.applied(state, &entry));
    }

    /// The digest noted at a revision.
    pub fn digest_at(&self, revision: Revision) -> Option<u64> {
        self.digests.lock().iter().find(|(noted, _)| *noted == revision).map(|(_, digest)| *digest)
    }

    /// The newest digest noted, with its revision.
    pub fn newest_digest(&self) -> Option<(Revision, u64)> {
        self.digests.lock().back().copied()
    }

    fn note_digest(&self, state: &State) {
        if !state.revision().is_multiple_of(DIGEST_EVERY_ENTRIES) {
            return;
        }
        let mut digests = self.digests.lock();
        if digests.len() == DIGESTS_KEPT {
            digests.pop_front();
        }
        digests.push_back((state.revision(), state.digest()));
    }
}
