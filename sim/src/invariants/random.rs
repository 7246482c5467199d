//! Random logs, correct by construction since the state itself answers them: no invariant may object. Watch streams and
//! mirrors are fed by the code that ships.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_meta::replica::observer::EntryEvents as Entry;
use foreword_meta::state::command::{Command, Event, Outcome, Retirement, SessionOperation, SlotState};
use foreword_meta::watch::hub::{Tail, WatchHub};
use foreword_node::mirror::View as Mirror;
use foreword_proto::buckets::{folded, hash_of_page};
use foreword_proto::records::{EntryEvents, NamespaceEvent, PageRecord, SuspectRecord};
use foreword_proto::{AgentId, EntryKey, Location, RetireReason, Revision, SessionId, SlotRef};
use foreword_seams::Telemetry;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::entries_are_whole::EntriesAreWhole;
use super::generations_never_fall::GenerationsNeverFall;
use super::linearizable_reads_are::LinearizableReadsAre;
use super::mirror_equals_state::compare;
use super::nothing_goes_back::NothingGoesBack;
use super::one_slot_one_page::OneSlotOnePage;
use super::retires_are_told::RetiresAreTold;
use super::testing::{looked_up, view};
use super::tests::settings;
use super::*;
use crate::history::{WatchFrame, Watched};
use crate::oracle::tests::{Log, SESSION, key};

const NAMESPACE: u32 = 1;
const KEYS: u64 = 12;
const ENTRIES: u64 = 400;

struct Run {
    log: Log,
    random: StdRng,
    now_ms: u64,
    sequences: BTreeMap<SessionId, u64>,
    /// Commands of sessions, to be sent again.
    sent: Vec<Command>,
    hub: WatchHub,
    mirror: Mirror,
    /// The stream's number, and how far it was read.
    stream: (u64, Revision),
    history: History,
}

impl Run {
    fn new(seed: u64) -> Self {
        let log = Log::new(40);
        let hub = WatchHub::new(1 << 20, Duration::from_secs(30), &Telemetry::new());
        hub.restart_at(log.revision());
        let mut run = Self {
            random: StdRng::seed_from_u64(seed),
            now_ms: 0,
            sequences: BTreeMap::from([(SESSION, 1000)]),
            sent: Vec::new(),
            hub,
            mirror: Mirror::new(1, 1),
            stream: (0, 0),
            history: History::default(),
            log,
        };
        run.resync();
        run
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.random.gen_range(0..of.len())])
    }

    fn a_key(&mut self) -> EntryKey {
        key(self.random.gen_range(0..KEYS)).entry()
    }

    /// A slot the session holds; sometimes another one.
    fn a_slot(&mut self, session: SessionId) -> SlotRef {
        let held: Vec<SlotRef> = self.log.oracle.state().granted_slots(session).collect();
        let any = SlotRef { slab: 1, slot: self.random.gen_range(0..40), generation: self.random.gen_range(1..4) };
        if self.random.gen_bool(0.1) { any } else { self.pick(&held).unwrap_or(any) }
    }

    fn of_session(&mut self, session: SessionId, operation: SessionOperation) -> Command {
        let sequence = self.sequences.entry(session).or_default();
        *sequence += 1;
        let command = Command::Session { session, sequence: *sequence, operation };
        self.sent.push(command.clone());
        command
    }

    fn command(&mut self) -> Command {
        let open: Vec<SessionId> = self.log.oracle.state().sessions().map(|session| session.id).collect();
        let session = self.pick(&open).unwrap_or(SESSION);
        match self.random.gen_range(0..100) {
            0..15 => {
                self.now_ms += self.random.gen_range(0..60);
                Command::Tick { now_ms: self.now_ms.saturating_sub(self.random.gen_range(0..5)) }
            }
            15..30 => self.of_session(session, SessionOperation::Grant { slot_bytes: 4096, slots: 3 }),
            30..60 => self.publish(session),
            60..65 => {
                let (unwritten, unknown) = (vec![self.a_slot(session)], vec![self.a_slot(session)]);
                self.of_session(session, SessionOperation::Abort { unwritten, unknown })
            }
            65..75 => {
                let sent = self.random.gen_range(0..self.sent.len().max(1));
                self.sent.get(sent).cloned().unwrap_or(Command::Tick { now_ms: 0 })
            }
            75..83 => {
                let key = self.a_key();
                let location = self.log.oracle.state().location(NAMESPACE, &key).map(|location| location.slot);
                let slot = location.unwrap_or_else(|| self.a_slot(session));
                Command::Retire {
                    reason: RetireReason::Evicted,
                    entries: vec![Retirement { namespace: NAMESPACE, key, slot }],
                }
            }
            83..87 => Command::Delete { namespace: NAMESPACE, keys: vec![self.a_key(), self.a_key()] },
            87 => Command::Clear { namespace: NAMESPACE },
            88..91 => Command::Reclaim { entries_max: 3 },
            91..95 => self.suspect(session),
            95 => Command::EndSession { session },
            96..98 => {
                let node = if self.random.gen_bool(0.5) { "a" } else { "b" };
                Command::OpenSession {
                    session: SessionId(self.random.r#gen()),
                    node: node.into(),
                    agent: AgentId([1; 16]),
                    incarnation: self.now_ms,
                    endpoint: String::new(),
                }
            }
            _ => Command::DropSlabs { slabs: vec![self.random.gen_range(1..4)] },
        }
    }

    fn publish(&mut self, session: SessionId) -> Command {
        let epoch = self.log.oracle.state().namespace(NAMESPACE).map_or(1, |info| info.epoch);
        let pages: Vec<_> = (0..self.random.gen_range(1..4))
            .map(|_| {
                let slot = self.a_slot(session);
                let number = self.random.gen_range(0..KEYS);
                self.log.record(number, slot)
            })
            .collect();
        let epoch = epoch - u32::from(epoch > 1 && self.random.gen_bool(0.1));
        let pages = foreword_proto::records::encode(&pages, 1);
        self.of_session(session, SessionOperation::Publish { namespace: NAMESPACE, epoch, pages })
    }

    fn suspect(&mut self, session: SessionId) -> Command {
        let mut suspects = Vec::new();
        for number in 0..KEYS {
            let key = key(number).entry();
            if let Some(at) = self.log.oracle.state().location(NAMESPACE, &key) {
                suspects.push(SuspectRecord { key, slot: at.slot, shard: 0, checksum: at.checksum });
            }
        }
        suspects.retain(|_| self.random.gen_bool(0.5));
        Command::Suspect { session, namespace: NAMESPACE, suspects }
    }

    /// Commits an entry of up to four commands; the hub hears of it as it does in a replica.
    fn step(&mut self) {
        let commands: Vec<Command> = (0..self.random.gen_range(0..4)).map(|_| self.command()).collect();
        self.log.entry(&commands);
        let revision = self.log.revision();
        let events = self.log.oracle.events_at(revision).expect("it was just applied").to_vec();
        self.hub.push(&Entry { revision, events });
        if self.random.gen_bool(0.5) {
            self.watch();
        }
        if self.random.gen_bool(0.2) {
            self.look_up();
        }
    }

    fn frame(&mut self, frame: WatchFrame) {
        let at = SimTime::from_millis(self.now_ms);
        self.history.watched.push(Watched { stream: self.stream.0, namespace: NAMESPACE, at, frame });
    }

    /// As a replica does it, all buckets of them.
    fn resync(&mut self) {
        let state = self.log.oracle.state();
        let (info, revision) = (state.namespace(NAMESPACE).expect("registered"), state.revision());
        let (epoch, bits) = (info.epoch, info.whole_bits().min(2));
        let mut buckets = Vec::new();
        let ours: Vec<u64> = (0..1 << bits).map(|bucket| info.bucket_digest(bits, bucket)).collect();
        for bucket in 0..1 << bits {
            buckets.push((bits, bucket, state.pages_in_bucket(NAMESPACE, bits, bucket).collect::<Vec<PageRecord>>()));
        }
        self.mirror.begin_resync(epoch, revision, 0).unwrap();
        self.stream = (self.stream.0 + 1, revision);
        self.frame(WatchFrame::ResyncBegin { epoch, revision });
        for (bits, bucket, pages) in buckets {
            let placed: Vec<_> = pages.iter().map(|page| (page.key, page.location.clone())).collect();
            let hash = |(key, location): &(EntryKey, Location)| {
                let checksums = location.checksums.as_slice();
                hash_of_page(key, location.slot, checksums[0], &checksums[1..])
            };
            assert_eq!(placed.iter().map(hash).fold(0, u64::wrapping_add), ours[bucket as usize]);
            self.mirror.resync_bucket(bits, bucket, &placed).unwrap();
            self.frame(WatchFrame::Bucket { bits, bucket, pages });
        }
        assert_eq!(self.mirror.digests(0..1).collect::<Vec<_>>(), folded(&ours, 0));
        self.mirror.end_resync(revision).unwrap();
        self.frame(WatchFrame::ResyncEnd { revision });
    }

    fn watch(&mut self) {
        let bytes_max = if self.random.gen_bool(0.5) { 0 } else { 1 << 20 };
        let Tail::Entries { upto, entries } = self.hub.tail(self.stream.1, bytes_max) else {
            panic!("the hub keeps everything of this run");
        };
        let mut told = Vec::new();
        for entry in &entries {
            let Some(change) = entry.of(NAMESPACE) else { continue };
            if change.over.is_some() {
                self.frame(WatchFrame::Resync);
                return self.resync();
            }
            let events = NamespaceEvent::decode_all(&change.events, 1).unwrap();
            told.push(EntryEvents { revision: entry.revision, events });
        }
        self.stream.1 = upto;
        self.mirror.apply(upto, &told).unwrap();
        self.frame(WatchFrame::Events { revision: upto, entries: told });
        assert_eq!(compare(&self.log.oracle, NAMESPACE, &self.mirror), Ok(()));
    }

    /// A linearizable lookup of every key: at a time of its own, in the middle of this entry's.
    fn look_up(&mut self) {
        let revision = self.log.revision();
        let numbers: Vec<u64> = (0..KEYS).collect();
        let present =
            numbers.iter().map(|number| self.log.oracle.state().location(NAMESPACE, &key(*number).entry()).is_some());
        let at = revision * 10;
        let record = looked_up(&numbers, revision, &present.collect::<Vec<_>>(), true, (at + 3, at + 4));
        self.history.records.push(record);
    }
}

/// What the run did, so that it can be seen to have done all of it.
fn count(log: &Log, counts: &mut BTreeMap<&'static str, u64>) {
    for step in log.oracle.entries_after(0).flat_map(|entry| &entry.steps) {
        for event in &step.events {
            let name = match event {
                Event::Published { .. } => "published",
                Event::Retired { reason: RetireReason::Suspect, .. } => "suspect retired",
                Event::Retired { .. } => "retired",
                Event::AbsentDeleted { .. } => "absent deleted",
                Event::Cleared { .. } => "cleared",
                Event::NamespaceDropped { .. } => "namespace dropped",
                Event::SessionEnded { .. } => "session ended",
            };
            *counts.entry(name).or_default() += 1;
        }
        let name = match &step.outcome {
            Outcome::Granted { slots, .. } if slots.iter().any(|slot| slot.generation > 1) => "granted again",
            Outcome::Refused(_) => "refused",
            _ => continue,
        };
        *counts.entry(name).or_default() += 1;
    }
}

fn run(seed: u64, counts: &mut BTreeMap<&'static str, u64>) {
    let (mut run, settings) = (Run::new(seed), settings());
    let mut checks = Checks::of(vec![
        Box::<EntriesAreWhole>::default(),
        Box::<GenerationsNeverFall>::default(),
        Box::<LinearizableReadsAre>::default(),
        Box::<NothingGoesBack>::default(),
        Box::<OneSlotOnePage>::default(),
        Box::<RetiresAreTold>::default(),
    ]);
    for entry in 0..=ENTRIES {
        if entry < ENTRIES {
            run.step();
        } else {
            run.log.oracle.check_now();
        }
        let now_ms = run.log.revision() * 10 + 1;
        let view =
            View { healed_since: None, quiet_since: None, ..view(&run.log.oracle, &run.history, &settings, now_ms) };
        let new = if entry < ENTRIES { checks.observe(&view) } else { checks.finish(&view) };
        assert!(!new, "seed {seed}, entry {entry}: {:?}", checks.found());
    }
    let mut pages: BTreeMap<EntryKey, Location> = BTreeMap::new();
    let state = run.log.oracle.state();
    state.pages_of(NAMESPACE, |page| drop(pages.insert(page.key, page.location)));
    assert_eq!(pages, run.log.oracle.presence().pages_at(NAMESPACE, state.revision()), "seed {seed}");
    for location in pages.values() {
        let slot = state.slot_state(location.slot.slab, location.slot.slot);
        assert_eq!(slot, Some((location.slot.generation, SlotState::Published)), "seed {seed}");
    }
    count(&run.log, counts);
}

#[test]
fn no_invariant_objects_to_a_correct_log() {
    let mut counts = BTreeMap::new();
    for seed in 0..16 {
        run(seed, &mut counts);
    }
    let all = ["published", "retired", "suspect retired", "cleared", "session ended", "granted again", "refused"];
    assert!(all.iter().all(|name| counts.get(name).is_some_and(|count| *count > 20)), "{counts:?}");
}
