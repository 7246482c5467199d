//! What this replica has applied: the state, with the log position and membership that belong to it.

use std::collections::VecDeque;
use std::panic::Location;
use std::sync::Arc;

use foreword_proto::Revision;
use foreword_proto::limits::{DIGEST_EVERY_ENTRIES, DIGESTS_KEPT};
use foreword_seams::Telemetry;
use openraft::LogId;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use tokio::sync::watch;

use super::lock_meters::{Hold, LockMeters};
use super::observer::{EntryEvents, Observer};
use crate::consensus::types::StoredMembership;
use crate::state::State;
use crate::state::command::{Command, Event, Outcome};

/// Changes of an entry, and commands of it, after which whoever waits for the lock gets it: some tenths of a
/// millisecond.
const EVENTS_PER_HOLD: usize = 256;
const COMMANDS_PER_HOLD: usize = 16;

/// The log position and membership of a state.
#[derive(Debug, Clone, Default)]
pub struct Position {
    pub last_applied: Option<LogId<u64>>,
    pub membership: StoredMembership,
}

struct Inner {
    state: State,
    position: Position,
    /// The entry that was begun last.
    begun: Revision,
}

/// The applied state: read by lookups, written by the apply task only. No lock is held across an await.
pub struct Applied {
    /// Held from an entry's first command to its last observer; taken before `inner`.
    entry: Mutex<()>,
    /// Let go of within an entry, so that lookups wait for some hundred pages at most, and not for all of an entry.
    inner: RwLock<Inner>,
    observers: Vec<Arc<dyn Observer>>,
    revision: watch::Sender<Revision>,
    /// Digests at the revisions that all replicas note, oldest first.
    digests: Mutex<VecDeque<(Revision, u64)>>,
    held: LockMeters,
}

impl Applied {
    /// Starts from a state at its position; `observers` follow it, each told in this order.
    pub fn new(state: State, position: Position, observers: Vec<Arc<dyn Observer>>, telemetry: &Telemetry) -> Self {
        let revision = state.revision();
        observers.iter().for_each(|observer| observer.replaced(&state));
        Self {
            entry: Mutex::default(),
            inner: RwLock::new(Inner { state, position, begun: revision }),
            observers,
            revision: watch::Sender::new(revision),
            digests: Mutex::default(),
            held: LockMeters::new(telemetry),
        }
    }

    /// Reads the state at the end of an entry; keep it short: applying waits.
    #[track_caller]
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.read_with_position(|state, _| look(state))
    }

    /// Reads the state at the end of an entry, with its position.
    #[track_caller]
    pub fn read_with_position<T>(&self, look: impl FnOnce(&State, &Position) -> T) -> T {
        let _entry = self.entry.lock();
        let inner = self.inner.read();
        let hold = self.held.begin();
        let result = look(&inner.state, &inner.position);
        self.held.end(hold, &Location::caller());
        result
    }

    /// Reads the state as it is, perhaps in the middle of an entry: of the one that follows its revision, some commands
    /// may be applied, each whole. For what needs one command's effects at most, and for no more than some hundred
    /// keys.
    pub fn peek<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner.read().state)
    }

    /// Like [`Self::peek`], for a slice of a longer work. Beside the state: the highest revision of which anything may
    /// show.
    #[track_caller]
    pub fn peek_at<T>(&self, look: impl FnOnce(&State, Revision) -> T) -> T {
        let inner = self.inner.read();
        let hold = self.held.begin();
        let result = look(&inner.state, inner.begun);
        self.held.end(hold, &Location::caller());
        result
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
        let whole = self.entry.lock();
        let (mut events, mut outcomes) = (Vec::new(), Vec::with_capacity(commands.len()));
        let entry = self.held.begin();
        // Beside lookups: only who holds `entry` changes the state.
        let copies = self.inner.read().state.copies_for(commands);
        let mut inner = self.inner.write();
        let mut hold = self.held.begin();
        inner.begun = log_id.index;
        inner.state.put_copies(copies);
        inner.state.begin_entry(log_id.leader_id.term, log_id.index);
        let mut events_before = 0;
        for (number, command) in commands.iter().enumerate() {
            outcomes.push(inner.state.apply(log_id.index, command, &mut events));
            let changes = events.len() - events_before;
            if changes >= EVENTS_PER_HOLD || (number + 1).is_multiple_of(COMMANDS_PER_HOLD) {
                self.held.end(hold, &format_args!("applying {changes} changes of entry {}", log_id.index));
                events_before = events.len();
                RwLockWriteGuard::bump(&mut inner);
                hold = self.held.begin();
            }
        }
        inner.state.finish_entry(log_id.index);
        let told = self.end_entry(inner, hold, log_id, events);
        self.held.applied(&entry);
        drop(whole);
        self.released(&told);
        outcomes
    }

    /// Applies an entry without commands.
    pub fn apply_empty(&self, log_id: LogId<u64>, membership: Option<StoredMembership>) {
        let whole = self.entry.lock();
        let mut inner = self.inner.write();
        let hold = self.held.begin();
        inner.begun = log_id.index;
        inner.state.begin_entry(log_id.leader_id.term, log_id.index);
        // The entry that forms the group has index 0, which as a revision means "nothing applied yet".
        if log_id.index > 0 {
            inner.state.finish_entry(log_id.index);
        }
        if let Some(membership) = membership {
            inner.position.membership = membership;
        }
        let entry = self.end_entry(inner, hold, log_id, Vec::new());
        drop(whole);
        self.released(&entry);
    }

    /// Ends an entry: from here on lookups go on beside.
    fn end_entry(
        &self,
        mut inner: RwLockWriteGuard<'_, Inner>,
        hold: Hold,
        log_id: LogId<u64>,
        events: Vec<Event>,
    ) -> Arc<EntryEvents> {
        inner.position.last_applied = Some(log_id);
        let inner = RwLockWriteGuard::downgrade(inner);
        let entry = self.tell(&inner.state, log_id.index, events);
        if log_id.index > 0 {
            self.note_digest(&inner.state);
        }
        self.held.end(hold, &format_args!("applying the last changes of entry {}", log_id.index));
        drop(inner);
        self.revision.send_replace(log_id.index);
        entry
    }

    /// Replaces everything with a snapshot's state; watchers start over. Returns what was there: dropping it takes a
    /// time that grows with it.
    #[must_use = "the state is to be dropped where nobody waits for it"]
    pub fn replace(&self, state: State, position: Position) -> State {
        let revision = state.revision();
        let _entry = self.entry.lock();
        let old = {
            let mut inner = self.inner.write();
            let hold = self.held.begin();
            let old = std::mem::replace(&mut *inner, Inner { state, position, begun: revision });
            self.observers.iter().for_each(|observer| observer.replaced(&inner.state));
            self.held.end(hold, &"installing a snapshot");
            old
        };
        self.revision.send_replace(revision);
        old.state
    }

    fn tell(&self, state: &State, revision: Revision, events: Vec<Event>) -> Arc<EntryEvents> {
        let entry = Arc::new(EntryEvents { revision, events });
        self.observers.iter().for_each(|observer| observer.applied(state, &entry));
        entry
    }

    fn released(&self, entry: &Arc<EntryEvents>) {
        self.observers.iter().for_each(|observer| observer.released(entry));
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
