//! The leader's duty to make room: asks its policy which pages leave, once it knows what agents ask for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::{EntryKey, Epoch, NamespaceId, RetireReason, SessionId};
use foreword_seams::{Marker, Telemetry, sometimes};
use metrics::Counter;
use parking_lot::Mutex;

use super::{EntryId, EvictionPolicy, LeafLru, Watermarks};
use crate::replica::applied::Applied;
use crate::replica::clock::LeaderClock;
use crate::replica::duties::Duty;
use crate::replica::observer::{EntryEvents, Observer};
use crate::state::State;
use crate::state::command::{Command, Retirement};

const RETIRE_ENTRIES_MAX: usize = 4096;
/// A new leader evicts once every live agent has reported heat, or after this.
const HEAT_WAIT_MAX: Duration = Duration::from_secs(10);

/// The leader's policy, which follows what is applied; none while another leads. Its lock comes after the applied state's.
#[derive(Default)]
pub struct LeaderPolicy {
    policy: Mutex<Option<Box<dyn EvictionPolicy>>>,
}

impl Observer for LeaderPolicy {
    fn applied(&self, _state: &State, entry: &Arc<EntryEvents>) {
        if entry.events.is_empty() {
            return;
        }
        if let Some(policy) = self.policy.lock().as_mut() {
            entry.events.iter().for_each(|event| policy.observe(event));
        }
    }

    fn replaced(&self, state: &State) {
        if let Some(policy) = self.policy.lock().as_mut() {
            policy.rebuild(state);
        }
    }
}

/// Retires cold pages where a class of slots runs out of room.
pub struct Evictor {
    applied: Arc<Applied>,
    clock: Arc<LeaderClock>,
    watermarks: Watermarks,
    policy: Arc<LeaderPolicy>,
    /// Sessions that reported heat to this leader.
    reported: Mutex<BTreeSet<SessionId>>,
    evicted: Counter,
}

impl Evictor {
    /// Evicts by `policy`, which is one of the observers of `applied`.
    pub fn new(
        applied: Arc<Applied>,
        clock: Arc<LeaderClock>,
        watermarks: Watermarks,
        policy: Arc<LeaderPolicy>,
        telemetry: &Telemetry,
    ) -> Self {
        let evicted = telemetry.counter("foreword_meta_pages_evicted_total", "Pages the leader decided to evict");
        Self { applied, clock, watermarks, policy, reported: Mutex::default(), evicted }
    }

    /// Takes an agent's report of accesses, oldest first.
    pub fn heat(&self, session: SessionId, namespace: NamespaceId, epoch: Epoch, keys: &[EntryKey]) {
        let heated: Vec<_> = keys.iter().map(|key| EntryId { namespace, epoch, key: *key }).collect();
        if let Some(policy) = self.policy.policy.lock().as_mut() {
            policy.heat(&heated);
        }
        if self.reported.lock().insert(session) {
            sometimes(Marker::HeatReachedNewLeader);
        }
    }

    fn heat_is_known(&self) -> bool {
        let Some(in_office) = self.clock.in_office() else { return false };
        if in_office >= HEAT_WAIT_MAX {
            return true;
        }
        let reported = self.reported.lock();
        self.applied.read(|state| state.sessions().all(|session| reported.contains(&session.id)))
    }

    fn victims(&self) -> Vec<Retirement> {
        self.applied.read(|state| {
            let mut retirements = Vec::new();
            let mut policy = self.policy.policy.lock();
            let Some(policy) = policy.as_mut() else { return retirements };
            for class in state.classes() {
                let need = self.watermarks.slots_to_free(&class) as usize;
                if need > 0 {
                    let need = need.min(RETIRE_ENTRIES_MAX - retirements.len());
                    retirements.extend(policy.victims(state, class.slot_bytes, need));
                }
            }
            retirements
        })
    }
}

impl Duty for Evictor {
    fn take_office(&self, _term: u64) {
        self.reported.lock().clear();
        let mut policy = LeafLru::new();
        // Read-locked, the state does not move on between what the policy starts from and the first event it is told.
        self.applied.read(|state| {
            policy.rebuild(state);
            *self.policy.policy.lock() = Some(Box::new(policy));
        });
    }

    fn leave_office(&self) {
        *self.policy.policy.lock() = None;
    }

    fn commands(&self, _now_ms: u64) -> Vec<Command> {
        if !self.heat_is_known() {
            sometimes(Marker::EvictionAwaitedHeat);
            return Vec::new();
        }
        let entries = self.victims();
        if entries.is_empty() {
            return Vec::new();
        }
        self.evicted.increment(entries.len() as u64);
        vec![Command::Retire { reason: RetireReason::Evicted, entries }]
    }
}
