//! Changes of the group's membership, by the leader, one at a time: nobody votes before proof.
//!
//! A newcomer says hello, its id becomes its directory's for ever, it learns, and once it has what was committed when
//! the change began it becomes a voter. A change that gives up takes it out again. The hello is waited for before the
//! change has its turn: an address where nobody is, by a slip of the pen, holds up no other change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::bad_input::status_for;
use foreword_seams::{Marker, sometimes};
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Membership};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::checked::Author;
use super::group::{Group, encode_commands};
use super::handover::hand_over;
use super::newcomer::Newcomer;
use super::unavailable::not_leader;
use crate::consensus::types::Member;
use crate::refusal::refused;
use crate::state::command::{Command, Outcome};

/// A step that is not committed by then may be later.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);
/// How often the leader looks at what changes have left.
const LOOK: Duration = Duration::from_secs(1);
/// A learner of an earlier leader's change is taken out after this: whoever asked for the change may ask again before.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// The voters after a change.
pub(crate) type Voters = BTreeSet<u64>;

/// Changes of the membership, and which one is under way.
pub(crate) struct Changes {
    group: Arc<Group>,
    /// For how long voters that heard a leader vote for nobody else.
    lease: Duration,
    under_way: Mutex<Option<UnderWay>>,
}

#[derive(Clone)]
struct UnderWay {
    what: String,
    newcomer: Option<u64>,
    /// The leader's own, which an operator's change waits for.
    tidies: bool,
    cancel: CancellationToken,
}

/// One change; the next may begin when this is dropped.
struct Turn {
    changes: Arc<Changes>,
    cancel: CancellationToken,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.changes.under_way.lock() = None;
    }
}

impl Changes {
    /// Changes of one replica's group.
    pub(crate) fn new(group: Arc<Group>, lease: Duration) -> Arc<Self> {
        Arc::new(Self { group, lease, under_way: Mutex::default() })
    }

    /// Takes a replica in; one that is a voter already stays it.
    pub(crate) async fn add(self: &Arc<Self>, newcomer: Newcomer) -> Result<Voters, Status> {
        if let Some(voters) = self.is_added(&newcomer)? {
            return Ok(voters);
        }
        let member = newcomer.prove(&self.group).await?;
        let what = format!("adding replica {}", newcomer.replica_id);
        let turn = self.turn(what, Some(newcomer.replica_id)).await?;
        let changes = self.clone();
        to_its_end(async move {
            // Others may have changed the group before this turn.
            if let Some(voters) = changes.is_added(&newcomer)? {
                return Ok(voters);
            }
            let voters = ChangeMembers::AddVoterIds(BTreeSet::from([newcomer.replica_id]));
            changes.take_in(&turn, &newcomer, member, voters).await
        })
        .await
    }

    /// Puts a replica in the place of another.
    pub(crate) async fn replace(self: &Arc<Self>, old: u64, newcomer: Newcomer) -> Result<Voters, Status> {
        if let Some(voters) = self.is_replaced(old, &newcomer)? {
            return Ok(voters);
        }
        let member = newcomer.prove(&self.group).await?;
        let what = format!("replacing replica {old} by {}", newcomer.replica_id);
        let turn = self.turn(what, Some(newcomer.replica_id)).await?;
        let changes = self.clone();
        let replaced = to_its_end(async move {
            if let Some(voters) = changes.is_replaced(old, &newcomer)? {
                return Ok(voters);
            }
            let mut voters = changes.voters();
            voters.remove(&old);
            voters.insert(newcomer.replica_id);
            changes.take_in(&turn, &newcomer, member, ChangeMembers::ReplaceAllVoters(voters)).await
        });
        replaced.await.inspect(|_| sometimes(Marker::ReplicaReplaced))
    }

    /// Takes a voter or learner out. One that is just being taken in: that change ends and leaves nothing, which is all
    /// that is asked.
    pub(crate) async fn remove(self: &Arc<Self>, replica_id: u64) -> Result<Voters, Status> {
        let cancelled = self.cancel(replica_id).await;
        let members = self.members();
        if cancelled && !members.contains_key(&replica_id) {
            return Ok(self.voters());
        }
        if !members.contains_key(&replica_id) {
            let known: Vec<&u64> = members.keys().collect();
            let message = format!("replica_id: expected one of {known:?}, got {replica_id}");
            return Err(status_for(Code::NotFound, "replica_id", message));
        }
        let turn = self.turn(format!("removing replica {replica_id}"), None).await?;
        let changes = self.clone();
        to_its_end(async move {
            let _turn = turn;
            // A member that leaves before anybody has recorded it could come back from another directory.
            changes.record_members().await?;
            let mut left = changes.voters();
            if !left.remove(&replica_id) {
                return changes.change(ChangeMembers::RemoveNodes(BTreeSet::from([replica_id]))).await;
            }
            if left.is_empty() {
                return Err(last_replica());
            }
            changes.refuse_without_quorum(&left).await?;
            changes.change(ChangeMembers::RemoveVoters(BTreeSet::from([replica_id]))).await
        })
        .await
    }

    /// Moves leadership to a voter. Who leads now: another may have been faster.
    pub(crate) async fn hand_over(self: &Arc<Self>, to: u64) -> Result<u64, Status> {
        let turn = self.turn(format!("moving leadership to replica {to}"), None).await?;
        let changes = self.clone();
        to_its_end(async move {
            let _turn = turn;
            hand_over(&changes.group, to, changes.lease).await
        })
        .await
    }

    /// Ends the change that takes this replica in, and waits until it has cleaned up; false if there is none.
    async fn cancel(&self, newcomer: u64) -> bool {
        let under_way = self.under_way.lock().clone();
        let Some(under_way) = under_way.filter(|change| change.newcomer == Some(newcomer)) else { return false };
        under_way.cancel.cancel();
        let until = Instant::now() + STEP_DEADLINE;
        while self.under_way.lock().is_some() && Instant::now() < until {
            sleep(PAUSE).await;
        }
        true
    }

    /// An operator's turn.
    async fn turn(self: &Arc<Self>, what: String, newcomer: Option<u64>) -> Result<Turn, Status> {
        let until = Instant::now() + STEP_DEADLINE;
        loop {
            let change = UnderWay { what: what.clone(), newcomer, tidies: false, cancel: CancellationToken::new() };
            match self.begin(change) {
                Ok(turn) => return Ok(turn),
                Err(other) if other.tidies && Instant::now() < until => sleep(PAUSE).await,
                Err(other) => {
                    let message = format!("membership: expected no other change, {} is under way", other.what);
                    return Err(status_for(Code::FailedPrecondition, "membership", message));
                }
            }
        }
    }

    /// Begins a change; the error is the one that is under way.
    fn begin(self: &Arc<Self>, change: UnderWay) -> Result<Turn, UnderWay> {
        let mut under_way = self.under_way.lock();
        if let Some(other) = under_way.as_ref() {
            return Err(other.clone());
        }
        let cancel = change.cancel.clone();
        *under_way = Some(change);
        Ok(Turn { changes: self.clone(), cancel })
    }

    fn membership(&self) -> Membership<u64, Member> {
        self.group.raft.metrics().borrow().membership_config.membership().clone()
    }

    fn members(&self) -> BTreeMap<u64, Member> {
        self.membership().nodes().map(|(id, member)| (*id, member.clone())).collect()
    }

    fn voters(&self) -> Voters {
        self.membership().voter_ids().collect()
    }

    /// The voters, if the newcomer is one of them already. Refuses what can never be made.
    fn is_added(&self, newcomer: &Newcomer) -> Result<Option<Voters>, Status> {
        if let Some(voters) = self.is_voter_there(newcomer)? {
            return Ok(Some(voters));
        }
        self.refuse_taken_endpoint(newcomer, None)?;
        Ok(None)
    }

    /// The voters, if the newcomer has taken the place of `old` already: it is asked again after it was done.
    fn is_replaced(&self, old: u64, newcomer: &Newcomer) -> Result<Option<Voters>, Status> {
        if !self.voters().contains(&old) {
            if let (false, Some(voters)) = (self.members().contains_key(&old), self.is_voter_there(newcomer)?) {
                return Ok(Some(voters));
            }
            let message = format!("old_replica_id: expected one of {:?}, got {old}", self.voters());
            return Err(status_for(Code::NotFound, "old_replica_id", message));
        }
        if self.is_voter_there(newcomer)?.is_some() {
            let message = format!("new_replica_id: expected one that does not vote, {} does", newcomer.replica_id);
            return Err(status_for(Code::AlreadyExists, "new_replica_id", message));
        }
        self.refuse_taken_endpoint(newcomer, Some(old))?;
        Ok(None)
    }

    /// The voters, if the newcomer is one of them at this endpoint. An id that votes elsewhere is refused.
    fn is_voter_there(&self, newcomer: &Newcomer) -> Result<Option<Voters>, Status> {
        let (voters, members) = (self.voters(), self.members());
        let Some(member) = members.get(&newcomer.replica_id).filter(|_| voters.contains(&newcomer.replica_id)) else {
            return Ok(None);
        };
        if member.peer != newcomer.peer {
            let message =
                format!("replica_id: expected one that is free, {} is at {}", newcomer.replica_id, member.peer);
            return Err(status_for(Code::AlreadyExists, "replica_id", message));
        }
        Ok(Some(voters))
    }

    /// An endpoint belongs to one member at a time, save that a newcomer may take over that of the one it replaces.
    fn refuse_taken_endpoint(&self, newcomer: &Newcomer, replaces: Option<u64>) -> Result<(), Status> {
        for (id, member) in self.members() {
            if id == newcomer.replica_id || Some(id) == replaces {
                continue;
            }
            let own = [&member.peer, &member.client];
            for (field, endpoint) in [("endpoint", &newcomer.peer), ("client_endpoint", &newcomer.client)] {
                if own.contains(&endpoint) {
                    let message = format!("{field}: expected one of its own, {endpoint} is replica {id}'s");
                    return Err(status_for(Code::AlreadyExists, field, message));
                }
            }
        }
        Ok(())
    }

    /// From hello to a vote, or back to nothing. `member`: as it said hello.
    async fn take_in(
        &self,
        turn: &Turn,
        newcomer: &Newcomer,
        member: Member,
        then: ChangeMembers<u64, Member>,
    ) -> Result<Voters, Status> {
        let id = newcomer.replica_id;
        self.record_members().await?;
        self.record(id, &member).await?;
        let deadline = Instant::now() + STEP_DEADLINE;
        let committed = self.group.read_index(deadline).await?;
        if self.members().get(&id).is_some_and(|known| *known != member) {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await?;
        }
        let directory = member.directory;
        let learning = async {
            self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, member)]))).await?;
            newcomer.catch_up(&self.group, committed, directory).await
        };
        let learned = tokio::select! {
            learned = learning => learned,
            () = turn.cancel.cancelled() => Err(Status::aborted(format!("replica {id} was removed meanwhile"))),
        };
        let voting = match learned {
            Ok(()) => self.change(then).await,
            Err(why) => Err(why),
        };
        if let Err(why) = &voting {
            tracing::warn!(replica = id, why = why.message(), "a change of the membership gives up");
            // A voter by now, though nobody said so, is no learner and stays.
            if let Err(error) = self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await {
                tracing::warn!(replica = id, error = error.message(), "could not take it out again");
            }
        }
        voting
    }

    /// Founders are recorded by the first leader that looks.
    async fn record_members(&self) -> Result<(), Status> {
        for (id, member) in self.members() {
            self.record(id, &member).await?;
        }
        Ok(())
    }

    /// The id becomes its directory's.
    async fn record(&self, replica_id: u64, member: &Member) -> Result<(), Status> {
        let directory = member.directory;
        if self.group.applied.read(|state| state.directory(replica_id)) == Some(directory) {
            return Ok(());
        }
        let command = encode_commands(&[Command::RecordMember { replica_id, directory }]);
        let recorded = self.group.propose_here(command, Author::Leader, Instant::now() + STEP_DEADLINE).await?;
        match recorded.1.into_iter().next() {
            Some(Outcome::Refused(refusal)) => Err(refused(refusal)),
            _ => Ok(()),
        }
    }

    /// Refuses a change after which nothing could be committed. A change of voters is made in two steps: a majority of
    /// those that vote now agrees to the first, one of those that vote then to both.
    async fn refuse_without_quorum(&self, voters: &Voters) -> Result<(), Status> {
        let (members, now) = (self.members(), self.voters());
        let asked =
            members.iter().filter(|(id, _)| now.contains(id) || voters.contains(id)).map(|(id, member)| async move {
                let there = self.group.peers.hello(*id, &member.peer, ASK_TIMEOUT).await;
                let there = *id == self.group.replica_id || there.is_ok_and(|hello| hello.address.replica_id == *id);
                there.then_some(*id)
            });
        let there: BTreeSet<u64> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        for (which, needed) in [("that vote now", &now), ("that remain", voters)] {
            let answering = needed.intersection(&there).count();
            if answering <= needed.len() / 2 {
                let message = format!(
                    "replica_id: expected a majority of the replicas {which} to answer, {answering} of {needed:?} do"
                );
                return Err(status_for(Code::FailedPrecondition, "replica_id", message));
            }
        }
        Ok(())
    }

    /// One change of the membership to its end, through a joint one where voters change.
    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<Voters, Status> {
        let raft = self.group.raft.clone();
        // It goes on when nobody waits: between its two steps is no place to stop.
        let changing = tokio::spawn(async move { raft.change_membership(change, false).await });
        match timeout(STEP_DEADLINE, changing).await {
            Ok(Ok(Ok(response))) => {
                Ok(response.membership.map_or_else(|| self.voters(), |membership| membership.voter_ids().collect()))
            }
            Ok(Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))))) => Err(not_leader()),
            // What the metrics say of the members may be a moment old.
            Ok(Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::EmptyMembership(_),
            ))))) => Err(last_replica()),
            Ok(Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            ))))) => {
                let message = "membership: expected no other change under way, an earlier one is not committed yet";
                Err(status_for(Code::FailedPrecondition, "membership", message))
            }
            Ok(Ok(Err(RaftError::APIError(error)))) => {
                Err(status_for(Code::FailedPrecondition, "membership", format!("membership: {error}")))
            }
            Ok(Ok(Err(error))) => Err(Status::unavailable(error.to_string())),
            Ok(Err(error)) => Err(Status::internal(error.to_string())),
            Err(_) => Err(Status::unavailable(
                "membership: no quorum answered in time; the change may or may not be made later",
            )),
        }
    }

    /// While this replica leads: records the founders, and ends what an earlier leader's changes have left.
    pub(crate) async fn tend(self: Arc<Self>) {
        let mut left_behind: BTreeMap<u64, Instant> = BTreeMap::new();
        loop {
            sleep(LOOK).await;
            if self.group.leading_term().is_none() {
                left_behind.clear();
                continue;
            }
            let what = "the leader's look at earlier changes".to_owned();
            let look = UnderWay { what, newcomer: None, tidies: true, cancel: CancellationToken::new() };
            let Ok(_turn) = self.begin(look) else { continue };
            if let Err(error) = self.tidy(&mut left_behind).await {
                tracing::debug!(error = error.message(), "the membership is not tidied yet");
            }
        }
    }

    async fn tidy(&self, left_behind: &mut BTreeMap<u64, Instant>) -> Result<(), Status> {
        self.record_members().await?;
        let membership = self.membership();
        if membership.get_joint_config().len() > 1 {
            // To the newer of the two.
            self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await?;
        }
        let learners: BTreeSet<u64> = membership.learner_ids().collect();
        left_behind.retain(|id, _| learners.contains(id));
        for id in learners {
            let since = *left_behind.entry(id).or_insert_with(Instant::now);
            if since.elapsed() >= LEFT_BEHIND {
                self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await?;
            }
        }
        Ok(())
    }
}

/// A change goes on when its caller has left.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(change).await.unwrap_or_else(|error| Err(Status::internal(format!("the change ended: {error}"))))
}

fn last_replica() -> Status {
    let message = "replica_id: expected another replica to remain, this is the last";
    status_for(Code::FailedPrecondition, "replica_id", message)
}
