//! Leases of agents' sessions: who renewed when, by the leader's own clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::SessionId;
use foreword_seams::{Marker, Telemetry, sometimes};
use metrics::Counter;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::applied::Applied;
use super::clock::LeaderClock;
use super::duties::Duty;
use crate::state::command::Command;

/// Ends sessions whose lease ran out. Nothing here is replicated: a new leader gives every session a whole lease.
pub struct Leases {
    applied: Arc<Applied>,
    clock: Arc<LeaderClock>,
    lease: Duration,
    renewed: Mutex<BTreeMap<SessionId, Instant>>,
    expired: Counter,
}

impl Leases {
    /// Leases of `lease` each; they rest while another leads.
    pub fn new(applied: Arc<Applied>, clock: Arc<LeaderClock>, lease: Duration, telemetry: &Telemetry) -> Self {
        let expired = telemetry.counter("foreword_meta_sessions_expired_total", "Sessions whose lease ran out");
        Self { applied, clock, lease, renewed: Mutex::default(), expired }
    }

    /// Notes a renewal. False: this replica does not lead, or there is no such session.
    pub fn renew(&self, session: SessionId) -> bool {
        if self.clock.term().is_none() || self.applied.read(|state| state.session(session).is_none()) {
            return false;
        }
        self.renewed.lock().insert(session, Instant::now());
        true
    }
}

impl Duty for Leases {
    fn take_office(&self, _term: u64) {
        self.renewed.lock().clear();
    }

    fn leave_office(&self) {}

    fn commands(&self, _now_ms: u64) -> Vec<Command> {
        let now = Instant::now();
        let open: Vec<SessionId> = self.applied.read(|state| state.sessions().map(|s| s.id).collect());
        let mut renewed = self.renewed.lock();
        renewed.retain(|session, _| open.binary_search(session).is_ok());
        let mut expired = Vec::new();
        for session in open {
            // A session this leader has not heard of yet has a whole lease from now.
            let renewed = *renewed.entry(session).or_insert(now);
            if now.duration_since(renewed) > self.lease {
                sometimes(Marker::SessionExpired);
                expired.push(Command::EndSession { session });
            }
        }
        self.expired.increment(expired.len() as u64);
        expired
    }
}
