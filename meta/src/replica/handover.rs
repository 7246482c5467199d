//! Moving leadership to a chosen voter. openraft has no transfer: the leader takes no more proposals, lets the voter
//! catch up, falls silent for a lease, so that the others may vote for somebody else, and asks the voter to stand.

use std::time::Duration;

use foreword_proto::bad_input::status_for;
use foreword_proto::wire::raft as wire;
use foreword_seams::{Marker, sometimes};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status};

use super::group::Group;
use super::newcomer::matched;
use super::unavailable::not_leader;
use crate::network::Peer;

/// The voter lacks no more than it gets in this time, or leadership stays.
const CATCH_UP: Duration = Duration::from_secs(5);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Somebody leads by then, or this replica goes on.
const ELECTION: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// While this lives the leader proposes nothing.
struct Silence<'a>(&'a Group);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.raft.runtime_config().heartbeat(true);
        self.0.take_proposals(true);
    }
}

/// Moves leadership from this replica to the voter `to`. Who leads now: another than `to` may have been faster.
/// `lease`: for how long the others vote for nobody else after they heard the leader.
///
/// Errors: NOT_FOUND when it is no voter; FAILED_PRECONDITION when it is behind; DEADLINE_EXCEEDED when nobody else
/// came to lead: this replica goes on.
pub(crate) async fn hand_over(group: &Group, to: u64, lease: Duration) -> Result<u64, Status> {
    let term = group.leading_term().ok_or_else(not_leader)?;
    let peer = voter(group, to)?;
    if to == group.replica_id {
        return Ok(to);
    }
    group.take_proposals(false);
    let _silence = Silence(group);
    let until = Instant::now() + CATCH_UP;
    while matched(group, to).ok_or_else(not_leader)? < last_index(group) {
        if Instant::now() >= until {
            let message = format!("to: expected a voter that has everything, replica {to} is behind");
            return Err(status_for(Code::FailedPrecondition, "to", message));
        }
        sleep(LOOK).await;
    }
    group.raft.runtime_config().heartbeat(false);
    sleep(lease + LOOK).await;
    let mut client = group.peers.raft_client(&peer);
    match timeout(ASK_TIMEOUT, client.stand(wire::StandRequest { term })).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => return Err(stays(to, status.message())),
        Err(_) => return Err(stays(to, "no answer in time")),
    }
    let mut metrics = group.raft.metrics();
    let elected = metrics.wait_for(|metrics| metrics.current_term > term && metrics.current_leader.is_some());
    match timeout_at(Instant::now() + ELECTION, elected).await {
        Ok(Ok(metrics)) => {
            let leader = metrics.current_leader.unwrap_or_default();
            if leader == to {
                sometimes(Marker::LeadershipMoved);
            }
            Ok(leader)
        }
        _ => Err(stays(to, "nobody was elected")),
    }
}

fn stays(to: u64, why: &str) -> Status {
    Status::deadline_exceeded(format!("leadership stays where it was, replica {to} did not take it: {why}"))
}

fn voter(group: &Group, id: u64) -> Result<Peer, Status> {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow();
    let membership = metrics.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    match membership.get_node(&id).filter(|_| voters.contains(&id)) {
        Some(member) => Ok(Peer::member(id, member)),
        None => Err(status_for(Code::NotFound, "to", format!("to: expected one of {voters:?}, got {id}"))),
    }
}

fn last_index(group: &Group) -> Option<u64> {
    group.raft.metrics().borrow().last_log_index
}

/// What the leader of `term` asks of the one that is to follow it.
///
/// Errors: FAILED_PRECONDITION when this replica follows somebody else.
pub(crate) async fn stand(group: &Group, leader: u64, term: u64) -> Result<(), Status> {
    let (led_by, current) = {
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow();
        (metrics.current_leader, metrics.current_term)
    };
    if (led_by, current) != (Some(leader), term) {
        let message = format!("term: expected {current}, in which {led_by:?} leads, replica {leader} says {term}");
        return Err(status_for(Code::FailedPrecondition, "term", message));
    }
    group.raft.trigger().elect().await.map_err(|error| Status::unavailable(error.to_string()))
}
