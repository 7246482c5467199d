//! The leader's duty to make room: asks the policy which pages leave, once it knows what agents ask for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::limits::{RETIREMENTS_PER_COMMAND_MAX, RETIREMENTS_PER_ROUND_MAX};
use foreword_proto::{EntryKey, Epoch, NamespaceId, RetireReason, SessionId};
use foreword_seams::{Marker, Telemetry, sometimes};
use metrics::Counter;
use parking_lot::Mutex;

use super::desk::{Desk, Need, Question, Victims};
use super::reports::{Report, Reports};
use super::{Policy, Watermarks};
use crate::replica::applied::Applied;
use crate::replica::clock::LeaderClock;
use crate::replica::duties::Duty;
use crate::state::command::{Command, Retirement};

/// A new leader evicts once every live agent has reported heat, or after this; before only where there is nothing left
/// to grant.
const HEAT_WAIT_MAX: Duration = Duration::from_secs(10);

/// Retires cold pages where a class of slots runs out of room.
pub struct Evictor {
    applied: Arc<Applied>,
    clock: Arc<LeaderClock>,
    watermarks: Watermarks,
    desk: Arc<Desk>,
    reports: Arc<Reports>,
    /// Sessions that reported heat to this leader.
    reported: Mutex<BTreeSet<SessionId>>,
    evicted: Counter,
}

impl Evictor {
    /// Evicts what `policy` picks.
    pub fn new(
        applied: Arc<Applied>,
        clock: Arc<LeaderClock>,
        watermarks: Watermarks,
        policy: &Policy,
        telemetry: &Telemetry,
    ) -> Self {
        let evicted = telemetry.counter("foreword_meta_pages_evicted_total", "Pages the leader decided to evict");
        let (desk, reports) = (policy.desk.clone(), policy.reports.clone());
        Self { applied, clock, watermarks, desk, reports, reported: Mutex::default(), evicted }
    }

    /// Takes an agent's report of accesses, oldest first.
    pub fn heat(&self, session: SessionId, namespace: NamespaceId, epoch: Epoch, keys: Vec<EntryKey>) {
        self.reports.push(Report { namespace, epoch, keys });
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

    /// What is to be asked of the policy, when `leaving` is about to be proposed; None if there is room.
    ///
    /// Before heat is known a class waits, as long as it has something to grant. After that a page that will be asked
    /// for again is worth less than every publish: the policy goes by the order in which pages were published.
    fn question(&self, leaving: &[Victims]) -> Option<Question> {
        let term = self.clock.term()?;
        let heat_is_known = self.heat_is_known();
        let leaves = |slot_bytes| {
            let of_class = leaving.iter().filter(|victims| victims.slot_bytes == slot_bytes);
            of_class.map(|victims| victims.pages.len()).sum::<usize>()
        };
        let mut room = RETIREMENTS_PER_ROUND_MAX;
        let mut needs = Vec::new();
        let revision = self.applied.read(|state| {
            for class in state.classes() {
                if !heat_is_known && !Watermarks::is_short(&class) {
                    sometimes(Marker::EvictionAwaitedHeat);
                    continue;
                }
                let cleared = state.reclaimable_of(class.slot_bytes);
                let slots = self.watermarks.slots_to_free(&class, cleared) as usize;
                let slots = slots.saturating_sub(leaves(class.slot_bytes)).min(room);
                if slots > 0 {
                    needs.push(Need { slot_bytes: class.slot_bytes, slots });
                    room -= slots;
                }
            }
            state.revision()
        });
        (!needs.is_empty()).then_some(Question { term, revision, needs })
    }
}

impl Duty for Evictor {
    fn take_office(&self, _term: u64) {
        self.reported.lock().clear();
        self.desk.clear();
    }

    fn leave_office(&self) {
        self.desk.clear();
    }

    fn commands(&self, _now_ms: u64) -> Vec<Command> {
        let Some(leaving) = self.desk.answer() else { return Vec::new() };
        // The policy looks for the next ones while these are proposed.
        if let Some(question) = self.question(&leaving) {
            self.desk.ask(question);
        }
        let pages: Vec<Retirement> = leaving.into_iter().flat_map(|victims| victims.pages).collect();
        self.evicted.increment(pages.len() as u64);
        // Each command is applied under one hold of the applied state's lock.
        let retire =
            |entries: &[Retirement]| Command::Retire { reason: RetireReason::Evicted, entries: entries.to_vec() };
        pages.chunks(RETIREMENTS_PER_COMMAND_MAX).map(retire).collect()
    }
}
