//! openraft's network: what this replica sends to another.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::wire::raft as wire;
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{Snapshot, Vote};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::address::Peer;
use super::heard::Heard;
use super::messages::{append_to_wire, to_body};
use super::peers::{PeerClient, Peers};
use super::transfers::send_snapshot;
use crate::consensus::types::{CALL_TIMEOUT_MIN, Member, TypeConfig};
use crate::storage::LogReader;

/// Entries sent and flushed: several flushes of a slow disk, and megabytes over a slow link. A peer that was cut off is
/// noticed by its channel's keepalive.
const APPEND_DEADLINE: Duration = Duration::from_secs(3);
/// An append without entries, which may wait for a flush that is under way at the peer.
const HEARTBEATS_PER_ANSWER: u32 = 5;
/// A heartbeat that was not delivered by then is late.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);
const _: () = assert!(APPEND_DEADLINE.as_millis() < CALL_TIMEOUT_MIN.as_millis());
/// A peer that refuses connections is asked again after this.
const BACKOFF: Duration = Duration::from_millis(100);

/// Makes a [`PeerNetwork`] for each other replica.
pub struct NetworkFactory {
    peers: Arc<Peers>,
    heard: Arc<Heard>,
    log: LogReader,
}

impl NetworkFactory {
    /// A factory over cached channels; what peers acknowledge goes to `heard`, and to openraft once `log` has it, too.
    pub fn new(peers: Arc<Peers>, heard: Arc<Heard>, log: LogReader) -> Self {
        Self { peers, heard, log }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, member: &Member) -> PeerNetwork {
        let (peers, heard, log) = (self.peers.clone(), self.heard.clone(), self.log.clone());
        PeerNetwork { peers, peer: Peer::member(target, member), heard, log }
    }
}

/// One other replica.
pub struct PeerNetwork {
    peers: Arc<Peers>,
    peer: Peer,
    heard: Arc<Heard>,
    log: LogReader,
}

impl PeerNetwork {
    fn client(&self) -> PeerClient {
        self.peers.raft_client(&self.peer)
    }

    /// The answer of a call, within its time; what it says of the peer is noted.
    async fn answer<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, CallError> {
        let answer = tokio::time::timeout(deadline, call).await;
        let (id, endpoint) = (self.peer.address.replica_id, &self.peer.endpoint);
        match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(response) => {
                self.peers.reach().heard(id);
                Ok(response.into_inner())
            }
            Err(status) => {
                self.peers.reach().missed(id, endpoint, status.message());
                Err(fault(status))
            }
        }
    }
}

impl Peers {
    /// Shows a replica that the leader by `vote` is there, beside openraft's own heartbeats and without waiting: an
    /// append of nothing. One that follows a later vote refuses it.
    pub(crate) fn show_leader(self: Arc<Self>, target: u64, member: &Member, vote: Vote<u64>) {
        let request = AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
        let (Ok(request), false) = (append_to_wire(request), self.pulse().is_silent()) else { return };
        let mut client = self.raft_client(&Peer::member(target, member));
        tokio::spawn(async move {
            if let Ok(Ok(_)) = tokio::time::timeout(SHOWN_WITHIN, client.append_entries(request)).await {
                self.reach().heard(target);
            }
        });
    }
}

type CallError = RPCError<u64, Member, RaftError<u64>>;

/// A status as openraft wants it: a peer that cannot be reached, or is not the one that was meant, is asked less often;
/// any other fault is retried at once.
fn fault(status: Status) -> CallError {
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition => RPCError::Unreachable(Unreachable::new(&status)),
        _ => RPCError::Network(NetworkError::new(&status)),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body).map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

impl RaftNetwork<TypeConfig> for PeerNetwork {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        if self.peers.pulse().is_silent() {
            return Err(fault(Status::unavailable("this leader is handing over")));
        }
        // openraft gives both one heartbeat's time, in which no slow disk is done.
        let flushes = !request.entries.is_empty();
        let deadline = if flushes { APPEND_DEADLINE } else { option.hard_ttl() * HEARTBEATS_PER_ANSWER };
        let term = request.vote.leader_id.term;
        let matches = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let request = append_to_wire(request).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let mut client = self.client();
        let sent = Instant::now();
        let response = self.answer(deadline, client.append_entries(request)).await?;
        if flushes {
            self.peers.pulse().acknowledged(self.peer.address.replica_id, sent.elapsed());
        }
        let response = parse(&response.body)?;
        // Whoever lacks the entries before these still takes this replica as its leader.
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.heard.acknowledged(self.peer.address.replica_id, term, sent);
        }
        // openraft counts this replica's own entries as soon as they are appended, while they are still on their way to
        // its disk: so no other's word that makes a majority of them counts before they are there.
        if let Some(matches) = matches {
            let flushed = self.log.flushed(matches.index).await;
            flushed.map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        }
        Ok(response)
    }

    async fn vote(&mut self, request: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, CallError> {
        let body = to_body(&request).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let mut client = self.client();
        let response = self.answer(option.hard_ttl(), client.vote(wire::VoteRequest { body })).await?;
        parse(&response.body)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        send_snapshot(&self.peers, &self.peer, vote, snapshot, cancel).await
    }

    fn backoff(&self) -> openraft::network::Backoff {
        openraft::network::Backoff::new(std::iter::repeat(BACKOFF))
    }
}
