//! The Admin service: status, membership, snapshots. Changes run on the leader; another replica passes them on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foreword_proto::BadInput;
use foreword_proto::bad_input::status_for;
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::admin_client::AdminClient;
use foreword_proto::wire::meta::admin_server::{Admin, AdminServer};
use foreword_seams::{Endpoint, Marker, sometimes};
use openraft::ChangeMembers;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::status::StatusSource;
use crate::consensus::types::Member;
use crate::replica::group::{Group, Leader};

/// A learner gets a whole snapshot before it may vote.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(600);
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(300);

/// The service of one replica.
pub struct AdminService {
    source: StatusSource,
}

impl AdminService {
    /// Serves one replica.
    pub fn server(source: StatusSource) -> AdminServer<Self> {
        AdminServer::new(Self { source })
    }

    fn group(&self) -> &Group {
        &self.source.group
    }

    /// A client of the leader, none when it is this replica.
    fn leader_elsewhere(&self) -> Result<Option<AdminClient<Channel>>, Status> {
        match self.group().leader() {
            Leader::Here => Ok(None),
            Leader::There { endpoint, .. } => Ok(Some(AdminClient::new(self.group().peers.channel(&endpoint)))),
            Leader::Unknown => Err(Status::unavailable("no leader")),
        }
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.group().raft.metrics().borrow().membership_config.membership().voter_ids().collect()
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<Response<wire::MembershipResponse>, Status> {
        let response = self
            .group()
            .raft
            .change_membership(change, false)
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        let membership =
            response.membership.map_or_else(|| self.voters(), |membership| membership.voter_ids().collect());
        Ok(Response::new(wire::MembershipResponse { voters: membership.into_iter().collect() }))
    }

    /// Brings a new replica up to date as a learner.
    async fn learn(&self, replica_id: u64, endpoint: &str) -> Result<(), Status> {
        if replica_id == 0 {
            return Err(BadInput::new("replica_id", "a positive number, got 0").into());
        }
        let endpoint: Endpoint = endpoint.parse().map_err(Status::from)?;
        let known: BTreeMap<u64, String> = self.group().applied.read_with_position(|_, position| {
            position.membership.nodes().map(|(id, member)| (*id, member.peer.clone())).collect()
        });
        if known.get(&replica_id).is_some_and(|addr| *addr != endpoint.to_string()) {
            let message = format!("replica_id: expected one that is free, {replica_id} is at {}", known[&replica_id]);
            return Err(status_for(Code::AlreadyExists, "replica_id", message));
        }
        let (peer, client) = (endpoint.to_string(), endpoint.to_string());
        let member = Member { peer, client, ..Member::default() };
        let learning = self.group().raft.add_learner(replica_id, member, true);
        match tokio::time::timeout(CATCH_UP_DEADLINE, learning).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
            Err(_) => {
                Err(Status::deadline_exceeded(format!("replica {replica_id} did not catch up; it stays a learner")))
            }
        }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        let json = serde_json::to_string(&self.source.status()).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(wire::StatusResponse { json }))
    }

    async fn add_replica(
        &self,
        request: Request<wire::AddReplicaRequest>,
    ) -> Result<Response<wire::MembershipResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere()? {
            return leader.add_replica(request.into_inner()).await;
        }
        let request = request.into_inner();
        self.learn(request.replica_id, &request.endpoint).await?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([request.replica_id]))).await
    }

    async fn remove_replica(
        &self,
        request: Request<wire::RemoveReplicaRequest>,
    ) -> Result<Response<wire::MembershipResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere()? {
            return leader.remove_replica(request.into_inner()).await;
        }
        let replica_id = request.into_inner().replica_id;
        let voters = self.voters();
        if !voters.contains(&replica_id) {
            let message = format!("replica_id: expected one of {voters:?}, got {replica_id}");
            return Err(status_for(Code::NotFound, "replica_id", message));
        }
        if voters.len() == 1 {
            let message = "replica_id: expected another replica to remain, this is the last";
            return Err(status_for(Code::FailedPrecondition, "replica_id", message));
        }
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([replica_id]))).await
    }

    async fn replace_replica(
        &self,
        request: Request<wire::ReplaceReplicaRequest>,
    ) -> Result<Response<wire::MembershipResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere()? {
            return leader.replace_replica(request.into_inner()).await;
        }
        let request = request.into_inner();
        let mut voters = self.voters();
        if !voters.remove(&request.old_replica_id) {
            let message =
                format!("old_replica_id: expected one of {:?}, got {}", self.voters(), request.old_replica_id);
            return Err(status_for(Code::NotFound, "old_replica_id", message));
        }
        self.learn(request.new_replica_id, &request.endpoint).await?;
        voters.insert(request.new_replica_id);
        let changed = self.change(ChangeMembers::ReplaceAllVoters(voters)).await;
        changed.inspect(|_| sometimes(Marker::ReplicaReplaced))
    }

    async fn feature_level(
        &self,
        request: Request<wire::FeatureLevelRequest>,
    ) -> Result<Response<wire::FeatureLevelResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere()? {
            return leader.feature_level(request.into_inner()).await;
        }
        super::feature_level::feature_level(self.group(), request.into_inner()).await.map(Response::new)
    }

    async fn trigger_snapshot(
        &self,
        _: Request<wire::TriggerSnapshotRequest>,
    ) -> Result<Response<wire::TriggerSnapshotResponse>, Status> {
        let group = self.group();
        let wanted = group.applied.revision();
        group.raft.trigger().snapshot().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let built = group
            .raft
            .wait(Some(SNAPSHOT_DEADLINE))
            .metrics(|m| m.snapshot.is_some_and(|id| id.index >= wanted), "snapshot built")
            .await
            .map_err(|error| Status::deadline_exceeded(error.to_string()))?;
        Ok(Response::new(wire::TriggerSnapshotResponse { revision: built.snapshot.map_or(0, |id| id.index) }))
    }

    async fn import_hf3fs(
        &self,
        request: Request<wire::ImportHf3fsRequest>,
    ) -> Result<Response<wire::ImportHf3fsResponse>, Status> {
        super::import::import(self.group(), request.into_inner()).await.map(Response::new)
    }
}
