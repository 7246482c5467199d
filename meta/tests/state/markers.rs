//! Rare paths are counted where applying takes them.

use foreword_meta::state::State;
use foreword_meta::state::command::{ClusterSettings, Command, Outcome, Retirement, SessionOperation};
use foreword_proto::location::{Checksums, Location};
use foreword_proto::records::{self, PageRecord, SuspectRecord};
use foreword_proto::{AgentId, EntryKey, Namespace, RetireReason, SessionId, SlotRef};
use foreword_seams::Marker;
use foreword_seams::sometimes::{counts, reset};

use crate::restore::{pieces, restore};

const KEY: EntryKey = EntryKey([5; 16]);

struct Replica {
    state: State,
    term: u64,
    /// Sessions opened; each has its number for an id.
    opened: u8,
}

impl Replica {
    /// A namespace with room for four slots.
    fn new() -> Self {
        let settings = ClusterSettings {
            chunk_bytes: 4096,
            slab_bytes: 4 * 4096,
            l3_bytes: 4 * 4096,
            read_rest_ms: 10,
            write_rest_ms: 10,
            first_feature_level: 1,
            hf3fs_protection_ms: 30_000,
            lease_ms: 1000,
        };
        let mut replica = Self { state: State::new(settings), term: 1, opened: 0 };
        replica.apply(Command::RegisterNamespace { namespace: Box::new(Namespace::simple("m", 16, vec![4096])) });
        replica
    }

    /// Applies an entry of one command; what it came to, and the markers it passed.
    fn apply(&mut self, command: Command) -> (Outcome, Vec<Marker>) {
        reset();
        let index = self.state.revision() + 1;
        self.state.begin_entry(self.term, index);
        let outcome = self.state.apply(index, &command, &mut Vec::new());
        self.state.finish_entry(index);
        (outcome, counts().iter().filter(|(_, count)| *count > 0).map(|(marker, _)| marker).collect())
    }

    fn marks(&mut self, command: Command) -> Vec<Marker> {
        self.apply(command).1
    }

    fn opening(&mut self, node: &str) -> Command {
        self.opened += 1;
        let (session, node, endpoint) = (SessionId([self.opened; 16]), node.into(), String::new());
        Command::OpenSession { session, node, agent: AgentId([1; 16]), incarnation: 1, endpoint }
    }

    fn session(&mut self, node: &str) -> SessionId {
        let opening = self.opening(node);
        match self.apply(opening).0 {
            Outcome::SessionOpened { session } => session,
            other => panic!("{other:?}"),
        }
    }

    /// One slot, with the markers that its grant passed.
    fn grant(&mut self, session: SessionId, sequence: u64) -> (Option<SlotRef>, Vec<Marker>) {
        let operation = SessionOperation::Grant { slot_bytes: 4096, slots: 1 };
        match self.apply(Command::Session { session, sequence, operation }) {
            (Outcome::Granted { slots, .. }, marks) => (slots.first().copied(), marks),
            other => panic!("{other:?}"),
        }
    }

    fn published(&mut self, session: SessionId, sequence: u64) -> SlotRef {
        let slot = self.grant(session, sequence).0.unwrap();
        assert_eq!(self.marks(publish(session, sequence + 1, slot)), []);
        slot
    }
}

fn publish(session: SessionId, sequence: u64, slot: SlotRef) -> Command {
    let location = Location { slot, checksums: Checksums::One([1]) };
    let pages = records::encode(&[PageRecord { key: KEY, parent: 0, location }], 1);
    Command::Session { session, sequence, operation: SessionOperation::Publish { namespace: 1, epoch: 1, pages } }
}

fn suspect(session: SessionId, slot: SlotRef) -> Command {
    Command::Suspect { session, namespace: 1, suspects: vec![SuspectRecord { key: KEY, slot, shard: 0, checksum: 1 }] }
}

#[test]
fn slots_are_released_reused_and_run_out() {
    let mut replica = Replica::new();
    let a = replica.session("a");
    let slots: Vec<SlotRef> = (1..=4).map(|sequence| replica.grant(a, sequence).0.unwrap()).collect();
    assert_eq!(replica.grant(a, 5), (None, vec![Marker::GrantFoundNoRoom]));
    let abort = SessionOperation::Abort { unwritten: vec![], unknown: vec![slots[0]] };
    let abort = |sequence| Command::Session { session: a, sequence, operation: abort.clone() };
    assert_eq!(replica.marks(abort(6)), [Marker::UnknownWriteRested]);
    assert_eq!(replica.marks(abort(7)), [], "the session does not hold the slot any more");
    assert_eq!(replica.marks(Command::Tick { now_ms: 9 }), []);
    assert_eq!(replica.marks(Command::Tick { now_ms: 10 }), [Marker::SlotReleased]);
    assert_eq!(replica.grant(a, 8).1, [Marker::SlotReused]);
}

#[test]
fn a_replay_tells_whether_another_leader_had_answered() {
    let mut replica = Replica::new();
    let a = replica.session("a");
    let slot = replica.grant(a, 1).0.unwrap();
    assert_eq!(replica.marks(publish(a, 2, slot)), []);
    assert_eq!(replica.marks(publish(a, 2, slot)), [Marker::PublishReplayed]);
    replica.term = 2;
    let replayed = [Marker::PublishReplayed, Marker::PublishReplayedAcrossLeaders];
    assert_eq!(replica.marks(publish(a, 2, slot)), replayed);
    let other = replica.grant(a, 3).0.unwrap();
    assert_eq!(replica.marks(publish(a, 4, other)), [Marker::PublishFoundExisting]);
    assert_eq!(replica.marks(publish(a, 4, other)), [Marker::PublishReplayed]);
    // A replica that has just started does not know where its term began.
    replica.state = restore(pieces(&replica.state)).unwrap();
    assert_eq!(replica.marks(publish(a, 2, slot)), [Marker::PublishReplayed]);
}

#[test]
fn sessions_end_and_their_commands_come_too_late() {
    let mut replica = Replica::new();
    let a = replica.session("a");
    let slot = replica.grant(a, 1).0.unwrap();
    let again = replica.opening("a");
    assert_eq!(replica.marks(again), [Marker::SessionSuperseded, Marker::SessionEndedHoldingSlots]);
    assert_eq!(replica.marks(publish(a, 2, slot)), [Marker::EndedSessionRefused]);
    let b = replica.session("b");
    replica.grant(b, 1).0.unwrap();
    assert_eq!(replica.marks(Command::EndSession { session: b }), [Marker::SessionEndedHoldingSlots]);
    assert_eq!(replica.marks(Command::EndSession { session: b }), []);
}

#[test]
fn pages_are_suspected_evicted_and_cleared() {
    let mut replica = Replica::new();
    let a = replica.session("a");
    let slot = replica.published(a, 1);
    assert_eq!(replica.marks(suspect(a, slot)), []);
    assert_eq!(replica.marks(Command::Tick { now_ms: 5_000 }), [Marker::SuspectRetiredAlone]);
    assert_eq!(replica.marks(suspect(a, slot)), [Marker::SuspectVoid]);
    let b = replica.session("b");
    let slot = replica.published(a, 3);
    assert_eq!(replica.marks(suspect(a, slot)), []);
    assert_eq!(replica.marks(suspect(b, slot)), [Marker::SuspectConfirmed]);
    let slot = replica.published(a, 5);
    let entries = vec![Retirement { namespace: 1, key: KEY, slot }];
    let evict = Command::Retire { reason: RetireReason::Evicted, entries };
    assert_eq!(replica.marks(evict.clone()), [Marker::PageEvicted]);
    assert_eq!(replica.marks(evict), []);
    let slot = replica.published(a, 7);
    assert_eq!(replica.marks(Command::Clear { namespace: 1 }), [Marker::NamespaceCleared]);
    // One reclaim looks through a part of the index only.
    while replica.state.reclaimable() > 0 {
        let marks = replica.marks(Command::Reclaim { entries_max: 9 });
        assert_eq!(marks.contains(&Marker::GarbageReclaimed), replica.state.reclaimable() == 0);
    }
    replica.apply(Command::Tick { now_ms: 9_000 });
    let reused = replica.grant(a, 9).0.unwrap();
    assert_ne!(reused, slot);
    assert_eq!(replica.marks(publish(a, 10, reused)), [Marker::PublishAfterClear]);
}
