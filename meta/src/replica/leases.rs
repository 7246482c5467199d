//! Leases of agents' sessions: who renewed when, by the leader's own clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::SessionId;
use foreword_seams::{Marker, Telemetry, sometimes};
use metrics::Counter;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::beat::Beat;
use super::clock::LeaderClock;
use super::duties::Duty;
use super::group::Group;
use crate::state::command::Command;

/// The part of a lease that this process may miss before all sessions are credited with what it missed: 1/4.
const LATE_PART: u32 = 4;

/// Times that leases go by.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTimes {
    pub lease: Duration,
    /// The longest election timeout.
    pub election: Duration,
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Renewed,
    /// This replica does not lead, or knows no such session.
    Unknown,
    /// Another may lead by now, and give the session's slots to others: the agent must not rely on this replica.
    NoQuorum,
}

/// Ends sessions whose lease ran out. Nothing here is replicated: a new leader gives every session a whole lease.
pub struct Leases {
    group: Arc<Group>,
    clock: Arc<LeaderClock>,
    times: LeaseTimes,
    beat: Arc<Beat>,
    renewed: Mutex<BTreeMap<SessionId, Instant>>,
    expired: Counter,
}

impl Leases {
    /// Leases of one replica's group; they rest while another leads.
    pub fn new(group: Arc<Group>, clock: Arc<LeaderClock>, times: LeaseTimes, telemetry: &Telemetry) -> Self {
        let expired = telemetry.counter("foreword_meta_sessions_expired_total", "Sessions whose lease ran out");
        let beat = Arc::new(Beat::new(times.lease / LATE_PART));
        Self { group, clock, times, beat, renewed: Mutex::default(), expired }
    }

    /// What tells these leases of time that the process missed; somebody must run it.
    pub fn beat(&self) -> Arc<Beat> {
        self.beat.clone()
    }

    /// Notes a renewal.
    pub fn renew(&self, session: SessionId) -> Renewal {
        if self.clock.term().is_none() || self.group.applied.peek(|state| state.session(session).is_none()) {
            return Renewal::Unknown;
        }
        if !self.group.quorum_heard_within(self.times.election) {
            sometimes(Marker::RenewalFoundNoQuorum);
            return Renewal::NoQuorum;
        }
        self.renewed.lock().insert(session, Instant::now());
        Renewal::Renewed
    }
}

impl Duty for Leases {
    fn take_office(&self, _term: u64) {
        self.renewed.lock().clear();
    }

    fn leave_office(&self) {}

    fn commands(&self, _now_ms: u64) -> Vec<Command> {
        let now = Instant::now();
        let missed = self.beat.missed();
        if !self.group.quorum_heard_within(self.times.election) {
            // Nobody is renewed meanwhile, through no fault of theirs: each has a whole lease from when a quorum is
            // heard again.
            self.renewed.lock().clear();
            return Vec::new();
        }
        let open: Vec<SessionId> = self.group.applied.read(|state| state.sessions().map(|s| s.id).collect());
        let mut renewed = self.renewed.lock();
        renewed.retain(|session, _| open.binary_search(session).is_ok());
        if !missed.is_zero() {
            // Whoever renewed meanwhile was not heard.
            sometimes(Marker::LeasesCredited);
            tracing::warn!(
                missed_ms = missed.as_millis() as u64,
                "this process did not run: sessions are credited with that"
            );
            renewed.values_mut().for_each(|renewed| *renewed = (*renewed + missed).min(now));
        }
        let mut expired = Vec::new();
        for session in open {
            // A session this leader has not heard of yet has a whole lease from now.
            let renewed = *renewed.entry(session).or_insert(now);
            if now.duration_since(renewed) > self.times.lease {
                sometimes(Marker::SessionExpired);
                expired.push(Command::EndSession { session });
            }
        }
        self.expired.increment(expired.len() as u64);
        expired
    }
}
