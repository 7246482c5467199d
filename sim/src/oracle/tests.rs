//! A log written by hand, for this module's tests and the invariants'.

use bytes::Bytes;
use foreword_meta::consensus::entry_codec::encode_entry;
use foreword_meta::consensus::types::{Entry, EntryBatch};
use foreword_meta::generated::state::generate_told;
use foreword_meta::generated::{PAGE_BYTES, Plan};
use foreword_meta::replica::group::encode_commands;
use foreword_meta::state::codec::encode_batch;
use foreword_meta::state::command::{ClusterSettings, Command, Outcome, Retirement, SessionOperation};
use foreword_proto::limits::FORMAT_VERSION;
use foreword_proto::location::{Checksums, Location};
use foreword_proto::records::{self, PageRecord};
use foreword_proto::{
    AgentId, DirectoryId, EntryKey, Namespace, NamespaceId, PageKey, RetireReason, Revision, SessionId, SlotRef,
};
use openraft::{CommittedLeaderId, EntryPayload, LogId};

use super::*;

/// Milliseconds of the rests.
pub(crate) const READ_REST_MS: u64 = 100;
pub(crate) const WRITE_REST_MS: u64 = 300;

pub(crate) fn key(number: u64) -> PageKey {
    PageKey::opaque(&number.to_le_bytes())
}

pub(crate) fn item(index: u64, term: u64, commands: &[Command]) -> Bytes {
    let payload = match commands {
        [] => EntryPayload::Blank,
        commands => EntryPayload::Normal(EntryBatch(encode_batch(FORMAT_VERSION, &encode_commands(commands)))),
    };
    encode_entry(
        FORMAT_VERSION,
        &Entry { log_id: LogId { leader_id: CommittedLeaderId::new(term, 1), index }, payload },
    )
}

/// One slab of so many bytes.
fn settings(l3_bytes: u64) -> ClusterSettings {
    ClusterSettings {
        chunk_bytes: 4096,
        slab_bytes: l3_bytes,
        l3_bytes,
        read_rest_ms: READ_REST_MS,
        write_rest_ms: WRITE_REST_MS,
        first_feature_level: 1,
        hf3fs_protection_ms: 30_000,
        lease_ms: 1000,
    }
}

/// The oracle of a run that begins with a generated state of up to 4,096 pages, and that state.
pub(crate) fn begun_with(plan: &Plan) -> (Oracle, State) {
    let (settings, mut commands) = (settings(4096 * PAGE_BYTES as u64), Vec::new());
    let directories = [(1, DirectoryId([1; 16]))].into();
    let keep = &mut |command: &Command| commands.push(command.clone());
    let made = generate_told(plan, &settings, &directories, keep).unwrap();
    let mut oracle = Oracle::new(settings);
    oracle.begin_with(&commands);
    (oracle, made)
}

/// The session of node `a`.
pub(crate) const SESSION: SessionId = SessionId([1; 16]);

/// An oracle with what was given to it: namespace 1, and [`SESSION`] that holds every slot.
pub(crate) struct Log {
    pub(crate) oracle: Oracle,
    pub(crate) items: Vec<Bytes>,
    pub(crate) free: Vec<SlotRef>,
    pub(crate) session: SessionId,
    sequence: u64,
    shards: usize,
}

impl Log {
    pub(crate) fn new(slots: u64) -> Self {
        Self::with_shards(slots, vec![4096])
    }

    pub(crate) fn with_shards(slots: u64, shard_bytes: Vec<u64>) -> Self {
        let (shards, slot_bytes) = (shard_bytes.len(), shard_bytes.iter().sum::<u64>());
        let settings = settings(slots * slot_bytes);
        let mut log =
            Self { oracle: Oracle::new(settings), items: vec![], free: vec![], session: SESSION, sequence: 0, shards };
        log.entry(&[]);
        let namespace = Box::new(Namespace::simple("m", 16, shard_bytes));
        log.entry(&[Command::RegisterNamespace { namespace }]);
        log.entry(&[Command::OpenSession {
            session: SESSION,
            node: "a".into(),
            agent: AgentId([1; 16]),
            incarnation: 1,
            endpoint: String::new(),
        }]);
        log.free = log.grant(slots as u32);
        log
    }

    /// Commits an entry; the outcomes of its commands.
    pub(crate) fn entry(&mut self, commands: &[Command]) -> Vec<Outcome> {
        let index = self.items.len() as u64;
        let item = item(index, 1, commands);
        self.items.push(item.clone());
        self.oracle.advance(index, &item);
        assert_eq!(self.oracle.next_index(), index + 1, "an entry was refused: {:?}", self.oracle.violations());
        let applied = self.oracle.entries_after(index.saturating_sub(1)).next();
        applied.into_iter().flat_map(|entry| entry.steps.iter().map(|step| step.outcome.clone())).collect()
    }

    pub(crate) fn revision(&self) -> Revision {
        self.oracle.revision()
    }

    pub(crate) fn session_command(&mut self, operation: SessionOperation) -> Command {
        self.sequence += 1;
        Command::Session { session: self.session, sequence: self.sequence, operation }
    }

    /// The room is 1/64 of all slots a grant, at least one.
    pub(crate) fn grant(&mut self, slots: u32) -> Vec<SlotRef> {
        let slot_bytes = self.oracle.state().namespace(1).expect("it was registered").slot_bytes;
        let mut granted = Vec::new();
        for _ in 0..slots {
            let command = self.session_command(SessionOperation::Grant { slot_bytes, slots });
            if let Some(Outcome::Granted { slots, .. }) = self.entry(&[command]).pop() {
                granted.extend(slots);
            }
        }
        granted
    }

    pub(crate) fn record(&self, number: u64, slot: SlotRef) -> PageRecord {
        let checksums = Checksums::new(&vec![number; self.shards]);
        PageRecord { key: key(number).entry(), parent: 0, location: Location { slot, checksums } }
    }

    pub(crate) fn publish(&mut self, pages: &[PageRecord]) -> Command {
        let epoch = self.oracle.state().namespace(1).expect("it was registered").epoch;
        let pages = records::encode(pages, self.shards);
        self.session_command(SessionOperation::Publish { namespace: 1, epoch, pages })
    }

    /// Publishes a page in a slot of its own; the slot.
    pub(crate) fn put(&mut self, number: u64) -> SlotRef {
        let slot = self.free.pop().expect("a slot is granted");
        let record = self.record(number, slot);
        let command = self.publish(&[record]);
        self.entry(&[command]);
        slot
    }

    pub(crate) fn retire(&mut self, number: u64, slot: SlotRef) {
        let entries = vec![Retirement { namespace: 1, key: key(number).entry(), slot }];
        self.entry(&[Command::Retire { reason: RetireReason::Evicted, entries }]);
    }

    pub(crate) fn delete(&mut self, number: u64) {
        self.entry(&[Command::Delete { namespace: 1, keys: vec![key(number).entry()] }]);
    }

    pub(crate) fn clear(&mut self) {
        self.entry(&[Command::Clear { namespace: 1 }]);
    }

    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.entry(&[Command::Tick { now_ms }]);
    }
}

const NAMESPACE: NamespaceId = 1;

fn present(log: &Log, number: u64, revision: Revision) -> bool {
    let key: EntryKey = key(number).entry();
    log.oracle.present_at(NAMESPACE, &key, revision).is_some()
}

#[test]
fn it_remembers_what_was_present_when() {
    let mut log = Log::new(8);
    let slot = log.put(1);
    let published = log.revision();
    log.put(2);
    log.retire(1, slot);
    let retired = log.revision();
    log.clear();
    assert!(!present(&log, 1, published - 1) && present(&log, 1, published) && present(&log, 1, retired - 1));
    assert!(!present(&log, 1, retired) && present(&log, 2, retired) && !present(&log, 2, log.revision()));
    let presence = log.oracle.presence();
    let sum = presence.sum_at(NAMESPACE, retired).unwrap();
    let expected: u64 = presence.pages_at(NAMESPACE, retired).iter().map(|(key, at)| hash_of_page(key, at)).sum();
    assert_eq!((sum.epoch, sum.pages, sum.sum), (1, 1, expected));
    let cleared = NamespaceSum { epoch: 2, pages: 0, sum: 0 };
    assert_eq!(presence.sum_at(NAMESPACE, log.revision()), Some(cleared));
    assert_eq!(log.oracle.violations(), []);
}

/// What the events say and what the state holds must be the same: the presence is built from the one, lookups from the
/// other.
#[test]
fn events_and_state_say_the_same() {
    let mut log = Log::new(16);
    for number in 0..10 {
        let slot = log.put(number);
        if number % 3 == 0 {
            log.retire(number, slot);
        }
        if number == 4 {
            log.clear();
        }
    }
    let mut pages = std::collections::BTreeMap::new();
    log.oracle.state().pages_of(NAMESPACE, |page| {
        pages.insert(page.key, page.location);
    });
    assert_eq!(pages, log.oracle.presence().pages_at(NAMESPACE, log.revision()));
    assert_eq!(pages.len(), 3);
}

#[test]
fn a_committed_entry_that_changed_is_found() {
    let mut log = Log::new(8);
    log.put(1);
    let items = log.items.clone();
    for (index, item) in items.iter().enumerate() {
        log.oracle.advance(index as u64, item);
    }
    assert_eq!(log.oracle.violations(), [], "the same bytes again");
    log.oracle.advance(3, &item(3, 2, &[]));
    assert_eq!(log.oracle.violations()[0].name, "nothing-goes-back");
    let revision = log.revision();
    log.oracle.advance(revision + 2, &item(revision + 2, 1, &[]));
    assert_eq!(log.revision(), revision, "a gap is waited for");
}

#[test]
fn bytes_that_are_no_entry_are_found() {
    let mut log = Log::new(8);
    let next = log.oracle.next_index();
    let mut torn = item(next, 1, &[Command::Tick { now_ms: 5 }]).to_vec();
    torn[20] ^= 1;
    log.oracle.advance(next, &torn.into());
    assert_eq!(log.oracle.violations()[0].name, "promises-before-votes");
    assert_eq!(log.oracle.next_index(), next);
}

#[test]
fn what_a_run_begins_with_is_followed_from_its_first_command() {
    let plan = Plan { rests: 30, sessions: 1, page_files: vec![40], ..Plan::pages(1, 2_000) };
    let (mut oracle, made) = begun_with(&plan);
    let last = made.revision();
    assert_eq!(oracle.violations(), []);
    assert_eq!((oracle.revision(), oracle.generated()), (last, last));
    assert_eq!(oracle.digest_at(last), Some(made.digest()));
    assert_eq!(oracle.entries_after(0).count() as u64, last);
    let key = |number| plan.keys(0).page(number).entry();
    let there = made.location(1, &key(1_999)).map(|location| location.to_location());
    assert_eq!(oracle.present_at(1, &key(1_999), last), there.as_ref());
    assert_eq!(oracle.present_at(1, &key(2_000), last), None, "it was evicted");
    oracle.advance(last + 1, &item(last + 1, 2, &[]));
    assert_eq!(oracle.next_index(), last + 2);
}

#[test]
fn memory_is_bounded_and_the_checks_run() {
    let mut log = Log::new(8);
    for now_ms in 0..(REVISIONS_KEPT as u64 + 100) {
        log.tick(now_ms);
    }
    let last = log.revision();
    assert!(log.oracle.digest_at(last).is_some() && log.oracle.digest_at(10).is_none());
    assert_eq!(log.oracle.entries_after(last - 5).count(), 5);
    assert_eq!(log.oracle.entries_after(last - ENTRIES_KEPT as u64).count(), ENTRIES_KEPT);
    let (steps, checks) = log.oracle.checks_made();
    assert!(steps > 1000 && checks > 1000, "{steps} {checks}");
}

#[test]
#[should_panic(expected = "forgotten")]
fn a_check_that_fell_behind_is_told() {
    let mut log = Log::new(8);
    for now_ms in 0..(ENTRIES_KEPT as u64 + 10) {
        log.tick(now_ms);
    }
    let _ = log.oracle.entries_after(5).count();
}
