//! What the leader does beside answering, round by round. Only its decisions are proposed.

use std::sync::Arc;
use std::time::Duration;

use foreword_seams::{Marker, sometimes};
use openraft::ServerState;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::checked::Author;
use super::clock::LeaderClock;
use super::group::{Group, encode_commands};
use crate::state::command::Command;

/// How often the leader looks.
const ROUND: Duration = Duration::from_millis(20);
/// A tick is committed at least this often, so that a new leader's time starts close to the old one's.
const TICK_MAX: Duration = Duration::from_secs(1);
/// A decision that found no quorum is dropped; the next round decides anew.
const DECISION_DEADLINE: Duration = Duration::from_secs(2);

/// One of the leader's chores. What it remembers is its own and is not replicated; what it decides is proposed for it.
pub trait Duty: Send + Sync {
    /// This replica was elected in `term`: nothing that an earlier office knew holds.
    fn take_office(&self, term: u64);

    /// This replica leads no more.
    fn leave_office(&self);

    /// What is to be proposed now; `now_ms` is the leader's time. Asked again only when the answer before was applied,
    /// or given up.
    fn commands(&self, now_ms: u64) -> Vec<Command>;

    /// Whether the leader's time alone would change something, without a command.
    fn tick_is_due(&self, _now_ms: u64) -> bool {
        false
    }
}

/// The duties of one replica; they rest while another leads.
pub struct Duties {
    group: Arc<Group>,
    clock: Arc<LeaderClock>,
    duties: Vec<Arc<dyn Duty>>,
    last_tick: Option<Instant>,
}

impl Duties {
    /// These duties; each round asks them in this order.
    pub fn new(group: Arc<Group>, clock: Arc<LeaderClock>, duties: Vec<Arc<dyn Duty>>) -> Self {
        Self { group, clock, duties, last_tick: None }
    }

    /// Runs until the task is dropped.
    pub async fn run(mut self) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if self.in_office() {
                self.round().await;
            }
        }
    }

    /// Follows elections. What was committed before and is not applied yet does no harm: a tick that is behind the
    /// committed one is ignored, and a session that is not known here yet has a whole lease once it is.
    fn in_office(&mut self) -> bool {
        let metrics = self.group.raft.metrics().borrow().clone();
        let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(self.group.replica_id);
        if !leads {
            if self.clock.term().is_some() {
                sometimes(Marker::LeaderDeposed);
                self.clock.leave_office();
                self.duties.iter().for_each(|duty| duty.leave_office());
            }
            return false;
        }
        if self.clock.term() != Some(metrics.current_term) {
            sometimes(Marker::ElectionWon);
            let tick_ms = self.group.applied.read(|state| state.tick_ms());
            self.clock.take_office(metrics.current_term, tick_ms);
            self.last_tick = None;
            self.duties.iter().for_each(|duty| duty.take_office(metrics.current_term));
            tracing::info!(term = metrics.current_term, tick_ms, "took office");
        }
        true
    }

    async fn round(&mut self) {
        let Some(now_ms) = self.clock.now_ms() else { return };
        let commands: Vec<Command> = self.duties.iter().flat_map(|duty| duty.commands(now_ms)).collect();
        if commands.is_empty() && !self.tick_is_due(now_ms) {
            return;
        }
        self.last_tick = Some(Instant::now());
        // An entry without commands of its own still carries its leading tick.
        let encoded = encode_commands(&commands);
        if let Err(error) = self.group.propose_here(encoded, Author::Leader, Instant::now() + DECISION_DEADLINE).await {
            tracing::debug!(%error, "a decision of the leader was not committed");
        }
    }

    /// A duty waits for the time, or the committed time is old.
    fn tick_is_due(&self, now_ms: u64) -> bool {
        self.duties.iter().any(|duty| duty.tick_is_due(now_ms))
            || self.last_tick.is_none_or(|last| last.elapsed() >= TICK_MAX)
    }
}
