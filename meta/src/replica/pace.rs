//! A slow disk is no dead leader.
//!
//! openraft's core waits for each flush of the log before it does anything else. Meanwhile a leader shows itself to
//! nobody, and a follower hears nobody. With flushes of some 100 ms each of them would take the other for dead. So,
//! while a flush lasts:
//!
//! - a leader's heartbeats go out from here ([`Peers::show_leader`]);
//! - nobody stands for election: what a replica has not heard waits in its own queue.
//!
//! A flush that lasts longer than [`STALLED`] is a disk that may never answer: its leader falls silent. And a leader
//! whose flushes are long while a follower's are short falls silent for one election: the followers choose another.

use std::sync::Arc;
use std::time::Duration;

use foreword_seams::{Marker, sometimes};
use openraft::ServerState;
use tokio::time::{Instant, sleep};

use super::group::Group;
use super::rejoin::Standing;
use crate::consensus::types::Vote;
use crate::network::Peers;
use crate::storage::LogReader;

/// A leader that flushes for so long shows itself no more.
const STALLED: Duration = Duration::from_secs(2);
/// A leader whose median flush takes so long hands over to a follower that acknowledges in half the time.
const SLOW: Duration = Duration::from_millis(200);
/// Over what it is measured.
const WINDOW: Duration = Duration::from_secs(10);
const FLUSHES_MIN: usize = 5;
/// How long a leader that hands over is silent at most, and how long it does not try again.
const SILENCE_MAX: Duration = Duration::from_secs(5);
const NOT_AGAIN_FOR: Duration = Duration::from_secs(60);

/// What is watched.
pub(crate) struct Pace {
    pub(crate) group: Arc<Group>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) log: LogReader,
    pub(crate) standing: Arc<Standing>,
    /// How often a leader shows itself.
    pub(crate) heartbeat: Duration,
    /// After a flush, what has come meanwhile is handled before anybody stands for election.
    pub(crate) settle: Duration,
}

impl Pace {
    /// Watches for as long as the replica runs.
    pub(crate) async fn keep(self) {
        let mut long_flush: Option<Instant> = None;
        let mut handed_over: Option<Instant> = None;
        loop {
            sleep(self.heartbeat).await;
            let under_way = self.log.flushes().under_way();
            if under_way >= self.heartbeat {
                long_flush = Some(Instant::now());
            }
            let steady = long_flush.is_none_or(|at| at.elapsed() >= self.settle);
            self.group.raft.runtime_config().elect(steady && self.standing.may_vote());
            let Some(vote) = self.leads() else { continue };
            if (self.heartbeat..STALLED).contains(&under_way) {
                self.show_leader(vote);
            }
            if handed_over.is_none_or(|at| at.elapsed() >= NOT_AGAIN_FOR)
                && let Some((own, follower)) = self.too_slow()
            {
                handed_over = Some(Instant::now());
                sometimes(Marker::SlowLeaderYielded);
                tracing::warn!(
                    ?own,
                    ?follower,
                    "flushes are slow here and fast at a follower: handing leadership over"
                );
                self.hand_over().await;
            }
        }
    }

    /// The vote by which this replica leads.
    fn leads(&self) -> Option<Vote> {
        let metrics = self.group.raft.metrics();
        let metrics = metrics.borrow();
        (metrics.state == ServerState::Leader).then_some(metrics.vote)
    }

    fn show_leader(&self, vote: Vote) {
        let metrics = self.group.raft.metrics();
        let membership = metrics.borrow().membership_config.clone();
        for (id, member) in membership.nodes().filter(|(id, _)| **id != self.group.replica_id) {
            self.peers.clone().show_leader(*id, member, vote);
        }
    }

    /// Median flush here, and the median acknowledgement of the fastest follower, when this leader is one to be
    /// replaced.
    fn too_slow(&self) -> Option<(Duration, Duration)> {
        let own = self.log.flushes().median(WINDOW, FLUSHES_MIN).filter(|own| *own >= SLOW)?;
        let voters = self.group.raft.metrics().borrow().membership_config.voter_ids().collect();
        let follower = self.peers.fastest_acknowledgement(&voters, WINDOW, FLUSHES_MIN)?;
        (follower * 2 <= own).then_some((own, follower))
    }

    /// Is silent until another one leads, or for long enough that one could have been chosen.
    async fn hand_over(&self) {
        self.group.raft.runtime_config().heartbeat(false);
        self.peers.be_silent(true);
        let mut metrics = self.group.raft.metrics();
        let replaced = metrics.wait_for(|metrics| metrics.state != ServerState::Leader);
        let _ = tokio::time::timeout(SILENCE_MAX, replaced).await;
        self.peers.be_silent(false);
        // A replica that diverged meanwhile stays silent.
        self.group.raft.runtime_config().heartbeat(self.standing.may_vote());
    }
}
