//! A state of a plan's size: real commands, one an entry, applied in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use foreword_proto::limits::{PAGES_PER_PUBLISH_MAX, SLOTS_PER_GRANT_MAX};
use foreword_proto::records::{PageRecord, Record};
use foreword_proto::workload::SplitMix;
use foreword_proto::{
    AgentId, BadInput, DirectoryId, EntryKey, Epoch, NamespaceId, PublishOutcome, RetireReason, Revision, Sequence,
    SessionId, SlotRef,
};

use super::{Keys, Plan, namespace};
use crate::state::State;
use crate::state::command::{ClusterSettings, Command, Event, Outcome, Retirement, SessionOperation};
use crate::state::hf3fs::{FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, Reserved};

/// The term of all generated entries, and who led in it.
pub const TERM: u64 = 1;
/// Keys of one reserve of page files.
const RESERVED_AT_ONCE: usize = 4096;
/// The tick at which everything was published.
const TICK_MS: u64 = 1_000_000;

/// The state of a group whose members have these data directories.
///
/// Errors: `l3_bytes` without room for the plan's pages and rests; `rests` without a namespace.
pub fn generate(
    plan: &Plan,
    settings: &ClusterSettings,
    directories: &BTreeMap<u64, DirectoryId>,
) -> Result<State, BadInput> {
    generate_told(plan, settings, directories, &mut |_| {})
}

/// The same. `told` hears every command, in order: each is an entry of [`TERM`], the first one's revision is 1.
pub fn generate_told(
    plan: &Plan,
    settings: &ClusterSettings,
    directories: &BTreeMap<u64, DirectoryId>,
    told: &mut dyn FnMut(&Command),
) -> Result<State, BadInput> {
    let state = State::new(settings.clone());
    let mut made = Making { state, revision: 1, writers: Vec::new(), events: Vec::new(), told };
    made.members(directories)?;
    made.sessions(plan)?;
    for (at, pages) in plan.namespaces.iter().enumerate() {
        let into = made.register(plan, at)?;
        made.publish(&into, 0..*pages)?;
    }
    made.rests(plan)?;
    for (at, pages) in plan.page_files.iter().enumerate() {
        made.page_file(plan, at, *pages)?;
    }
    if plan.sessions == 0 {
        made.end_sessions();
    }
    Ok(made.state)
}

/// A command that was refused is a plan, or settings, that cannot be.
fn unexpected(field: &str, outcome: &Outcome) -> BadInput {
    BadInput::new(field, format!("what the state can hold, it answered {outcome:?}"))
}

/// A session that publishes, and the slots it was granted and has not used.
struct Writer {
    session: SessionId,
    sequence: Sequence,
    slots: VecDeque<SlotRef>,
}

/// A namespace that pages go to.
struct Target {
    id: NamespaceId,
    epoch: Epoch,
    slot_bytes: u64,
    keys: Keys,
    /// Pages below this number have bytes.
    written: u64,
}

impl Target {
    fn record(&self, number: u64, slot: SlotRef) -> PageRecord {
        if number < self.written { self.keys.written_record(number, slot) } else { self.keys.record(number, slot) }
    }
}

struct Making<'a> {
    state: State,
    revision: Revision,
    writers: Vec<Writer>,
    events: Vec<Event>,
    told: &'a mut dyn FnMut(&Command),
}

impl Making<'_> {
    /// Applies one entry of one command.
    fn apply(&mut self, command: &Command) -> Outcome {
        self.events.clear();
        (self.told)(command);
        self.state.begin_entry(TERM, self.revision);
        let outcome = self.state.apply(self.revision, command, &mut self.events);
        self.state.finish_entry(self.revision);
        self.revision += 1;
        outcome
    }

    fn members(&mut self, directories: &BTreeMap<u64, DirectoryId>) -> Result<(), BadInput> {
        self.apply(&Command::Tick { now_ms: TICK_MS });
        for (replica_id, directory) in directories {
            let command = Command::RecordMember { replica_id: *replica_id, directory: *directory };
            match self.apply(&command) {
                Outcome::Done => {}
                other => return Err(unexpected("members", &other)),
            }
        }
        Ok(())
    }

    fn sessions(&mut self, plan: &Plan) -> Result<(), BadInput> {
        let mut ids = SplitMix::new(plan.seed);
        let mut id = || (u128::from(ids.next()) << 64 | u128::from(ids.next())).to_le_bytes();
        for number in 0..plan.sessions.max(1) {
            let (session, agent) = (SessionId(id()), AgentId(id()));
            let node = format!("generated-{number}");
            let endpoint = format!("{node}:1");
            match self.apply(&Command::OpenSession { session, node, agent, incarnation: 1, endpoint }) {
                Outcome::SessionOpened { session } => {
                    self.writers.push(Writer { session, sequence: 0, slots: VecDeque::new() });
                }
                other => return Err(unexpected("sessions", &other)),
            }
        }
        Ok(())
    }

    fn end_sessions(&mut self) {
        for Writer { session, .. } in std::mem::take(&mut self.writers) {
            self.apply(&Command::EndSession { session });
        }
    }

    fn register(&mut self, plan: &Plan, at: usize) -> Result<Target, BadInput> {
        match self.apply(&Command::RegisterNamespace { namespace: Box::new(namespace(at)) }) {
            Outcome::NamespaceRegistered { namespace, epoch, slot_bytes } => {
                Ok(Target { id: namespace, epoch, slot_bytes, keys: plan.keys(at), written: plan.written })
            }
            other => Err(unexpected("namespaces", &other)),
        }
    }

    /// Publishes pages by their numbers, each batch by the next session; where the last batch's are.
    fn publish(
        &mut self,
        into: &Target,
        mut numbers: std::ops::Range<u64>,
    ) -> Result<Vec<(EntryKey, SlotRef)>, BadInput> {
        let mut last = Vec::new();
        let mut writer = 0;
        while !numbers.is_empty() {
            let batch = numbers.start..numbers.end.min(numbers.start + PAGES_PER_PUBLISH_MAX as u64);
            numbers.start = batch.end;
            let slots = self.slots(writer, into.slot_bytes, (batch.end - batch.start) as usize)?;
            let records: Vec<PageRecord> = batch.zip(slots).map(|(number, slot)| into.record(number, slot)).collect();
            let operation =
                SessionOperation::Publish { namespace: into.id, epoch: into.epoch, pages: encoded(&records) };
            match self.session_command(writer, operation) {
                Outcome::Published { outcomes, .. } if outcomes.iter().all(|one| *one == PublishOutcome::Published) => {
                }
                other => return Err(unexpected("namespaces", &other)),
            }
            last = records.iter().map(|page| (page.key, page.location.slot)).collect();
            writer = (writer + 1) % self.writers.len();
        }
        Ok(last)
    }

    fn slots(&mut self, writer: usize, slot_bytes: u64, wanted: usize) -> Result<Vec<SlotRef>, BadInput> {
        while self.writers[writer].slots.len() < wanted {
            let operation = SessionOperation::Grant { slot_bytes, slots: SLOTS_PER_GRANT_MAX };
            match self.session_command(writer, operation) {
                Outcome::Granted { slots } if !slots.is_empty() => self.writers[writer].slots.extend(slots),
                Outcome::Granted { .. } => {
                    let (room, pages) = (self.state.settings().l3_bytes, self.state.pages());
                    return Err(BadInput::new("l3_bytes", format!("room for the plan, {room} hold {pages} pages")));
                }
                other => return Err(unexpected("l3_bytes", &other)),
            }
        }
        Ok(self.writers[writer].slots.drain(..wanted).collect())
    }

    fn session_command(&mut self, writer: usize, operation: SessionOperation) -> Outcome {
        let Writer { session, sequence, .. } = &mut self.writers[writer];
        *sequence += 1;
        let command = Command::Session { session: *session, sequence: *sequence, operation };
        self.apply(&command)
    }

    /// Pages beyond the first namespace's own, published and evicted.
    fn rests(&mut self, plan: &Plan) -> Result<(), BadInput> {
        let Some(first) = plan.namespaces.first().copied() else {
            return if plan.rests == 0 { Ok(()) } else { Err(BadInput::new("rests", "0 without a namespace")) };
        };
        let into = self.register(plan, 0)?;
        let mut numbers = first..first + plan.rests;
        while !numbers.is_empty() {
            let batch = numbers.start..numbers.end.min(numbers.start + PAGES_PER_PUBLISH_MAX as u64);
            numbers.start = batch.end;
            let count = (batch.end - batch.start) as u32;
            let published = self.publish(&into, batch)?;
            let entries =
                published.into_iter().map(|(key, slot)| Retirement { namespace: into.id, key, slot }).collect();
            match self.apply(&Command::Retire { reason: RetireReason::Evicted, entries }) {
                Outcome::Retired { entries } if entries == count => {}
                other => return Err(unexpected("rests", &other)),
            }
        }
        Ok(())
    }

    fn page_file(&mut self, plan: &Plan, at: usize, pages: u32) -> Result<(), BadInput> {
        let name = FileName { deployment: format!("generated-{at}"), rank: at as i64, pool: "kv".into() };
        let file = match self.apply(&Command::Hf3fs(Hf3fsCommand::Initialize { name, pages })) {
            Outcome::Hf3fs(Hf3fsOutcome::Initialized { file }) => file,
            other => return Err(unexpected("page_files", &other)),
        };
        // Behind all namespaces' keys.
        let keys = Keys::new(plan.seed, usize::MAX - at);
        let mut next = 0..u64::from(pages);
        while !next.is_empty() {
            let keys: Vec<EntryKey> =
                next.by_ref().take(RESERVED_AT_ONCE).map(|number| keys.page(number).entry()).collect();
            let reserve = Hf3fsOperation::Reserve { term: TERM, keys: keys.clone(), victims: Vec::new() };
            let reserved = match self.apply(&on(file, reserve)) {
                Outcome::Hf3fs(Hf3fsOutcome::Reserved { pages }) => pages,
                other => return Err(unexpected("page_files", &other)),
            };
            let written = keys.into_iter().zip(reserved).filter_map(|(key, reserved)| match reserved {
                Reserved::Page(index) => Some((key, index)),
                Reserved::Existing(_) | Reserved::NoPage => None,
            });
            let confirm = Hf3fsOperation::Confirm { written: written.collect(), released: Vec::new() };
            match self.apply(&on(file, confirm)) {
                Outcome::Hf3fs(Hf3fsOutcome::Confirmed { ignored_confirms: 0, .. }) => {}
                other => return Err(unexpected("page_files", &other)),
            }
        }
        Ok(())
    }
}

fn on(file: u32, operation: Hf3fsOperation) -> Command {
    Command::Hf3fs(Hf3fsCommand::On { file, touched: Vec::new(), operation })
}

fn encoded(records: &[PageRecord]) -> Bytes {
    let mut pages = BytesMut::with_capacity(records.len() * PageRecord::bytes(1));
    records.iter().for_each(|record| record.put(&mut pages));
    pages.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(slots: u64) -> ClusterSettings {
        ClusterSettings { l3_bytes: slots * 4096, slab_bytes: 64 * 4096, ..ClusterSettings::of_a_test() }
    }

    fn directories() -> BTreeMap<u64, DirectoryId> {
        (1..=3).map(|id| (id, DirectoryId([id as u8; 16]))).collect()
    }

    #[test]
    fn a_plan_makes_one_state_that_holds_what_it_says() {
        let (namespaces, page_files) = (vec![3000, 700], vec![5000, 10]);
        let plan = Plan { seed: 3, namespaces, written: 2, rests: 1500, sessions: 3, page_files };
        let made = generate(&plan, &settings(16_384), &directories()).unwrap();
        assert_eq!(made.pages(), 3700);
        assert_eq!(made.sessions().count(), 3);
        assert_eq!(made.l3_status().resting_bytes, 1500 * 4096);
        assert_eq!(made.directories().count(), 3);
        for (at, pages) in plan.namespaces.iter().enumerate() {
            let id = made.namespace_by_fingerprint(&namespace(at).fingerprint()).unwrap().id;
            let last = plan.keys(at).page(pages - 1).entry();
            let found = made.location(id, &last).unwrap().to_location();
            assert_eq!(found.checksums.as_slice(), [pages - 1]);
            assert_eq!(made.parent_of(id, &last), Some(plan.keys(at).parent(pages - 1)));
            assert!(made.location(id, &plan.keys(at).page(*pages).entry()).is_none());
            for number in [0, 1, 2] {
                let location = made.location(id, &plan.keys(at).page(number).entry()).unwrap().to_location();
                let written = plan.keys(at).written_record(number, location.slot).location;
                assert_eq!(location == written, number < plan.written, "page {number} of namespace {at}");
            }
        }
        assert_eq!(made.digest(), made.digest_from_scratch());
        assert_eq!(made.digest(), generate(&plan, &settings(16_384), &directories()).unwrap().digest());
        let other = generate(&Plan { seed: 4, ..plan }, &settings(16_384), &directories()).unwrap();
        assert_ne!(made.digest(), other.digest());
    }

    #[test]
    fn what_is_told_makes_the_same_state_again() {
        let plan = Plan { rests: 20, sessions: 2, page_files: vec![30], ..Plan::pages(1, 2000) };
        let mut told = Vec::new();
        let keep = &mut |command: &Command| told.push(command.clone());
        let made = generate_told(&plan, &settings(4096), &directories(), keep).unwrap();
        let (mut again, mut events) = (State::new(settings(4096)), Vec::new());
        for (revision, command) in (1..).zip(&told) {
            again.begin_entry(TERM, revision);
            again.apply(revision, command, &mut events);
            again.finish_entry(revision);
        }
        assert_eq!((again.revision(), again.digest()), (made.revision(), made.digest()));
    }

    #[test]
    fn a_plan_without_sessions_leaves_none_open() {
        let made = generate(&Plan::pages(1, 100), &settings(1000), &directories()).unwrap();
        assert_eq!((made.sessions().count(), made.pages()), (0, 100));
        assert_eq!(made.l3_status().granted_bytes, 0);
    }

    #[test]
    fn a_plan_that_does_not_fit_names_what_is_too_small() {
        let refused = generate(&Plan::pages(1, 2000), &settings(1000), &directories()).unwrap_err();
        assert_eq!(refused.field, "l3_bytes");
        let nowhere = Plan { namespaces: Vec::new(), rests: 1, ..Plan::pages(1, 1) };
        assert_eq!(generate(&nowhere, &settings(1000), &directories()).unwrap_err().field, "rests");
    }
}
