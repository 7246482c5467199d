//! The Admin service: status, membership, snapshots. Changes run on the leader; another replica passes them on.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::BadInput;
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::admin_client::AdminClient;
use foreword_proto::wire::meta::admin_server::{Admin, AdminServer};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::status::StatusSource;
use crate::replica::changes::{Changes, Voters};
use crate::replica::group::{Group, Leader, not_leader};
use crate::replica::newcomer::Newcomer;

/// On a call that another replica has passed on: it is not passed on again.
const FORWARDED_METADATA: &str = "foreword-forwarded";
/// Elections after which a voter that others were faster than is given up.
const MOVES_MAX: usize = 3;
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(300);

/// The service of one replica.
pub struct AdminService {
    source: StatusSource,
    changes: Arc<Changes>,
}

impl AdminService {
    /// Serves one replica.
    pub(crate) fn server(source: StatusSource, changes: Arc<Changes>) -> AdminServer<Self> {
        AdminServer::new(Self { source, changes })
    }

    fn group(&self) -> &Group {
        &self.source.group
    }

    /// A client of the leader, none when it is this replica. A name that leads back here must not make a call go round and round.
    fn leader_elsewhere<T>(&self, request: &Request<T>) -> Result<Option<AdminClient<Channel>>, Status> {
        match self.group().leader() {
            Leader::Here => Ok(None),
            _ if request.metadata().contains_key(FORWARDED_METADATA) => Err(not_leader()),
            Leader::There(peer) => Ok(Some(AdminClient::new(self.group().peers.channel(&peer.endpoint)))),
            Leader::Unknown => Err(Status::unavailable("no leader")),
        }
    }
}

fn forwarded<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().insert(FORWARDED_METADATA, MetadataValue::from(1));
    request
}

fn voting(voters: Voters) -> Response<wire::MembershipResponse> {
    Response::new(wire::MembershipResponse { voters: voters.into_iter().collect() })
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
        if let Some(mut leader) = self.leader_elsewhere(&request)? {
            return leader.add_replica(forwarded(request)).await;
        }
        let request = request.into_inner();
        let newcomer = Newcomer::new(request.replica_id, &request.endpoint, &request.client_endpoint)?;
        self.changes.add(newcomer).await.map(voting)
    }

    async fn remove_replica(
        &self,
        request: Request<wire::RemoveReplicaRequest>,
    ) -> Result<Response<wire::MembershipResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere(&request)? {
            return leader.remove_replica(forwarded(request)).await;
        }
        self.changes.remove(request.into_inner().replica_id).await.map(voting)
    }

    async fn replace_replica(
        &self,
        request: Request<wire::ReplaceReplicaRequest>,
    ) -> Result<Response<wire::MembershipResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere(&request)? {
            return leader.replace_replica(forwarded(request)).await;
        }
        let request = request.into_inner();
        let newcomer =
            Newcomer::new(request.new_replica_id, &request.endpoint, &request.client_endpoint).map_err(|error| {
                match error.field.as_str() {
                    "replica_id" => BadInput { field: "new_replica_id".into(), ..error },
                    _ => error,
                }
            })?;
        self.changes.replace(request.old_replica_id, newcomer).await.map(voting)
    }

    async fn move_leader(
        &self,
        request: Request<wire::MoveLeaderRequest>,
    ) -> Result<Response<wire::MoveLeaderResponse>, Status> {
        let to = request.get_ref().to;
        let tries = if request.metadata().contains_key(FORWARDED_METADATA) { 1 } else { MOVES_MAX };
        for _ in 0..tries {
            // Whoever won the last time is asked the next.
            let leader = match self.leader_elsewhere(&request)? {
                Some(mut leader) => {
                    let request = forwarded(Request::new(wire::MoveLeaderRequest { to }));
                    leader.move_leader(request).await?.into_inner().leader
                }
                None => self.changes.hand_over(to).await?,
            };
            if leader == to || tries == 1 {
                return Ok(Response::new(wire::MoveLeaderResponse { leader }));
            }
        }
        Err(Status::deadline_exceeded(format!("to: replica {to} did not win one of {MOVES_MAX} elections")))
    }

    async fn feature_level(
        &self,
        request: Request<wire::FeatureLevelRequest>,
    ) -> Result<Response<wire::FeatureLevelResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere(&request)? {
            return leader.feature_level(forwarded(request)).await;
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
