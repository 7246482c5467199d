//! The reference: one state that applies every committed entry in order, once, and remembers what each of them did.
//!
//! It reads the entries as some replica's disk has them and shares no memory with any replica. What it finds broken
//! itself is in [`Oracle::violations`]; the rest is for the invariants to compare with. Rare paths of the state count
//! here as on any replica: an entry that takes one here has taken it, or will, on each.

mod presence;

use std::collections::VecDeque;

use bytes::Bytes;
use foreword_meta::consensus::entry_codec::decode_entry;
use foreword_meta::consensus::types::{EntryBatch, LogId};
use foreword_meta::generated::state::TERM;
use foreword_meta::state::State;
use foreword_meta::state::codec::decode_batch;
use foreword_meta::state::command::{ClusterSettings, Command, Event, Outcome};
use foreword_meta::state::invariants::{Summary, Violation, check, check_command, check_step};
use foreword_proto::{EntryKey, Location, NamespaceId, Revision, SessionId, SlotRef};
use openraft::{CommittedLeaderId, EntryPayload};
use xxhash_rust::xxh3::xxh3_64;

pub use presence::{Change, NamespaceSum, Presence, hash_of_page};

use crate::invariants::grants_end;

/// Revisions whose digests, events and bytes are remembered.
pub const REVISIONS_KEPT: usize = 20_000;
/// Entries kept with their commands and outcomes, for invariants that follow each of them.
pub const ENTRIES_KEPT: usize = 4096;
/// Slots that a command's share of the step checks may look at, on average: a step check looks at all of them.
const STEP_SLOTS_PER_COMMAND: u64 = 32;
/// Slots and pages that an entry's share of the whole checks may look at, on average.
const CHECK_ITEMS_PER_ENTRY: u64 = 4;

/// Who led while what the run begins with was made.
const FIRST_LEADER: u64 = 1;

/// One command of an entry, with what it did.
#[derive(Debug, Clone)]
pub struct Step {
    pub command: Command,
    pub outcome: Outcome,
    pub events: Vec<Event>,
    /// The state's tick after the command.
    pub tick_ms: u64,
}

/// An entry that was applied.
#[derive(Debug, Clone)]
pub struct AppliedEntry {
    pub revision: Revision,
    pub steps: Vec<Step>,
}

/// The last items with consecutive numbers.
#[derive(Debug)]
struct Recent<T> {
    first: u64,
    items: VecDeque<T>,
    kept: usize,
}

impl<T> Recent<T> {
    fn new(first: u64, kept: usize) -> Self {
        Self { first, items: VecDeque::new(), kept }
    }

    fn push(&mut self, item: T) {
        if self.items.len() == self.kept {
            self.items.pop_front();
            self.first += 1;
        }
        self.items.push_back(item);
    }

    fn get(&self, number: u64) -> Option<&T> {
        self.items.get(number.checked_sub(self.first)? as usize)
    }
}

/// Hash of an entry's bytes; None: no disk has had it, it is in the state that the run began with.
type Item = Option<u64>;

/// What is remembered of each revision.
#[derive(Debug)]
struct Memory {
    item: Item,
    log_id: LogId,
    /// Of the state after it.
    digest: u64,
    events: Vec<Event>,
}

/// The reference state and its memory.
#[derive(Debug)]
pub struct Oracle {
    state: State,
    /// Hash of the entry that formed the group, whose index is no revision.
    formed: Option<Item>,
    memory: Recent<Memory>,
    entries: Recent<AppliedEntry>,
    presence: Presence,
    commands_since_step_check: u64,
    entries_since_check: u64,
    step_checks: u64,
    checks: u64,
    violations: Vec<Violation>,
    generated: Revision,
}

impl Oracle {
    /// Before the first entry of a cluster with these settings.
    pub fn new(settings: ClusterSettings) -> Self {
        Self {
            state: State::new(settings),
            formed: None,
            memory: Recent::new(1, REVISIONS_KEPT),
            entries: Recent::new(1, ENTRIES_KEPT),
            presence: Presence::default(),
            commands_since_step_check: 0,
            entries_since_check: 0,
            step_checks: 0,
            checks: 0,
            violations: Vec::new(),
            generated: 0,
        }
    }

    /// Before any entry, follows the commands that made the state which the run begins with: each is an entry, from
    /// revision 1.
    pub fn begin_with(&mut self, generated: &[Command]) {
        if generated.is_empty() {
            return;
        }
        self.formed = Some(None);
        for (revision, command) in (1..).zip(generated) {
            let log_id = LogId::new(CommittedLeaderId::new(TERM, FIRST_LEADER), revision);
            self.apply_entry(revision, (None, log_id), vec![command.clone()]);
        }
        self.generated = self.revision();
    }

    /// The last revision of what the run began with; 0: it began with nothing.
    pub fn generated(&self) -> Revision {
        self.generated
    }

    /// The index that is applied next. 0: the entry that forms the group.
    pub fn next_index(&self) -> u64 {
        if self.formed.is_none() { 0 } else { self.state.revision() + 1 }
    }

    /// Takes the committed entry `index` as some replica's disk has it. The next one is applied; one that was applied
    /// before must have the same bytes; one that leaves a gap is left alone.
    pub fn advance(&mut self, index: u64, item: &Bytes) {
        let hash = xxh3_64(item);
        if index > self.next_index() {
            return;
        }
        if index < self.next_index() {
            return self.read_again(index, hash, item);
        }
        let (log_id, payload) = match decode_entry(index, item) {
            Ok(entry) => (entry.log_id, entry.payload),
            Err(error) => return self.violated("promises-before-votes", format!("a committed entry: {error}")),
        };
        let commands = match payload {
            EntryPayload::Normal(EntryBatch(bytes)) => match decode_batch(bytes) {
                Ok(commands) => commands,
                Err(error) => return self.violated("promises-before-votes", format!("entry {index}: {error}")),
            },
            EntryPayload::Blank | EntryPayload::Membership(_) => Vec::new(),
        };
        if index == 0 {
            self.formed = Some(Some(hash));
            return;
        }
        self.apply_entry(index, (Some(hash), log_id), commands);
    }

    fn read_again(&mut self, index: u64, hash: u64, item: &Bytes) {
        let before = if index == 0 { self.formed } else { self.memory.get(index).map(|memory| memory.item) };
        let before = before.flatten();
        if before.is_some_and(|before| before != hash) {
            let now = decode_entry(index, item).map(|entry| entry.log_id.to_string());
            self.violated("nothing-goes-back", format!("committed entry {index} changed: now {now:?}"));
        }
    }

    fn apply_entry(&mut self, revision: Revision, (item, log_id): (Item, LogId), commands: Vec<Command>) {
        let mut steps = Vec::with_capacity(commands.len());
        self.state.begin_entry(log_id.leader_id.term, log_id.index);
        for command in commands {
            let step = self.apply_command(revision, command);
            self.presence.follow(revision, &step.outcome, &step.events);
            steps.push(step);
        }
        self.state.finish_entry(revision);
        self.presence.finish_entry(revision);
        let events = steps.iter().flat_map(|step| step.events.iter().cloned()).collect();
        self.memory.push(Memory { item, log_id, digest: self.state.digest(), events });
        self.entries.push(AppliedEntry { revision, steps });
        self.entries_since_check += 1;
        if self.entries_since_check * CHECK_ITEMS_PER_ENTRY >= self.slots() + self.state.pages() {
            self.check_now();
        }
    }

    fn apply_command(&mut self, revision: Revision, command: Command) -> Step {
        let held = self.held_by_ending(&command);
        self.commands_since_step_check += 1;
        let look = self.commands_since_step_check * STEP_SLOTS_PER_COMMAND >= self.slots();
        let before = look.then(|| Summary::of(&self.state));
        let mut events = Vec::new();
        let outcome = self.state.apply(revision, &command, &mut events);
        if let Some(before) = before {
            self.commands_since_step_check = 0;
            self.step_checks += 1;
            self.note(check_step(&before, &self.state));
            self.note(check_command(&before, &command, &self.state));
        }
        for (session, slots) in held {
            self.note(grants_end::rests_after(&self.state, session, &slots));
        }
        Step { command, outcome, events, tick_ms: self.state.tick_ms() }
    }

    /// Sessions that this command ends, with the slots they hold.
    fn held_by_ending(&self, command: &Command) -> Vec<(SessionId, Vec<SlotRef>)> {
        let ending: Option<SessionId> = match command {
            Command::EndSession { session } => Some(*session),
            Command::OpenSession { node, agent, .. } => {
                let displaced = self.state.sessions().find(|open| open.node == node && open.agent == *agent);
                displaced.map(|open| open.id)
            }
            _ => None,
        };
        ending.map(|session| (session, self.state.granted_slots(session).collect())).into_iter().collect()
    }

    fn slots(&self) -> u64 {
        self.state.slabs().map(|slab| u64::from(slab.slots)).sum()
    }

    /// Checks the whole state; the end of a run calls it too.
    pub fn check_now(&mut self) {
        self.entries_since_check = 0;
        self.checks += 1;
        self.note(check(&self.state));
    }

    fn note(&mut self, result: Result<(), Violation>) {
        if let Err(Violation { name, detail }) = result {
            self.violated(name, format!("revision {}: {detail}", self.state.revision()));
        }
    }

    fn violated(&mut self, name: &'static str, detail: String) {
        self.violations.push(Violation { name, detail });
    }

    /// What was found broken in the entries and the state, oldest first.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The reference state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The last entry that was applied.
    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    /// The entry that was committed at a revision.
    pub fn log_id_at(&self, revision: Revision) -> Option<LogId> {
        self.memory.get(revision).map(|memory| memory.log_id)
    }

    /// The state's digest after a revision, while it is remembered.
    pub fn digest_at(&self, revision: Revision) -> Option<u64> {
        self.memory.get(revision).map(|memory| memory.digest)
    }

    /// The events of a revision, while they are remembered.
    pub fn events_at(&self, revision: Revision) -> Option<&[Event]> {
        self.memory.get(revision).map(|memory| &memory.events[..])
    }

    /// Entries after a revision, oldest first. Panics if some of them are not kept any more: a check that skips entries
    /// finds nothing, and says nothing.
    pub fn entries_after(&self, revision: Revision) -> impl Iterator<Item = &AppliedEntry> {
        let skip = (revision + 1).checked_sub(self.entries.first);
        let skip = skip.expect("the checks look more often than entries are forgotten");
        self.entries.items.iter().skip(skip as usize)
    }

    /// What became of each page, at every revision.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Where a page was after a revision.
    pub fn present_at(&self, namespace: NamespaceId, key: &EntryKey, revision: Revision) -> Option<&Location> {
        self.presence.at(namespace, key, revision)
    }

    /// How often (a step, the whole state) was checked: a run shows that its checks ran.
    pub fn checks_made(&self) -> (u64, u64) {
        (self.step_checks, self.checks)
    }
}

#[cfg(test)]
pub(crate) mod tests;
