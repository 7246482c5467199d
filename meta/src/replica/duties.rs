//! What the leader does beside answering: time, leases, eviction, reclaiming. Only its decisions are proposed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::{EntryKey, Epoch, NamespaceId, RetireReason, SessionId};
use foreword_seams::{Marker, Telemetry, sometimes};
use metrics::Counter;
use openraft::ServerState;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::checked::Author;
use super::clock::LeaderClock;
use super::group::{Group, encode_commands};
use crate::eviction::{EntryId, LeafLru, Watermarks};
use crate::hf3fs;
use crate::state::command::{Command, Retirement};

/// How often the leader looks.
const ROUND: Duration = Duration::from_millis(20);
/// A tick is committed at least this often, so that a new leader's time starts close to the old one's.
const TICK_MAX: Duration = Duration::from_secs(1);
/// A decision that found no quorum is dropped; the next round decides anew.
const DECISION_DEADLINE: Duration = Duration::from_secs(2);
const RETIRE_ENTRIES_MAX: usize = 4096;
const RECLAIM_ENTRIES_MAX: u32 = 4096;
/// A new leader evicts once every live agent has reported heat, or after this.
const HEAT_WAIT_MAX: Duration = Duration::from_secs(10);

/// The leader's memory: who renewed when, who reported heat. Nothing here is replicated.
pub struct Duties {
    group: Arc<Group>,
    clock: Arc<LeaderClock>,
    watermarks: Watermarks,
    lease: Duration,
    /// The leader's part of SGLang's page files.
    page_files: Arc<hf3fs::Leader>,
    office: Mutex<Office>,
    expired: Counter,
    evicted: Counter,
}

#[derive(Default)]
struct Office {
    renewed: BTreeMap<SessionId, Instant>,
    reported: BTreeSet<SessionId>,
    last_tick: Option<Instant>,
}

impl Duties {
    /// Duties of one replica; they rest while another leads.
    pub fn new(
        group: Arc<Group>,
        clock: Arc<LeaderClock>,
        watermarks: Watermarks,
        lease: Duration,
        page_files: Arc<hf3fs::Leader>,
        telemetry: &Telemetry,
    ) -> Self {
        let expired = telemetry.counter("foreword_meta_sessions_expired_total", "Sessions whose lease ran out");
        let evicted = telemetry.counter("foreword_meta_pages_evicted_total", "Pages the leader decided to evict");
        Self { group, clock, watermarks, lease, page_files, office: Mutex::default(), expired, evicted }
    }

    /// Runs until the task is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if self.in_office() {
                self.round().await;
            }
        }
    }

    /// Notes a renewal. False: this replica does not lead, or there is no such session.
    pub fn renew(&self, session: SessionId) -> bool {
        if self.clock.term().is_none() || self.group.applied.read(|state| state.session(session).is_none()) {
            return false;
        }
        self.office.lock().renewed.insert(session, Instant::now());
        true
    }

    /// Takes an agent's report of accesses, oldest first.
    pub fn heat(&self, session: SessionId, namespace: NamespaceId, epoch: Epoch, keys: &[EntryKey]) {
        let heated: Vec<_> = keys.iter().map(|key| (EntryId { namespace, epoch, key: *key }, 1)).collect();
        self.group.applied.with_policy(|policy, _| policy.heat(&heated));
        if self.office.lock().reported.insert(session) {
            sometimes(Marker::HeatReachedNewLeader);
        }
    }

    /// Follows elections. What was committed before and is not applied yet does no harm: a tick that is behind the committed one is
    /// ignored, and a session that is not known here yet has a whole lease once it is.
    fn in_office(&self) -> bool {
        let metrics = self.group.raft.metrics().borrow().clone();
        let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(self.group.replica_id);
        if !leads {
            if self.clock.term().is_some() {
                sometimes(Marker::LeaderDeposed);
                self.clock.leave_office();
                self.page_files.leave_office();
                self.group.applied.stop_policy();
            }
            return false;
        }
        if self.clock.term() != Some(metrics.current_term) {
            sometimes(Marker::ElectionWon);
            let tick_ms = self.group.applied.read(|state| state.tick_ms());
            self.clock.take_office(metrics.current_term, tick_ms);
            *self.office.lock() = Office::default();
            self.page_files.take_office(metrics.current_term);
            self.group.applied.start_policy(Box::new(LeafLru::new()));
            tracing::info!(term = metrics.current_term, tick_ms, "took office");
        }
        true
    }

    async fn round(&self) {
        let mut commands = self.expire_sessions();
        if self.group.applied.read(|state| state.reclaimable()) > 0 {
            commands.push(Command::Reclaim { entries_max: RECLAIM_ENTRIES_MAX });
        }
        commands.extend(self.evict());
        commands.extend(self.page_files.duties());
        if commands.is_empty() && !self.tick_is_due() {
            return;
        }
        self.office.lock().last_tick = Some(Instant::now());
        // An entry without commands of its own still carries its leading tick.
        let encoded = encode_commands(&commands);
        if let Err(error) = self.group.propose_here(encoded, Author::Leader, Instant::now() + DECISION_DEADLINE).await {
            tracing::debug!(%error, "a decision of the leader was not committed");
        }
    }

    /// Something rests and could be released, or the committed time is old.
    fn tick_is_due(&self) -> bool {
        let Some(now_ms) = self.clock.now_ms() else { return false };
        let release = self.group.applied.read(|state| state.next_release_ms());
        if release.is_some_and(|at_ms| at_ms <= now_ms) {
            return true;
        }
        self.office.lock().last_tick.is_none_or(|last| last.elapsed() >= TICK_MAX)
    }

    /// Ends sessions that have not renewed for a whole lease of this leader's time.
    fn expire_sessions(&self) -> Vec<Command> {
        let now = Instant::now();
        let open: Vec<SessionId> = self.group.applied.read(|state| state.sessions().map(|s| s.id).collect());
        let mut office = self.office.lock();
        office.renewed.retain(|session, _| open.binary_search(session).is_ok());
        let mut expired = Vec::new();
        for session in open {
            // A session this leader has not heard of yet has a whole lease from now.
            let renewed = *office.renewed.entry(session).or_insert(now);
            if now.duration_since(renewed) > self.lease {
                sometimes(Marker::SessionExpired);
                expired.push(Command::EndSession { session });
            }
        }
        self.expired.increment(expired.len() as u64);
        expired
    }

    /// Retires cold pages where a class of slots runs out of room.
    fn evict(&self) -> Vec<Command> {
        if !self.heat_is_known() {
            sometimes(Marker::EvictionAwaitedHeat);
            return Vec::new();
        }
        let decided = self.group.applied.with_policy(|policy, state| {
            let mut retirements: Vec<Retirement> = Vec::new();
            for class in state.classes() {
                let need = self.watermarks.slots_to_free(&class) as usize;
                if need > 0 {
                    let need = need.min(RETIRE_ENTRIES_MAX - retirements.len());
                    retirements.extend(policy.victims(state, class.slot_bytes, need));
                }
            }
            retirements
        });
        let entries = decided.unwrap_or_default();
        if entries.is_empty() {
            return Vec::new();
        }
        self.evicted.increment(entries.len() as u64);
        vec![Command::Retire { reason: RetireReason::Evicted, entries }]
    }

    fn heat_is_known(&self) -> bool {
        let Some(in_office) = self.clock.in_office() else { return false };
        if in_office >= HEAT_WAIT_MAX {
            return true;
        }
        let office = self.office.lock();
        self.group.applied.read(|state| state.sessions().all(|session| office.reported.contains(&session.id)))
    }
}
