//! The policy beside a state that moves on.

use std::collections::BTreeSet;

use foreword_proto::location::{Checksums, Location};
use foreword_proto::records::{self, PageRecord};
use foreword_proto::{AgentId, EntryKey, Namespace, SessionId, SlotRef};
use foreword_seams::runner::Work;
use foreword_seams::{Runner, on_a_task};
use openraft::{CommittedLeaderId, LogId};
use parking_lot::Mutex;

use super::super::desk::Need;
use super::*;
use crate::replica::applied::Position;
use crate::state::command::{ClusterSettings, Command, Outcome, SessionOperation};

const SESSION: SessionId = SessionId([1; 16]);
const SLOT_BYTES: u64 = 4096;

/// A state, and the policies that follow it.
struct Site {
    applied: Arc<Applied>,
    stop: CancellationToken,
    index: u64,
    sequence: u64,
}

fn policy(runner: Runner, feed_bytes_max: usize) -> Policy {
    Policy::new(PolicyPlace { runner, feed_bytes_max }, &Telemetry::new())
}

/// Keeps work that nobody does.
fn idle(kept: &Arc<Mutex<Vec<Work>>>) -> Runner {
    let kept = kept.clone();
    Arc::new(move |work| {
        kept.lock().push(work);
        Ok(())
    })
}

impl Site {
    /// With room for 1,000 pages of namespace 1, and a session.
    fn new(policies: &[&Policy]) -> Self {
        let settings = ClusterSettings {
            chunk_bytes: 4096,
            slab_bytes: 1000 * SLOT_BYTES,
            l3_bytes: 1000 * SLOT_BYTES,
            read_rest_ms: 0,
            write_rest_ms: 0,
            first_feature_level: 1,
            hf3fs_protection_ms: 30_000,
            lease_ms: 1000,
        };
        let observers = policies.iter().map(|policy| policy.observer()).collect();
        let applied = Arc::new(Applied::new(State::new(settings), Position::default(), observers, &Telemetry::new()));
        let mut site = Self { applied, stop: CancellationToken::new(), index: 0, sequence: 0 };
        for policy in policies {
            let (failing, _) = Failing::new();
            policy.start(site.applied.clone(), &Telemetry::new(), (failing, site.stop.clone())).unwrap();
        }
        site.apply(Command::OpenSession {
            session: SESSION,
            node: "a".into(),
            agent: AgentId([1; 16]),
            incarnation: 1,
            endpoint: String::new(),
        });
        site.apply(Command::RegisterNamespace { namespace: Box::new(Namespace::simple("n", 16, vec![SLOT_BYTES])) });
        site
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let log_id = LogId::new(CommittedLeaderId::new(1, 1), self.index);
        self.applied.apply_commands(log_id, &[command]).remove(0)
    }

    fn session(&mut self, operation: SessionOperation) -> Outcome {
        self.sequence += 1;
        self.apply(Command::Session { session: SESSION, sequence: self.sequence, operation })
    }

    /// Publishes these pages, each the child of the one before, in one entry.
    fn publish(&mut self, numbers: std::ops::Range<u64>) {
        let mut slots: Vec<SlotRef> = Vec::new();
        let wanted = numbers.clone().count();
        while slots.len() < wanted {
            let asked = (wanted - slots.len()) as u32;
            let granted = self.session(SessionOperation::Grant { slot_bytes: SLOT_BYTES, slots: asked });
            let Outcome::Granted { slots: more, .. } = granted else { panic!("{granted:?}") };
            assert!(!more.is_empty(), "L3 is full");
            slots.extend(more);
        }
        let pages: Vec<PageRecord> = numbers
            .clone()
            .zip(slots)
            .map(|(number, slot)| PageRecord {
                key: key(number),
                parent: if number == numbers.start { 0 } else { key(number - 1).parent_hint() },
                location: Location { slot, checksums: Checksums::One([1]) },
            })
            .collect();
        let pages = records::encode(&pages, 1);
        let epoch = self.applied.read(|state| state.namespace(1).map_or(0, |info| info.epoch));
        self.session(SessionOperation::Publish { namespace: 1, epoch, pages });
    }

    fn present(&self) -> BTreeSet<EntryKey> {
        let mut keys = BTreeSet::new();
        self.applied.read(|state| state.pages_of(1, |page| _ = keys.insert(page.key)));
        keys
    }

    /// Asks for this many pages, as the leader does.
    fn ask(&self, policy: &Policy, slots: usize) {
        let needs = vec![Need { slot_bytes: SLOT_BYTES, slots }];
        policy.desk.ask(Question { term: 1, revision: self.applied.revision(), needs });
    }

    async fn answer(&self, policy: &Policy) -> Vec<EntryKey> {
        let victims = loop {
            match policy.desk.answer() {
                Some(victims) => break victims,
                None => yield_now().await,
            }
        };
        victims.into_iter().flat_map(|of_class| of_class.pages).map(|page| page.key).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn key(number: u64) -> EntryKey {
    let mut key = [7; 16];
    key[..8].copy_from_slice(&(number + 1).to_le_bytes());
    EntryKey(key)
}

/// Of the chains 0..10, 10..20 and so on, each page comes after its child.
fn is_leaf_first(victims: &[EntryKey]) -> bool {
    let number = |key: &EntryKey| key.parent_hint() - 1;
    let place = |wanted: u64| victims.iter().position(|key| number(key) == wanted);
    victims.iter().enumerate().all(|(at, key)| match number(key) + 1 {
        chain if chain.is_multiple_of(10) => true,
        child => place(child).is_none_or(|below| below < at),
    })
}

#[tokio::test]
async fn applying_goes_on_beside_a_policy_that_stands_still() {
    const FEED_BYTES_MAX: usize = 4096;
    let kept = Arc::default();
    let stuck = policy(idle(&kept), FEED_BYTES_MAX);
    let mut site = Site::new(&[&stuck]);
    stuck.feed.resume();
    for chain in 0..90 {
        site.publish(chain * 10..chain * 10 + 10);
    }
    site.ask(&stuck, 10);
    assert_eq!(site.present().len(), 900);
    assert!(stuck.feed.is_cut(), "what it was not told is not kept for it");
    assert_eq!(stuck.desk.answer(), None);
    // It comes to life.
    let work = kept.lock().pop().unwrap();
    tokio::spawn(work);
    let victims = site.answer(&stuck).await;
    assert_eq!((victims.len(), is_leaf_first(&victims)), (10, true), "{victims:?}");
}

#[tokio::test]
async fn a_policy_that_was_cut_off_knows_what_another_knows_that_was_not() {
    let (tiny, large) = (policy(on_a_task(), 2048), policy(on_a_task(), 1 << 20));
    let mut site = Site::new(&[&tiny, &large]);
    for round in 0..8 {
        site.publish(round * 100..round * 100 + 10);
        yield_now().await;
        for chain in 1..5 {
            let first = round * 100 + chain * 10;
            site.publish(first..first + 10);
        }
        assert!(tiny.feed.is_cut() && !large.feed.is_cut());
        let keys = vec![key(round * 100 + 9), key(round * 100 + 20)];
        site.apply(Command::Delete { namespace: 1, keys });
        if round == 4 {
            site.apply(Command::Clear { namespace: 1 });
            while site.apply(Command::Reclaim { entries_max: 1000 }) != (Outcome::Reclaimed { left: 0 }) {}
        }
    }
    let mut known = Vec::new();
    for policy in [&tiny, &large] {
        site.ask(policy, 1000);
        let victims = site.answer(policy).await;
        assert!(is_leaf_first(&victims), "{victims:?}");
        known.push(victims.into_iter().collect::<BTreeSet<_>>());
    }
    assert_eq!(known[0], known[1]);
    assert_eq!(known[0], site.present());
}

#[tokio::test]
async fn a_question_is_answered_once_the_policy_has_seen_what_its_leader_had() {
    let kept = Arc::default();
    let late = policy(idle(&kept), 1 << 20);
    let mut site = Site::new(&[&late]);
    let work = kept.lock().pop().unwrap();
    tokio::spawn(work);
    site.publish(0..10);
    while late.feed.is_cut() {
        yield_now().await;
    }
    site.publish(10..20);
    site.ask(&late, 100);
    // The policy has seen the first chain only.
    let seen = site.applied.revision() - 1;
    assert_eq!(late.desk.take(seen), None);
    assert_eq!(site.answer(&late).await.into_iter().collect::<BTreeSet<_>>(), site.present());
}
