//! What the group promises, one example each.

use bytes::Bytes;
use foreword_meta::state::command::{
    ClusterSettings, Command, Event, Invalid, Limit, Outcome, Refusal, Registered, Retirement, SessionOperation,
    SlotState, SuspectOutcome,
};
use foreword_meta::state::{SUSPICION_ALONE_MS, SUSPICION_KEPT_MS, SUSPICIONS_PER_SESSION_MAX, State};
use foreword_proto::limits::{NAMESPACES_MAX, SESSION_WINDOW};
use foreword_proto::location::{Checksums, Location};
use foreword_proto::records::{self, PageRecord, SuspectRecord};
use foreword_proto::{
    AgentId, EntryKey, Namespace, PageKey, PublishOutcome, RetireReason, Sequence, SessionId, SlotRef,
};

use crate::random::restored;

pub(crate) const READ_REST_MS: u64 = 100;
pub(crate) const WRITE_REST_MS: u64 = 300;

/// The session of node `a`.
pub(crate) const A: SessionId = SessionId([1; 16]);
/// The session that is opened next.
pub(crate) const SECOND: SessionId = SessionId([2; 16]);

/// A state with namespace 1 (4 KiB pages of one shard) and session [`A`] of node `a`.
pub(crate) struct Cluster {
    pub(crate) state: State,
    pub(crate) events: Vec<Event>,
    /// Sessions opened; each has its number for an id.
    opened: u8,
    sequence: Sequence,
    next_page: u64,
    oldest_page: u64,
}

pub(crate) fn page_key(number: u64) -> EntryKey {
    PageKey::opaque(&number.to_le_bytes()).entry()
}

pub(crate) fn page(number: u64, slot: SlotRef) -> PageRecord {
    let parent = number.checked_sub(1).map_or(0, |before| page_key(before).parent_hint());
    PageRecord { key: page_key(number), parent, location: Location { slot, checksums: Checksums::One([number]) } }
}

impl Cluster {
    pub(crate) fn with_slots(slots: u64) -> Self {
        Self::with(slots, 1 << 18)
    }

    pub(crate) fn with(slots: u64, slab_slots: u64) -> Self {
        let settings = ClusterSettings {
            chunk_bytes: 4096,
            slab_bytes: slab_slots * 4096,
            l3_bytes: slots * 4096,
            read_rest_ms: READ_REST_MS,
            write_rest_ms: WRITE_REST_MS,
            first_feature_level: 1,
            hf3fs_protection_ms: 30_000,
            lease_ms: 1000,
        };
        let state = State::new(settings);
        let mut cluster = Self { state, events: Vec::new(), opened: 0, sequence: 0, next_page: 0, oldest_page: 0 };
        let namespace = Box::new(Namespace::simple("m", 16, vec![4096]));
        cluster.apply(Command::RegisterNamespace { namespace });
        assert_eq!(cluster.open("a"), A);
        cluster
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let revision = self.state.revision() + 1;
        self.events.clear();
        let outcome = self.state.apply(revision, &command, &mut self.events);
        self.state.finish_entry(revision);
        outcome
    }

    pub(crate) fn open(&mut self, node: &str) -> SessionId {
        self.opened += 1;
        let opened = self.apply(Command::OpenSession {
            session: SessionId([self.opened; 16]),
            node: node.into(),
            agent: AgentId([1; 16]),
            incarnation: 1,
            endpoint: String::new(),
        });
        let Outcome::SessionOpened { session } = opened else { panic!("{opened:?}") };
        session
    }

    pub(crate) fn tick(&mut self, ms: u64) {
        let now_ms = self.state.tick_ms() + ms;
        self.apply(Command::Tick { now_ms });
    }

    pub(crate) fn session(&mut self, session: SessionId, operation: SessionOperation) -> Outcome {
        self.sequence += 1;
        let sequence = self.sequence;
        self.apply(Command::Session { session, sequence, operation })
    }

    pub(crate) fn grant(&mut self, session: SessionId, slots: u32) -> Vec<SlotRef> {
        let granted = self.session(session, SessionOperation::Grant { slot_bytes: 4096, slots });
        let Outcome::Granted { slots, .. } = granted else { panic!("{granted:?}") };
        slots
    }

    pub(crate) fn publish(&mut self, session: SessionId, pages: &[PageRecord]) -> Vec<PublishOutcome> {
        let pages = records::encode(pages, 1);
        let epoch = self.state.namespace(1).unwrap().epoch;
        let published = self.session(session, SessionOperation::Publish { namespace: 1, epoch, pages });
        let Outcome::Published { outcomes, .. } = published else { panic!("{published:?}") };
        outcomes
    }

    /// Publishes pages until there are this many.
    pub(crate) fn fill(&mut self, pages: u64) {
        while self.state.pages() < pages {
            let slots = self.grant(A, (pages - self.state.pages()).min(1024) as u32);
            assert!(!slots.is_empty(), "no room after {} pages", self.state.pages());
            let numbered = slots.iter().zip(self.next_page..);
            let batch: Vec<PageRecord> = numbered.map(|(slot, number)| page(number, *slot)).collect();
            self.next_page += batch.len() as u64;
            self.publish(A, &batch);
        }
    }

    pub(crate) fn delete_oldest(&mut self, pages: u64) {
        let keys = (self.oldest_page..self.oldest_page + pages).map(page_key).collect::<Vec<_>>();
        self.oldest_page += pages;
        for keys in keys.chunks(10_000) {
            self.apply(Command::Delete { namespace: 1, keys: keys.to_vec() });
        }
    }

    fn use_of(&self, slot: SlotRef) -> SlotState {
        self.state.slot_state(slot.slab, slot.slot).unwrap().1
    }

    fn suspect(&mut self, session: SessionId, number: u64, slot: SlotRef) -> SuspectOutcome {
        let suspects = vec![SuspectRecord { key: page_key(number), slot, shard: 0, checksum: number }];
        let suspected = self.apply(Command::Suspect { session, namespace: 1, suspects });
        let Outcome::Suspected { outcomes } = suspected else { panic!("{suspected:?}") };
        outcomes[0]
    }
}

#[test]
fn a_small_budget_is_used_to_the_last_slot() {
    let mut cluster = Cluster::with(23, 10);
    let mut slots = Vec::new();
    while let [slot] = cluster.grant(A, 5)[..] {
        slots.push(slot);
    }
    assert_eq!(slots.len(), 23);
    let slabs: Vec<u32> = cluster.state.slabs().map(|slab| slab.slots).collect();
    assert_eq!(slabs, [10, 10, 3]);
}

#[test]
fn a_grant_takes_a_64th_of_the_room_from_several_slabs() {
    let mut cluster = Cluster::with(6400, 40);
    let slots = cluster.grant(A, 4096);
    assert_eq!(slots.len(), 100);
    let mut slabs: Vec<u32> = slots.iter().map(|slot| slot.slab).collect();
    slabs.dedup();
    assert!(slabs.len() >= 3, "{slabs:?}");
    assert_eq!(cluster.grant(A, 7).len(), 7);
}

#[test]
fn the_next_grant_starts_with_another_slab() {
    let mut cluster = Cluster::with(6400, 100);
    while cluster.state.slabs().count() < 4 {
        cluster.grant(A, 100);
    }
    let (first, second) = (cluster.grant(A, 1)[0], cluster.grant(A, 1)[0]);
    assert_ne!(first.slab, second.slab);
}

#[test]
fn a_repeated_command_has_the_same_outcome_also_after_a_snapshot() {
    let mut cluster = Cluster::with_slots(6400);
    let grant =
        Command::Session { session: A, sequence: 9, operation: SessionOperation::Grant { slot_bytes: 4096, slots: 5 } };
    let first = cluster.apply(grant.clone());
    assert_eq!(cluster.apply(grant.clone()), first);
    cluster.state = restored(&cluster.state);
    assert_eq!(cluster.apply(grant.clone()), first);
    assert_eq!(cluster.state.granted_slots(A).count(), 5);

    // 64 sequences on, it is forgotten; one before, it is not.
    let nothing = |sequence| Command::Session {
        session: A,
        sequence,
        operation: SessionOperation::Abort { unwritten: vec![], unknown: vec![] },
    };
    cluster.apply(nothing(8 + SESSION_WINDOW as u64));
    assert_eq!(cluster.apply(grant.clone()), first);
    cluster.apply(nothing(9 + SESSION_WINDOW as u64));
    let too_old = Refusal::SequenceTooOld { sequence: 9, window: SESSION_WINDOW as u32 };
    assert_eq!(cluster.apply(grant), Outcome::Refused(too_old));
}

#[test]
fn a_new_session_of_a_node_ends_the_one_before() {
    let mut cluster = Cluster::with_slots(6400);
    let slot = cluster.grant(A, 1)[0];
    assert_eq!(cluster.open("a"), SECOND);
    assert_eq!(cluster.events, [Event::SessionEnded { session: A }]);
    assert_eq!(cluster.use_of(slot), SlotState::Resting);
    let late = cluster.session(A, SessionOperation::Grant { slot_bytes: 4096, slots: 1 });
    assert_eq!(late, Outcome::Refused(Refusal::NoSession { session: A }));
    cluster.tick(WRITE_REST_MS - 1);
    assert_eq!(cluster.use_of(slot), SlotState::Resting);
    cluster.tick(1);
    assert_eq!(cluster.use_of(slot), SlotState::Free);
    let again = cluster.grant(SECOND, 1)[0];
    assert_eq!(again, SlotRef { generation: slot.generation + 1, ..slot });
}

#[test]
fn only_the_session_itself_while_it_is_open_says_that_a_slot_is_unwritten() {
    let mut cluster = Cluster::with_slots(6400);
    let slot = cluster.grant(A, 1)[0];
    let unwritten = || SessionOperation::Abort { unwritten: vec![slot], unknown: vec![] };
    let other = cluster.open("b");
    assert_eq!(cluster.session(other, unwritten()), Outcome::Done);
    assert_eq!(cluster.use_of(slot), SlotState::Granted { session: A }, "it is not that session's");
    let again = cluster.open("a");
    assert_eq!(cluster.session(A, unwritten()), Outcome::Refused(Refusal::NoSession { session: A }));
    assert_eq!(cluster.session(again, unwritten()), Outcome::Done);
    assert_eq!(
        cluster.use_of(slot),
        SlotState::Resting,
        "the agent's later life does not know what the earlier one wrote"
    );
    // The id of a session that ended makes no earlier one of it.
    cluster.apply(Command::EndSession { session: again });
    cluster.opened = 0;
    assert_eq!(cluster.open("a"), A);
    assert_eq!(cluster.session(A, unwritten()), Outcome::Done);
    assert_eq!(cluster.use_of(slot), SlotState::Resting);
    let own = cluster.grant(A, 1)[0];
    cluster.session(A, SessionOperation::Abort { unwritten: vec![own], unknown: vec![] });
    assert_eq!(cluster.use_of(own), SlotState::Free);
}

#[test]
fn the_id_of_an_open_session_opens_no_other() {
    let mut cluster = Cluster::with_slots(6400);
    let slot = cluster.grant(A, 1)[0];
    for node in ["a", "b"] {
        let (session, endpoint) = (A, String::new());
        let opening =
            Command::OpenSession { session, node: node.into(), agent: AgentId([1; 16]), incarnation: 2, endpoint };
        let Outcome::Refused(refusal) = cluster.apply(opening) else { panic!("node {node}") };
        assert_eq!(refusal, Refusal::Invalid(Invalid::Session { found: A }));
        assert_eq!(refusal.to_string(), "session: expected an id that no open session has, 01010101 is one's");
    }
    assert_eq!(cluster.use_of(slot), SlotState::Granted { session: A });
}

#[test]
fn a_late_publish_into_a_reused_slot_is_refused() {
    let mut cluster = Cluster::with_slots(1);
    let slot = cluster.grant(A, 1)[0];
    let second = cluster.open("b");
    cluster.session(A, SessionOperation::Abort { unwritten: vec![slot], unknown: vec![] });
    let reused = cluster.grant(second, 1)[0];
    assert_eq!((reused.slab, reused.slot), (slot.slab, slot.slot));
    assert_eq!(cluster.publish(A, &[page(1, slot)]), [PublishOutcome::NotGranted]);
    assert_eq!(cluster.publish(A, &[page(1, reused)]), [PublishOutcome::NotGranted]);
    assert_eq!(cluster.publish(second, &[page(1, reused)]), [PublishOutcome::Published]);
    // The very same slot again: it is no longer the session's to publish or to keep.
    assert_eq!(cluster.publish(second, &[page(1, reused)]), [PublishOutcome::NotGranted]);
}

#[test]
fn a_key_that_exists_answers_with_its_location_and_leaves_the_slot() {
    let mut cluster = Cluster::with_slots(6400);
    let slots = cluster.grant(A, 3);
    assert_eq!(cluster.publish(A, &[page(1, slots[0])]), [PublishOutcome::Published]);
    let pages = records::encode(&[page(2, slots[1]), page(1, slots[2])], 1);
    let published = cluster.session(A, SessionOperation::Publish { namespace: 1, epoch: 1, pages });
    let Outcome::Published { revision, outcomes, existing } = published else { panic!("{published:?}") };
    assert_eq!(revision, cluster.state.revision());
    assert_eq!(outcomes, [PublishOutcome::Published, PublishOutcome::Existing]);
    let there: Vec<Location> = records::decode("existing", &existing, 1, 9).unwrap();
    assert_eq!(there, [page(1, slots[0]).location]);
    assert_eq!(cluster.state.granted_slots(A).collect::<Vec<_>>(), [slots[2]]);
}

#[test]
fn a_clear_hides_everything_at_once_and_is_reclaimed_later() {
    let mut cluster = Cluster::with_slots(64_000);
    cluster.fill(6000);
    let slot = cluster.grant(A, 1)[0];
    assert_eq!(cluster.apply(Command::Clear { namespace: 1 }), Outcome::Cleared { epoch: 2 });
    assert_eq!(cluster.events, [Event::Cleared { namespace: 1, epoch: 2 }]);
    assert_eq!((cluster.state.pages(), cluster.state.reclaimable()), (0, 6000));
    let pages = records::encode(&[page(7, slot)], 1);
    let late = cluster.session(A, SessionOperation::Publish { namespace: 1, epoch: 1, pages });
    let Outcome::Published { outcomes, .. } = late else { panic!("{late:?}") };
    assert_eq!(outcomes, [PublishOutcome::Cleared]);
    assert_eq!(cluster.publish(A, &[page(7, slot)]), [PublishOutcome::Published]);

    // Most calls end in the middle of a bucket.
    let mut calls = 0;
    let mut left = 6000;
    while left > 0 {
        let reclaimed = cluster.apply(Command::Reclaim { entries_max: 50 });
        let Outcome::Reclaimed { left: now } = reclaimed else { panic!("{reclaimed:?}") };
        assert!(now < left && left - now <= 50);
        assert!(cluster.events.is_empty());
        (left, calls) = (now, calls + 1);
    }
    assert!(calls <= 130, "{calls}");
    assert_eq!(cluster.state.l3_status().published_bytes, 4096);
    assert_eq!(cluster.state.l3_status().resting_bytes, 6000 * 4096);
}

#[test]
fn of_two_machines_with_copies_of_one_state_directory_one_has_the_name() {
    let mut cluster = Cluster::with_slots(64);
    let mut open = |number: u8, incarnation| {
        cluster.apply(Command::OpenSession {
            session: SessionId([number; 16]),
            node: "gpu".into(),
            agent: AgentId([1; 16]),
            incarnation,
            endpoint: format!("machine-{number}"),
        })
    };
    let opened = |number| Outcome::SessionOpened { session: SessionId([number; 16]) };
    assert_eq!(open(100, 7), opened(100));
    assert_eq!(open(101, 9), opened(101), "started later");
    // Neither ends the other's session again and again.
    let (running, refused) = ("machine-101".to_owned(), "machine-102".to_owned());
    assert_eq!(open(102, 8), Outcome::Refused(Refusal::NameTaken { node: "gpu".into(), running, refused }));
    assert_eq!(open(103, 9), opened(103), "the same process asks again");
}

#[test]
fn a_dropped_namespace_is_gone_at_once_and_its_room_comes_back() {
    let mut cluster = Cluster::with_slots(6400);
    cluster.fill(600);
    let slot = cluster.grant(A, 1)[0];
    assert_eq!(cluster.apply(Command::DropNamespace { namespace: 1 }), Outcome::NamespaceDropped { pages: 600 });
    assert_eq!(cluster.events, [Event::NamespaceDropped { namespace: 1 }]);
    assert_eq!((cluster.state.pages(), cluster.state.reclaimable()), (0, 600));
    assert!(cluster.state.namespace(1).is_none());
    let none = Outcome::Refused(Refusal::NoNamespace { namespace: 1 });
    let pages = records::encode(&[page(7, slot)], 1);
    assert_eq!(cluster.session(A, SessionOperation::Publish { namespace: 1, epoch: 1, pages }), none);
    assert_eq!(cluster.apply(Command::DropNamespace { namespace: 1 }), none);
    assert_eq!(cluster.apply(Command::Clear { namespace: 1 }), none);
    while cluster.apply(Command::Reclaim { entries_max: 50 }) != (Outcome::Reclaimed { left: 0 }) {}
    assert_eq!(cluster.state.l3_status().published_bytes, 0);
    // The session still holds its slot, and may use it in the namespace's next life, which begins empty under a new id.
    let namespace = Box::new(Namespace::simple("m", 16, vec![4096]));
    let registered = cluster.apply(Command::RegisterNamespace { namespace });
    assert_eq!(registered, Outcome::NamespaceRegistered { namespace: 2, epoch: 1, slot_bytes: 4096 });
    let pages = records::encode(&[page(7, slot)], 1);
    let published = cluster.session(A, SessionOperation::Publish { namespace: 2, epoch: 1, pages });
    assert!(matches!(published, Outcome::Published { ref outcomes, .. } if outcomes == &[PublishOutcome::Published]));
}

#[test]
fn names_with_a_version_in_them_run_out_of_nothing() {
    let mut cluster = Cluster::with_slots(64);
    for version in 0..NAMESPACES_MAX as u32 + 100 {
        let namespace = Box::new(Namespace::simple(&format!("model-{version}"), 16, vec![4096]));
        let Outcome::NamespaceRegistered { namespace, .. } = cluster.apply(Command::RegisterNamespace { namespace })
        else {
            panic!("version {version}")
        };
        assert_eq!(namespace, version + 2);
        cluster.apply(Command::DropNamespace { namespace });
    }
    assert_eq!(cluster.state.namespaces().count(), 1);
}

#[test]
fn one_tick_releases_only_so_many_slots() {
    let mut cluster = Cluster::with_slots(20_000);
    cluster.fill(9000);
    cluster.delete_oldest(9000);
    cluster.tick(READ_REST_MS);
    assert_eq!(cluster.state.l3_status().resting_bytes / 4096, 9000 - 8192);
    cluster.tick(0);
    assert_eq!(cluster.state.l3_status().resting_bytes, 0);
}

#[test]
fn a_suspicion_needs_a_second_agent() {
    let mut cluster = Cluster::with_slots(6400);
    let second = cluster.open("b");
    let slot = cluster.grant(A, 1)[0];
    cluster.publish(A, &[page(1, slot)]);
    assert_eq!(cluster.suspect(A, 1, slot), SuspectOutcome::Noted);
    assert_eq!(cluster.suspect(A, 1, slot), SuspectOutcome::Noted);
    cluster.tick(SUSPICION_ALONE_MS);
    assert_eq!(cluster.state.pages(), 1);
    assert_eq!(cluster.suspect(second, 1, SlotRef { generation: 9, ..slot }), SuspectOutcome::Void);
    assert_eq!(cluster.suspect(second, 1, slot), SuspectOutcome::Retired);
    let retired = Event::Retired { namespace: 1, key: page_key(1), slot, reason: RetireReason::Suspect };
    assert_eq!(cluster.events, [retired]);
    assert_eq!(cluster.use_of(slot), SlotState::Resting);
    assert_eq!(cluster.suspect(second, 1, slot), SuspectOutcome::Void);
}

#[test]
fn an_unconfirmed_suspicion_is_dropped_in_time() {
    let mut cluster = Cluster::with_slots(6400);
    cluster.open("b");
    let slot = cluster.grant(A, 1)[0];
    cluster.publish(A, &[page(1, slot)]);
    assert_eq!(cluster.suspect(A, 1, slot), SuspectOutcome::Noted);
    cluster.tick(SUSPICION_KEPT_MS);
    assert_eq!(cluster.state.session(A).unwrap().suspicions, 0);
    assert_eq!(cluster.state.pages(), 1);
}

#[test]
fn the_only_agent_is_believed_after_a_while() {
    let mut cluster = Cluster::with_slots(6400);
    let slots = cluster.grant(A, 2);
    cluster.publish(A, &[page(1, slots[0]), page(2, slots[1])]);
    assert_eq!(cluster.suspect(A, 1, slots[0]), SuspectOutcome::Noted);
    cluster.tick(SUSPICION_ALONE_MS - 1);
    assert_eq!(cluster.suspect(A, 1, slots[0]), SuspectOutcome::Noted);
    cluster.tick(1);
    let retired = Event::Retired { namespace: 1, key: page_key(1), slot: slots[0], reason: RetireReason::Suspect };
    assert_eq!(cluster.events, [retired]);
    assert_eq!(cluster.state.pages(), 1);
}

#[test]
fn an_agent_that_suspects_too_much_is_marked_itself() {
    let mut cluster = Cluster::with_slots(12_800);
    let second = cluster.open("b");
    cluster.fill(SUSPICIONS_PER_SESSION_MAX.into());
    let slot = cluster.grant(A, 1)[0];
    cluster.publish(A, &[page(900, slot)]);
    let slot_of = |cluster: &Cluster, number| cluster.state.location(1, &page_key(number)).unwrap().slot;
    for number in 0..SUSPICIONS_PER_SESSION_MAX.into() {
        let slot = slot_of(&cluster, number);
        assert_eq!(cluster.suspect(A, number, slot), SuspectOutcome::Noted);
    }
    assert!(!cluster.state.session(A).unwrap().suspect_limited);
    assert_eq!(cluster.suspect(A, 900, slot), SuspectOutcome::Void);
    assert!(cluster.state.session(A).unwrap().suspect_limited);
    // Its word does not confirm another's suspicion either.
    assert_eq!(cluster.suspect(second, 900, slot), SuspectOutcome::Noted);
    assert_eq!(cluster.suspect(A, 900, slot), SuspectOutcome::Void);
    cluster.tick(SUSPICION_KEPT_MS);
    assert!(!cluster.state.session(A).unwrap().suspect_limited);
    assert_eq!(cluster.suspect(A, 900, slot), SuspectOutcome::Noted);
}

#[test]
fn a_retire_spares_the_page_that_came_after() {
    let mut cluster = Cluster::with_slots(6400);
    let slots = cluster.grant(A, 2);
    cluster.publish(A, &[page(1, slots[0])]);
    let old = Retirement { namespace: 1, key: page_key(1), slot: slots[0] };
    let retire = |entries| Command::Retire { reason: RetireReason::Evicted, entries };
    assert_eq!(cluster.apply(retire(vec![old, old])), Outcome::Retired { entries: 1 });
    cluster.publish(A, &[page(1, slots[1])]);
    assert_eq!(cluster.apply(retire(vec![old])), Outcome::Retired { entries: 0 });
    assert_eq!(cluster.state.location(1, &page_key(1)).unwrap().slot, slots[1]);
    assert_eq!(cluster.state.parent_of(1, &page_key(1)), Some(page_key(0).parent_hint()));
    let mut present = cluster.state.freeze().into_pages().flatten();
    let page = present.find(|page| page.key == page_key(1)).unwrap();
    assert_eq!((page.namespace, page.parent), (1, page_key(0).parent_hint()));
}

#[test]
fn a_slab_is_dropped_only_when_all_of_it_is_free_and_its_room_is_used_again() {
    let mut cluster = Cluster::with(10, 5);
    let slot = cluster.grant(A, 1)[0];
    let refused = cluster.apply(Command::DropSlabs { slabs: vec![slot.slab] });
    assert!(matches!(refused, Outcome::Refused(Refusal::Invalid(Invalid::Slab { .. }))));
    cluster.session(A, SessionOperation::Abort { unwritten: vec![slot], unknown: vec![] });
    assert_eq!(cluster.apply(Command::DropSlabs { slabs: vec![slot.slab] }), Outcome::Done);
    assert_eq!(cluster.state.slab(slot.slab), None);
    let namespace = Box::new(Namespace::simple("large", 16, vec![40_960]));
    cluster.apply(Command::RegisterNamespace { namespace });
    let granted = cluster.session(A, SessionOperation::Grant { slot_bytes: 40_960, slots: 1 });
    let Outcome::Granted { slots } = granted else { panic!("{granted:?}") };
    let slab = cluster.state.slab(slots[0].slab).unwrap();
    assert_eq!((slab.slab, slab.slots), (slot.slab + 1, 1));
}

#[test]
fn what_cannot_be_is_refused_by_its_field() {
    let mut cluster = Cluster::with_slots(6400);
    let other = Box::new(Namespace::simple("m", 32, vec![4096]));
    let more_bytes = Box::new(Namespace::simple("m", 16, vec![8192]));
    for (other, field) in [(other, "page_tokens"), (more_bytes, "shard_bytes")] {
        let other_page_tokens = field == "page_tokens";
        let registered = Registered { page_tokens: 16, shard_bytes: vec![4096], other_page_tokens };
        let clash = Refusal::OtherGeometry { namespace: 1, registered };
        let told = "expected what is registered as namespace 1: page_tokens 16, shard_bytes [4096]";
        assert_eq!(clash.to_string(), format!("namespace.{field}: {told}"));
        assert_eq!(cluster.apply(Command::RegisterNamespace { namespace: other }), Outcome::Refused(clash));
    }
    let none = Outcome::Refused(Refusal::NoNamespace { namespace: 2 });
    assert_eq!(cluster.apply(Command::Clear { namespace: 2 }), none);
    assert_eq!(cluster.apply(Command::Delete { namespace: 2, keys: vec![] }), none);
    let odd = cluster.session(A, SessionOperation::Grant { slot_bytes: 4097, slots: 1 });
    let Outcome::Refused(refusal @ Refusal::Invalid(Invalid::SlotBytes { found: 4097 })) = odd else {
        panic!("{odd:?}")
    };
    assert_eq!(refusal.to_string(), "slot_bytes: expected the slot size of a registered namespace, got 4097");
    let many = cluster.session(A, SessionOperation::Grant { slot_bytes: 4096, slots: 5000 });
    assert_eq!(many, Outcome::Refused(Refusal::TooMany(Limit::GrantedSlots)));
    assert_eq!(Refusal::TooMany(Limit::GrantedSlots).to_string(), "slots: expected at most 4096");
    let pages = Bytes::from(vec![0; 44 * 1025]);
    let many = cluster.session(A, SessionOperation::Publish { namespace: 1, epoch: 1, pages });
    assert_eq!(many, Outcome::Refused(Refusal::TooMany(Limit::PublishedPages)));
}

/// A refusal is a value, and an empty entry is one too: the next valid command works.
#[test]
fn an_entry_may_be_empty() {
    let mut cluster = Cluster::with_slots(6400);
    let digest = cluster.state.digest();
    cluster.state.finish_entry(90);
    assert_eq!(cluster.state.revision(), 90);
    assert_ne!(cluster.state.digest(), digest, "the digest is of a revision");
    assert_eq!(cluster.grant(A, 1).len(), 1);
}
