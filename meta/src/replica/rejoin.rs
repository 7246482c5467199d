//! A replica that lost what it had acknowledged comes back.
//!
//! Not voting is not enough. The replica also forgot which leader it had turned away from: an old leader, which a newer
//! one has replaced with this replica's help, could count it as a follower again and commit over what was committed
//! since. So it first finds out what it may have promised, and is nobody's follower until then
//! (docs/adr/0005-rejoining.md):
//!
//! 1. Every other voter says which vote it holds. Whatever this replica acknowledged, some other voter acknowledged
//!    too, and whoever it voted for holds that vote itself: the greatest of these votes is at least as great as any it
//!    ever gave.
//! 2. It takes that vote as its own. openraft then turns away every leader before it.
//! 3. It follows, and votes again once it has applied everything that a leader confirmed as committed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foreword_proto::wire::raft as wire;
use foreword_seams::{Marker, sometimes};
use openraft::raft::VoteRequest;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::group::Group;
use super::readiness::NotReady;
use crate::consensus::types::{LogId, Member, Vote};
use crate::network::{Address, Peer};
use crate::storage::IdentityFile;

/// How long one attempt waits, and the pause before the next.
const TRY: Duration = Duration::from_secs(5);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

/// What a replica may do in its group.
#[derive(Debug)]
pub struct Standing {
    promised: AtomicBool,
    votes: AtomicBool,
    not_ready: Mutex<Option<NotReady>>,
    removed: AtomicBool,
}

impl Standing {
    /// `rejoining`: acknowledged entries were lost here. `promised`: and the replica has since found out what it had
    /// promised.
    pub fn new(rejoining: bool, promised: bool) -> Self {
        Self {
            promised: AtomicBool::new(!rejoining || promised),
            votes: AtomicBool::new(!rejoining),
            not_ready: Mutex::new(Some(NotReady::CatchingUp)),
            removed: AtomicBool::new(false),
        }
    }

    /// False: this replica does not know what it has promised, and may follow nobody.
    pub fn may_follow(&self) -> bool {
        self.promised.load(Ordering::Acquire)
    }

    /// False: this replica lacks what it had acknowledged; its vote could elect a leader that misses it.
    pub fn may_vote(&self) -> bool {
        self.votes.load(Ordering::Acquire)
    }

    /// Whether this replica answers as a member of its group should: see [`NotReady`].
    pub fn ready(&self) -> bool {
        self.not_ready().is_none()
    }

    /// Why it is not ready, as of a moment ago.
    pub fn not_ready(&self) -> Option<NotReady> {
        *self.not_ready.lock()
    }

    /// This replica's state is not that of the others: its vote could elect a leader that is wrong.
    pub(crate) fn stop_voting(&self) {
        self.votes.store(false, Ordering::Release);
    }

    /// The group goes on without this replica.
    pub fn removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(crate) fn set_removed(&self, removed: bool) {
        self.removed.store(removed, Ordering::Release);
    }

    pub(crate) fn readiness_is(&self, now: Option<NotReady>) {
        let before = std::mem::replace(&mut *self.not_ready.lock(), now);
        match (before.is_none(), now) {
            (false, None) => tracing::info!("ready"),
            (true, Some(why)) => tracing::warn!(%why, "not ready"),
            _ => {}
        }
    }
}

/// What a replica says to one that rejoins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Promise {
    vote: Vote,
    /// The newest membership it knows, and the entry that set it.
    membership: Option<LogId>,
    voters: BTreeMap<u64, String>,
}

/// What this replica has promised. None when raft has stopped.
pub(crate) async fn promise_of(group: &Group) -> Option<Promise> {
    let look = |state: &openraft::RaftState<u64, Member, _>| {
        let membership = state.membership_state.effective();
        let address = |id: u64| membership.get_node(&id).map_or_else(String::new, |member| member.peer.clone());
        Promise {
            vote: *state.vote_ref(),
            membership: *membership.log_id(),
            voters: membership.voter_ids().map(|id| (id, address(id))).collect(),
        }
    };
    group.raft.with_raft_state(look).await.ok()
}

/// Takes a replica that lost its log back into its group. `members`: where the others were when it last knew.
pub(crate) async fn rejoin(
    group: &Group,
    members: BTreeMap<u64, String>,
    file: &dyn IdentityFile,
    standing: &Standing,
) {
    if !standing.may_follow() {
        tracing::warn!("acknowledged entries were lost here: asking every other voter what was promised");
        promise_again(group, members).await;
        standing.promised.store(true, Ordering::Release);
        sometimes(Marker::PromisesFound);
    }
    tracing::warn!("no vote until everything committed is applied here again");
    while group.catch_up(Instant::now() + TRY).await.is_err() {}
    if let Err(error) = file.caught_up() {
        tracing::error!(%error, "could not note that this replica has caught up; it will not vote");
        return;
    }
    standing.votes.store(true, Ordering::Release);
    sometimes(Marker::ReplicaRejoined);
    group.raft.runtime_config().elect(true);
    tracing::info!("caught up; voting again");
}

/// Until every other voter has answered, and the greatest vote of theirs is this replica's own.
async fn promise_again(group: &Group, mut members: BTreeMap<u64, String>) {
    loop {
        let heard = ask(group, &members).await;
        if let Some(vote) = greatest_vote(&heard, group.replica_id) {
            // As if asked for it: granted by an empty log, and on disk when the answer is there. Nobody is told.
            let asked = group.raft.vote(VoteRequest::new(vote, None)).await;
            if asked.is_ok_and(|answer| answer.vote >= vote) {
                tracing::info!(%vote, "promised again");
                return;
            }
        }
        // Whoever is a member by now must be asked as well.
        members.extend(heard.into_values().flat_map(|promise| promise.voters));
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(group: &Group, members: &BTreeMap<u64, String>) -> BTreeMap<u64, Promise> {
    let others = members.iter().filter(|(id, _)| **id != group.replica_id);
    let asked = others.map(|(id, endpoint)| async move {
        let peer = Peer { address: Address::of_id(*id), endpoint: endpoint.clone() };
        let mut client = group.peers.raft_client(&peer);
        let answer = tokio::time::timeout(ASK_TIMEOUT, client.promise(wire::PromiseRequest {})).await.ok()?.ok()?;
        Some((*id, serde_json::from_slice(&answer.into_inner().body).ok()?))
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// The greatest vote, once every other voter of the newest membership has said its own. Nobody commits or leads by a
/// replica that is no voter yet, without a majority of those who are: then that majority is enough.
fn greatest_vote(heard: &BTreeMap<u64, Promise>, replica_id: u64) -> Option<Vote> {
    let newest = heard.values().max_by_key(|promise| promise.membership)?;
    newest.membership?;
    let said = newest.voters.keys().filter(|id| heard.contains_key(id)).count();
    let needed = match newest.voters.contains_key(&replica_id) {
        true => newest.voters.len() - 1,
        false => newest.voters.len() / 2 + 1,
    };
    if said < needed {
        return None;
    }
    let greatest = heard.values().map(|promise| promise.vote.leader_id).max()?;
    // A vote for itself would make it a candidate. Nobody else can lead by that vote, so the next greater one turns
    // nobody away.
    let node_id = if greatest.node_id == replica_id { replica_id + 1 } else { greatest.node_id };
    Some(Vote::new(greatest.term, node_id))
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn promise(vote: (u64, u64), membership: u64, voters: &[u64]) -> Promise {
        Promise {
            vote: Vote::new_committed(vote.0, vote.1),
            membership: Some(LogId { leader_id: CommittedLeaderId::new(1, 1), index: membership }),
            voters: voters.iter().map(|id| (*id, format!("m{id}:1"))).collect(),
        }
    }

    #[test]
    fn every_other_voter_is_needed_and_the_greatest_vote_counts() {
        let mut heard = BTreeMap::from([(1, promise((3, 1), 0, &[1, 2, 3]))]);
        assert_eq!(greatest_vote(&BTreeMap::new(), 3), None);
        assert_eq!(greatest_vote(&heard, 3), None, "2 has not answered");
        heard.insert(2, promise((4, 2), 0, &[1, 2, 3]));
        assert_eq!(greatest_vote(&heard, 3), Some(Vote::new(4, 2)));
        heard.insert(2, promise((4, 3), 0, &[1, 2, 3]));
        assert_eq!(greatest_vote(&heard, 3), Some(Vote::new(4, 4)), "not a vote for itself");
    }

    #[test]
    fn the_newest_membership_says_who_the_others_are() {
        let mut heard = BTreeMap::from([(1, promise((3, 1), 0, &[1, 2, 3])), (2, promise((3, 1), 9, &[1, 2, 4]))]);
        assert_eq!(greatest_vote(&heard, 4), Some(Vote::new(3, 1)));
        assert_eq!(greatest_vote(&heard, 3), Some(Vote::new(3, 1)), "3 is no voter any more");
        heard.remove(&2);
        assert_eq!(
            greatest_vote(&heard, 4),
            None,
            "4 is no voter of the membership that 1 knows, and 1 is no majority of it"
        );
        heard.insert(4, promise((5, 1), 9, &[1, 2, 4]));
        assert_eq!(greatest_vote(&heard, 2), Some(Vote::new(5, 1)));
    }
}
