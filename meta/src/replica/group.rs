//! This replica's view of its group: propose, read linearizably, wait for a revision; here or through the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foreword_proto::bad_input::{field_of, status_for};
use foreword_proto::wire::raft as wire;
use foreword_proto::{ClusterId, DirectoryId, Revision};
use foreword_seams::{Marker, sometimes};
use openraft::{Raft, ServerState};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::applied::Applied;
use super::checked::{Author, Checked, Unloggable};
use super::names_taken::NamesTaken;
use super::proposer::{ProposeError, Proposed, Proposer};
use super::read_index::ReadIndex;
use super::readiness::Followed;
use crate::consensus::types::TypeConfig;
use crate::network::address::other_directory;
use crate::network::{Address, Heard, Peer, Peers};
use crate::state::codec::{decode_outcome, encode_command, encode_outcome};
use crate::state::command::{Command, Outcome};
use crate::storage::Identity;

/// How long a caller without a deadline of its own waits for a leader.
pub const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause before the leader is looked for again, when nothing has told that it changed.
const LEADER_RETRY: Duration = Duration::from_millis(25);
/// One hop to the leader; a leader that died without closing its connections is given up after this.
pub(crate) const FORWARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the group could not answer in time. The caller may try again, here or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("no leader within the deadline")]
    NoLeader,
    #[error("the proposal queue is full")]
    Overloaded,
    #[error("revision {wanted} is not applied here within the deadline, only {applied}")]
    Behind { wanted: Revision, applied: Revision },
    /// Not for want of a leader: it will not log this, today or later. The caller's own mistake, or a newer version's command.
    #[error("{message}")]
    Refused { code: Code, field: String, message: String },
    #[error("the replica is stopping: {0}")]
    Stopped(String),
}

impl From<Unloggable> for Unavailable {
    fn from(error: Unloggable) -> Self {
        Self::Refused { code: error.code(), field: error.field(), message: error.to_string() }
    }
}

impl From<ProposeError> for Unavailable {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::QueueFull => Self::Overloaded,
            ProposeError::Stopped(why) => Self::Stopped(why),
            ProposeError::NotLeader { .. } => Self::NoLeader,
        }
    }
}

impl From<Unavailable> for Status {
    fn from(error: Unavailable) -> Self {
        match error {
            Unavailable::Overloaded => Status::resource_exhausted(error.to_string()),
            Unavailable::Refused { code, field, message } => status_for(code, &field, message),
            Unavailable::Behind { .. } => status_for(Code::FailedPrecondition, "behind", error.to_string()),
            other => Status::unavailable(other.to_string()),
        }
    }
}

/// Handles of one replica, shared by its services and duties.
pub struct Group {
    pub cluster_id: ClusterId,
    pub replica_id: u64,
    /// Its data directory.
    pub directory: DirectoryId,
    /// The members that the data directory named when this process began: replica ids and peer endpoints.
    pub named: BTreeMap<u64, String>,
    pub raft: Raft<TypeConfig>,
    pub applied: Arc<Applied>,
    pub peers: Arc<Peers>,
    /// What this replica hears as a leader, and as a follower.
    pub heard: Arc<Heard>,
    pub followed: Followed,
    proposer: Proposer,
    read_index: ReadIndex,
    /// False while leadership moves elsewhere.
    takes_proposals: AtomicBool,
    names_taken: NamesTaken,
}

/// Who leads, as far as this replica knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    Here,
    There(Peer),
    Unknown,
}

/// Commands as the log holds them.
pub fn encode_commands(commands: &[Command]) -> Vec<Bytes> {
    let encode = |command| {
        let mut bytes = BytesMut::new();
        encode_command(command, &mut bytes);
        bytes.freeze()
    };
    commands.iter().map(encode).collect()
}

/// The field of a status that says that its replica does not lead.
const LEADER_FIELD: &str = "leader";

/// The answer of a replica that does not lead to what only the leader may decide.
pub(crate) fn not_leader() -> Status {
    status_for(
        Code::Unavailable,
        LEADER_FIELD,
        "leader: expected to be asked what a leader decides, this replica is not it",
    )
}

/// What the leader's status says of a proposal that was passed on to it.
fn forward_failed(status: &Status) -> Unavailable {
    match field_of(status) {
        Some(field) if field.starts_with("commands") => {
            Unavailable::Refused { code: status.code(), field: field.into(), message: status.message().into() }
        }
        _ if status.code() == Code::ResourceExhausted => Unavailable::Overloaded,
        _ => Unavailable::NoLeader,
    }
}

impl Group {
    /// Joins the parts of a replica.
    pub fn new(
        identity: &Identity,
        raft: Raft<TypeConfig>,
        applied: Arc<Applied>,
        peers: Arc<Peers>,
        heard: Arc<Heard>,
        proposer: Proposer,
    ) -> Self {
        let read_index = ReadIndex::spawn(raft.clone());
        let &Identity { cluster_id, replica_id, directory, .. } = identity;
        let named = identity.members.clone();
        Self {
            cluster_id,
            replica_id,
            directory,
            named,
            raft,
            applied,
            peers,
            heard,
            followed: Followed::default(),
            proposer,
            read_index,
            takes_proposals: AtomicBool::new(true),
            names_taken: NamesTaken::default(),
        }
    }

    /// Who this replica is to others.
    pub(crate) fn address(&self) -> Address {
        Address::of(self.replica_id, self.directory)
    }

    /// Who leads.
    pub fn leader(&self) -> Leader {
        let metrics = self.raft.metrics().borrow().clone();
        match metrics.current_leader {
            Some(id) if id == self.replica_id && metrics.state == ServerState::Leader => Leader::Here,
            Some(id) if id != self.replica_id => match metrics.membership_config.membership().get_node(&id) {
                Some(member) => Leader::There(Peer::member(id, member)),
                None => Leader::Unknown,
            },
            _ => Leader::Unknown,
        }
    }

    /// Proposes commands through whoever leads, until `deadline`.
    ///
    /// A retry may apply a command twice; session commands are idempotent, and the others harmless to repeat.
    pub async fn propose(
        &self,
        commands: &[Command],
        deadline: Instant,
    ) -> Result<(Revision, Vec<Outcome>), Unavailable> {
        let encoded = encode_commands(commands);
        loop {
            let error = match self.leader() {
                Leader::Here => match self.propose_here(encoded.clone(), Author::Caller, deadline).await {
                    Ok(done) => return Ok(done),
                    Err(error) => error,
                },
                Leader::There(peer) => match self.forward(&peer, &encoded, deadline).await {
                    Ok(done) => return Ok(done),
                    Err(error) => error,
                },
                Leader::Unknown => Unavailable::NoLeader,
            };
            if !matches!(error, Unavailable::NoLeader) {
                return Err(error);
            }
            self.leader_may_change(deadline).await?;
            sometimes(Marker::ProposalRetried);
        }
    }

    /// Proposes one command.
    pub async fn propose_one(&self, command: Command, deadline: Instant) -> Result<(Revision, Outcome), Unavailable> {
        let (revision, mut outcomes) = self.propose(&[command], deadline).await?;
        match outcomes.pop() {
            Some(outcome) => Ok((revision, outcome)),
            None => Err(Unavailable::Stopped("an outcome is missing".into())),
        }
    }

    /// Proposes encoded commands on this replica only: what another replica forwarded, and the leader's own decisions.
    pub async fn propose_here(
        &self,
        encoded: Vec<Bytes>,
        author: Author,
        deadline: Instant,
    ) -> Result<(Revision, Vec<Outcome>), Unavailable> {
        if self.leading_term().is_none() || !self.takes_proposals.load(Ordering::Acquire) {
            return Err(Unavailable::NoLeader);
        }
        let checked = self.check(encoded, author)?;
        match timeout_at(deadline, self.proposer.propose(checked)).await {
            Ok(proposed) => {
                let (revision, outcomes) = proposed?;
                self.names_taken.note(&outcomes);
                Ok((revision, outcomes))
            }
            Err(_) => Err(Unavailable::NoLeader),
        }
    }

    /// Proposes encoded commands on this replica only, and waits until it is known what became of them, or until this replica leads
    /// no more.
    pub async fn propose_to_its_end(&self, checked: Checked) -> Proposed {
        if !self.takes_proposals.load(Ordering::Acquire) {
            return Err(ProposeError::QueueFull);
        }
        self.proposer.propose(checked).await
    }

    /// Whether this leader proposes: not while it hands leadership over.
    pub(super) fn take_proposals(&self, take: bool) {
        self.takes_proposals.store(take, Ordering::Release);
    }

    /// Checks what is to be logged.
    pub fn check(&self, encoded: Vec<Bytes>, author: Author) -> Result<Checked, Unloggable> {
        // A level is only ever raised: one that was read a moment ago lets no command through that the newer one would not.
        Checked::new(encoded, author, self.applied.read(|state| state.feature_level()))
    }

    async fn forward(
        &self,
        leader: &Peer,
        encoded: &[Bytes],
        deadline: Instant,
    ) -> Result<(Revision, Vec<Outcome>), Unavailable> {
        let mut client = self.peers.raft_client(leader);
        let request = wire::ProposeRequest { commands: encoded.to_vec() };
        let until = deadline.min(Instant::now() + FORWARD_TIMEOUT);
        let response = match timeout_at(until, client.propose(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(forward_failed(&status)),
            Err(_) => return Err(Unavailable::NoLeader),
        };
        let outcomes =
            response.outcomes.into_iter().map(|mut bytes| decode_outcome(&mut bytes)).collect::<Result<_, _>>();
        Ok((response.revision, outcomes.map_err(|error| Unavailable::Stopped(error.to_string()))?))
    }

    /// What a forwarded proposal is answered with.
    pub fn encode_outcomes(outcomes: &[Outcome]) -> Vec<Bytes> {
        outcomes
            .iter()
            .map(|outcome| {
                let mut bytes = BytesMut::new();
                encode_outcome(outcome, &mut bytes);
                bytes.freeze()
            })
            .collect()
    }

    /// A revision such that everything acknowledged before this call is at or below it.
    pub async fn read_index(&self, deadline: Instant) -> Result<Revision, Unavailable> {
        loop {
            match self.leader() {
                Leader::Here => {
                    if let Ok(Some(read)) = timeout_at(deadline, self.read_index.here()).await {
                        return Ok(read.revision);
                    }
                }
                Leader::There(peer) => {
                    let mut client = self.peers.raft_client(&peer);
                    let until = deadline.min(Instant::now() + FORWARD_TIMEOUT);
                    if let Ok(Ok(response)) = timeout_at(until, client.read_index(wire::ReadIndexRequest {})).await {
                        sometimes(Marker::ReadIndexForwarded);
                        return Ok(response.into_inner().revision);
                    }
                }
                Leader::Unknown => {}
            }
            self.leader_may_change(deadline).await?;
        }
    }

    /// The read index, if this replica leads.
    pub async fn read_index_here(&self) -> Option<Revision> {
        self.read_index.here().await.map(|read| read.revision)
    }

    /// The term in which this replica leads, as far as it knows.
    pub fn leading_term(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(self.replica_id);
        leads.then_some(metrics.current_term)
    }

    /// Whether this replica leads, and a quorum took what it sent within this time: no other leader was elected before that.
    pub fn quorum_heard_within(&self, within: Duration) -> bool {
        let Some(term) = self.leading_term() else { return false };
        let metrics = self.raft.metrics();
        let membership = metrics.borrow().membership_config.clone();
        self.heard.quorum_within(self.replica_id, term, membership.membership().get_joint_config(), within)
    }

    /// Makes sure that this replica still leads in `term`, by asking the others after this call began.
    pub async fn leads_in(&self, term: u64) -> bool {
        self.read_index.here().await.is_some_and(|read| read.term == term)
    }

    /// Waits until `revision` is applied here.
    pub async fn wait_applied(&self, revision: Revision, deadline: Instant) -> Result<(), Unavailable> {
        let mut revisions = self.applied.revisions();
        match timeout_at(deadline, revisions.wait_for(|applied| *applied >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                sometimes(Marker::ReadAnsweredBehind);
                Err(Unavailable::Behind { wanted: revision, applied: self.applied.revision() })
            }
        }
    }

    /// Refuses a caller that says a member's id and comes from another data directory than the member's.
    pub(crate) fn check_caller(&self, from: Address) -> Result<(), Status> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let member = metrics.membership_config.membership().get_node(&from.replica_id);
        match (member, from.directory) {
            (Some(member), Some(directory)) if member.directory != directory => {
                Err(other_directory(from.replica_id, member.directory, directory))
            }
            _ => Ok(()),
        }
    }

    /// The other members.
    pub fn others(&self) -> Vec<Peer> {
        self.applied.read_with_position(|_, position| {
            let nodes = position.membership.nodes().filter(|(id, _)| **id != self.replica_id);
            nodes.map(|(id, member)| Peer::member(*id, member)).collect()
        })
    }

    /// Whose votes count, by the newest membership applied here.
    pub fn voters(&self) -> BTreeSet<u64> {
        self.applied.read_with_position(|_, position| position.membership.voter_ids().collect())
    }

    /// A channel to the leader, none when it is this replica or unknown.
    pub fn leader_channel(&self) -> Option<Channel> {
        match self.leader() {
            Leader::There(peer) => Some(self.peers.channel(&peer.endpoint)),
            _ => None,
        }
    }

    /// Waits until the leader changed, or a moment, but not beyond `deadline`.
    pub(crate) async fn leader_may_change(&self, deadline: Instant) -> Result<(), Unavailable> {
        if Instant::now() >= deadline {
            return Err(Unavailable::NoLeader);
        }
        let mut metrics = self.raft.server_metrics();
        // A copy of a receiver that has never looked: what changed long ago would end the wait at once.
        metrics.mark_unchanged();
        let until = deadline.min(Instant::now() + LEADER_RETRY);
        match timeout_at(until, metrics.changed()).await {
            Ok(Err(_)) => Err(Unavailable::Stopped("raft ended".into())),
            _ => Ok(()),
        }
    }
}
