//! This replica's view of its group: propose, read linearizably, wait for a revision; here or through the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foreword_proto::wire::raft as wire;
use foreword_proto::{ClusterId, DirectoryId, Revision};
use foreword_seams::{Marker, sometimes};
use openraft::{Raft, ServerState};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::alone::Alone;
use super::applied::Applied;
use super::checked::{Author, Checked, Unloggable};
use super::names_taken::NamesTaken;
use super::office;
use super::proposer::{ProposeError, Proposed, Proposer};
use super::read_index::ReadIndex;
use super::readiness::Followed;
use super::unavailable::{Unavailable, not_leader};
use crate::consensus::types::TypeConfig;
use crate::network::address::other_directory;
use crate::network::{Address, Heard, Peer, Peers, forwarded, was_forwarded};
use crate::state::codec::{decode_outcome, encode_command, encode_outcome};
use crate::state::command::{Command, Outcome};
use crate::storage::Identity;

/// How long a caller without a deadline of its own waits for a leader.
pub const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause before the leader is looked for again, when nothing has told that it changed.
const LEADER_RETRY: Duration = Duration::from_millis(25);

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
    heard: Arc<Heard>,
    pub followed: Followed,
    proposer: Proposer,
    read_index: ReadIndex,
    pub alone: Alone,
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
            alone: Alone::new(false),
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
    /// When it is not known what became of them, they are proposed again if that is harmless ([`Command::may_repeat`]);
    /// else the caller is told that nobody knows.
    pub async fn propose(
        &self,
        commands: &[Command],
        deadline: Instant,
    ) -> Result<(Revision, Vec<Outcome>), Unavailable> {
        let encoded = encode_commands(commands);
        let may_repeat = commands.iter().all(Command::may_repeat);
        // Whether an earlier try may be applied yet: a refusal of a later one does not say that nothing was done.
        let mut unknown = false;
        loop {
            let proposed = match self.leader() {
                Leader::Here => self.propose_here(encoded.clone(), Author::Caller, deadline).await,
                Leader::There(peer) => self.forward(&peer, &encoded, deadline).await,
                Leader::Unknown => Err(Unavailable::NoLeader),
            };
            match proposed {
                Err(Unavailable::NoLeader) => {}
                Err(Unavailable::Unknown) if may_repeat => unknown = true,
                Err(_) if unknown => return Err(Unavailable::Unknown),
                answered => return answered,
            }
            let waited = self.leader_may_change(deadline).await;
            waited.map_err(|error| if unknown { Unavailable::Unknown } else { error })?;
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
        match timeout_at(deadline, self.proposer.propose(checked, author, deadline)).await {
            Ok(proposed) => {
                let (revision, outcomes) = proposed?;
                self.names_taken.note(&outcomes);
                Ok((revision, outcomes))
            }
            Err(_) => Err(Unavailable::Unknown),
        }
    }

    /// Proposes a caller's commands on this replica only, and waits until it is known what became of them, or until
    /// this replica leads no more. Once `deadline` has passed they are not proposed any more.
    pub async fn propose_to_its_end(&self, checked: Checked, deadline: Instant) -> Proposed {
        if !self.takes_proposals.load(Ordering::Acquire) {
            return Err(ProposeError::NotLeader);
        }
        self.proposer.propose(checked, Author::Caller, deadline).await
    }

    /// Whether this leader proposes: not while it hands leadership over.
    pub(super) fn take_proposals(&self, take: bool) {
        self.takes_proposals.store(take, Ordering::Release);
    }

    /// Checks what is to be logged.
    pub fn check(&self, encoded: Vec<Bytes>, author: Author) -> Result<Checked, Unloggable> {
        // A level is only ever raised: one that was read a moment ago lets no command through that the newer one would
        // not.
        Checked::new(encoded, author, self.applied.peek(|state| state.feature_level()))
    }

    async fn forward(
        &self,
        leader: &Peer,
        encoded: &[Bytes],
        deadline: Instant,
    ) -> Result<(Revision, Vec<Outcome>), Unavailable> {
        let mut client = self.peers.raft_client(leader);
        let request = forwarded(wire::ProposeRequest { commands: encoded.to_vec() }, deadline);
        let response = match self.while_leads(leader.address.replica_id, deadline, client.propose(request)).await {
            Some(Ok(response)) => response.into_inner(),
            Some(Err(status)) => return Err(Unavailable::of_forward(&status)),
            None => return Err(Unavailable::Unknown),
        };
        let outcomes =
            response.outcomes.into_iter().map(|mut bytes| decode_outcome(&mut bytes)).collect::<Result<_, _>>();
        Ok((response.revision, outcomes.map_err(|error| Unavailable::Stopped(error.to_string()))?))
    }

    /// Waits for an answer of the leader, as long as it leads and `deadline` has not passed; then none. A leader that
    /// died without closing its connections leads no more as soon as this replica has missed it.
    pub(crate) async fn while_leads<T>(
        &self,
        leader: u64,
        deadline: Instant,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let mut metrics = self.raft.server_metrics();
        let vote = metrics.borrow().vote;
        let another = metrics.wait_for(|metrics| metrics.current_leader != Some(leader) || metrics.vote != vote);
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            _ = another => None,
            () = tokio::time::sleep_until(deadline) => None,
        }
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
                    let leader = peer.address.replica_id;
                    let mut client = self.peers.raft_client(&peer);
                    let request = forwarded(wire::ReadIndexRequest {}, deadline);
                    if let Some(Ok(response)) = self.while_leads(leader, deadline, client.read_index(request)).await {
                        sometimes(Marker::ReadIndexForwarded);
                        return Ok(response.into_inner().revision);
                    }
                }
                Leader::Unknown => {}
            }
            self.leader_may_change(deadline).await?;
        }
    }

    /// Waits until everything that was acknowledged before this call is applied here.
    pub async fn catch_up(&self, deadline: Instant) -> Result<Revision, Unavailable> {
        let revision = self.read_index(deadline).await?;
        self.wait_applied(revision, deadline).await?;
        Ok(revision)
    }

    /// The read index, if this replica leads.
    pub async fn read_index_here(&self) -> Option<Revision> {
        self.read_index.here().await.map(|read| read.revision)
    }

    /// The term in which this replica leads, as far as it knows.
    pub fn leading_term(&self) -> Option<u64> {
        office::leading_term(&self.raft.metrics().borrow())
    }

    /// Whether this replica leads, and a quorum took what it sent within this time: no other leader was elected before
    /// that.
    pub fn quorum_heard_within(&self, within: Duration) -> bool {
        office::quorum_heard_within(&self.raft, &self.heard, within)
    }

    /// Whether this replica, as the leader it is or was last, heard another one within this time.
    pub(crate) fn hears(&self, replica_id: u64, within: Duration) -> bool {
        self.heard.peer_within(replica_id, within)
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

    /// Where agents reach the members, by the newest membership in the log.
    pub fn client_endpoints(&self) -> Vec<String> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().nodes().map(|(_, member)| member.client.clone()).collect()
    }

    /// Whose votes count, by the newest membership applied here.
    pub fn voters(&self) -> BTreeSet<u64> {
        self.applied.read_with_position(|_, position| position.membership.voter_ids().collect())
    }

    /// A channel to the leader, for a call that only the leader may answer; none when it is this replica.
    ///
    /// Errors: no leader is known; or it is another, and the call with this metadata was passed on already.
    pub(crate) fn leader_channel(&self, metadata: &MetadataMap) -> Result<Option<Channel>, Status> {
        match self.leader() {
            Leader::Here => Ok(None),
            _ if was_forwarded(metadata) => Err(not_leader()),
            Leader::There(peer) => Ok(Some(self.peers.channel(&peer.endpoint))),
            Leader::Unknown => Err(Status::unavailable(Unavailable::NoLeader.to_string())),
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
