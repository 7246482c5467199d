//! The Raft service: what this replica answers to others of its group.

use std::sync::Arc;

use bytes::Bytes;
use foreword_proto::limits::RAFT_MESSAGE_BYTES_MAX;
use foreword_proto::wire::raft as wire;
use foreword_proto::wire::raft::raft_server::{Raft as RaftApi, RaftServer};
use foreword_seams::deadline::deadline_of;
use foreword_seams::{Marker, sometimes};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use openraft::Snapshot;
use openraft::raft::{AppendEntriesResponse, SnapshotResponse};
use serde::Serialize;
use tonic::{Request, Response, Status, Streaming};

use crate::consensus::types::Vote;
use crate::network::SnapshotOffer;
use crate::network::messages::{append_from_wire, from_body, to_body};
use crate::replica::checked::Author;
use crate::replica::group::{Group, PROPOSE_DEADLINE};
use crate::replica::handover::stand;
use crate::replica::introduce::hello_of;
use crate::replica::rejoin::{Standing, promise_of};
use crate::replica::snapshots::receiving::{Receiving, Spooled};
use crate::replica::unavailable::not_leader;

/// The service.
pub struct RaftService {
    group: Arc<Group>,
    standing: Arc<Standing>,
    receiving: Arc<Receiving>,
}

impl RaftService {
    /// The service of one replica; `standing` says what it may answer, `receiving` takes snapshots.
    pub fn server(group: Arc<Group>, standing: Arc<Standing>, receiving: Arc<Receiving>) -> RaftServer<Self> {
        RaftServer::new(Self { group, standing, receiving })
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX)
    }

    fn may_follow(&self) -> Result<(), Status> {
        if self.standing.may_follow() {
            return Ok(());
        }
        sometimes(Marker::LeaderRefusedWhileRejoining);
        Err(Status::unavailable(
            "this replica lost what it had promised and follows nobody until every other voter has told",
        ))
    }

    /// The vote of this replica, if it is later than the sender's: openraft would refuse the snapshot when it has come.
    fn later_vote(&self, offer: &SnapshotOffer) -> Option<Vote> {
        Some(self.group.raft.metrics().borrow().vote).filter(|vote| *vote > offer.vote)
    }

    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let from = self.group.peers.identity().check(request.metadata())?;
        self.group.check_caller(from)
    }
}

/// Takes a snapshot's stream and installs it.
async fn receive(
    group: Arc<Group>,
    receiving: Arc<Receiving>,
    offer: SnapshotOffer,
    chunks: impl Stream<Item = Result<Bytes, Status>>,
) -> Result<SnapshotResponse<u64>, Status> {
    let handle = receiving.receive(&offer, chunks).await?;
    let name = handle.name.clone();
    let snapshot = Snapshot { meta: offer.meta, snapshot: Box::new(handle) };
    let response = group.raft.install_full_snapshot(offer.vote, snapshot).await;
    receiving.remove(&name).await;
    response.map_err(|error| Status::unavailable(error.to_string()))
}

fn body<T: Serialize>(value: &T) -> Result<bytes::Bytes, Status> {
    to_body(value).map_err(|error| Status::internal(error.to_string()))
}

#[tonic::async_trait]
impl RaftApi for RaftService {
    async fn append_entries(
        &self,
        request: Request<wire::AppendRequest>,
    ) -> Result<Response<wire::AppendResponse>, Status> {
        self.check(&request)?;
        self.may_follow()?;
        let append = append_from_wire(request.into_inner())?;
        let committed = append.leader_commit.map_or(0, |id| id.index);
        let response =
            self.group.raft.append_entries(append).await.map_err(|error| Status::unavailable(error.to_string()))?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.group.followed.heard(committed);
        }
        Ok(Response::new(wire::AppendResponse { body: body(&response)? }))
    }

    async fn hello(&self, request: Request<wire::HelloRequest>) -> Result<Response<wire::HelloResponse>, Status> {
        self.group.peers.identity().check_cluster(request.metadata())?;
        let hello = hello_of(&self.group, &self.standing).await;
        let hello = hello.ok_or_else(|| Status::unavailable("raft has stopped"))?;
        Ok(Response::new(hello.to_wire()))
    }

    async fn stand(&self, request: Request<wire::StandRequest>) -> Result<Response<wire::StandResponse>, Status> {
        let from = self.group.peers.identity().check(request.metadata())?;
        self.group.check_caller(from)?;
        stand(&self.group, from.replica_id, request.into_inner().term).await?;
        Ok(Response::new(wire::StandResponse {}))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteResponse>, Status> {
        self.check(&request)?;
        if !self.standing.may_vote() {
            sometimes(Marker::VoteRefusedWhileRejoining);
            return Err(Status::unavailable(
                "this replica lost acknowledged entries and does not vote until it has caught up",
            ));
        }
        let vote = from_body("body", &request.into_inner().body)?;
        let response = self.group.raft.vote(vote).await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(wire::VoteResponse { body: body(&response)? }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotFrame>>,
    ) -> Result<Response<wire::SnapshotResponse>, Status> {
        self.check(&request)?;
        self.may_follow()?;
        let mut stream = request.into_inner();
        let first =
            stream.message().await?.ok_or_else(|| Status::invalid_argument("header: expected a first frame"))?;
        let offer: SnapshotOffer = from_body("header", &first.header)?;
        if let Some(vote) = self.later_vote(&offer) {
            return Ok(Response::new(wire::SnapshotResponse { body: body(&SnapshotResponse::new(vote))? }));
        }
        let chunks = stream::once(async { Ok(first.chunk) }).chain(stream.map_ok(|frame| frame.chunk));
        // A caller that leaves must not take with it what has come.
        let received = tokio::spawn(receive(self.group.clone(), self.receiving.clone(), offer, chunks)).await;
        let response = received.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(wire::SnapshotResponse { body: body(&response)? }))
    }

    async fn spooled_snapshot(
        &self,
        request: Request<wire::SpooledSnapshotRequest>,
    ) -> Result<Response<wire::SpooledSnapshotResponse>, Status> {
        self.check(&request)?;
        self.may_follow()?;
        let offer: SnapshotOffer = from_body("body", &request.into_inner().body)?;
        // A leader of the past hears of it from its stream.
        let spooled = match self.later_vote(&offer) {
            Some(_) => Spooled::default(),
            None => self.receiving.spooled(&offer).await,
        };
        Ok(Response::new(wire::SpooledSnapshotResponse { bytes: spooled.bytes, crc: spooled.crc }))
    }

    async fn propose(&self, request: Request<wire::ProposeRequest>) -> Result<Response<wire::ProposeResponse>, Status> {
        self.check(&request)?;
        if self.group.leading_term().is_none() {
            return Err(not_leader());
        }
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let commands = request.into_inner().commands;
        let (revision, outcomes) = self.group.propose_here(commands, Author::Caller, deadline).await?;
        Ok(Response::new(wire::ProposeResponse { revision, outcomes: Group::encode_outcomes(&outcomes) }))
    }

    async fn promise(&self, request: Request<wire::PromiseRequest>) -> Result<Response<wire::PromiseResponse>, Status> {
        self.check(&request)?;
        self.may_follow()?;
        let promise = promise_of(&self.group).await.ok_or_else(|| Status::unavailable("raft has stopped"))?;
        Ok(Response::new(wire::PromiseResponse { body: body(&promise)? }))
    }

    async fn digest(&self, request: Request<wire::DigestRequest>) -> Result<Response<wire::DigestResponse>, Status> {
        self.check(&request)?;
        let digest = self.group.applied.digest_at(request.into_inner().revision);
        Ok(Response::new(wire::DigestResponse { known: digest.is_some(), digest: digest.unwrap_or(0) }))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexResponse>, Status> {
        self.check(&request)?;
        match self.group.read_index_here().await {
            Some(revision) => Ok(Response::new(wire::ReadIndexResponse { revision })),
            None => Err(not_leader()),
        }
    }
}
