//! The Admin service: status, membership, snapshots. Changes run on the leader; another replica passes them on.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::BadInput;
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::admin_client::AdminClient;
use foreword_proto::wire::meta::admin_server::{Admin, AdminServer};
use foreword_seams::deadline::deadline_of;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::names;
use super::status::StatusSource;
use crate::network::{passed_on, was_forwarded};
use crate::replica::changes::{Changes, Voters};
use crate::replica::group::{Group, PROPOSE_DEADLINE};
use crate::replica::newcomer::Newcomer;
use crate::replica::snapshots::keeper::SnapshotAsks;

/// Elections after which a voter that others were faster than is given up.
const MOVES_MAX: usize = 3;
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(300);

/// The service of one replica.
pub struct AdminService {
    source: StatusSource,
    changes: Arc<Changes>,
    snapshots: SnapshotAsks,
}

impl AdminService {
    /// Serves one replica.
    pub(crate) fn server(source: StatusSource, changes: Arc<Changes>, snapshots: SnapshotAsks) -> AdminServer<Self> {
        AdminServer::new(Self { source, changes, snapshots })
    }

    fn group(&self) -> &Group {
        &self.source.group
    }

    /// A client of the leader, none when it is this replica. A call that was passed on goes no further.
    fn leader_elsewhere(&self, metadata: &MetadataMap) -> Result<Option<AdminClient<Channel>>, Status> {
        Ok(self.group().leader_channel(metadata)?.map(AdminClient::new))
    }
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
        if let Some(mut leader) = self.leader_elsewhere(request.metadata())? {
            return leader.add_replica(passed_on(request)).await;
        }
        let request = request.into_inner();
        let newcomer = Newcomer::new(request.replica_id, &request.endpoint, &request.client_endpoint)?;
        self.changes.add(newcomer).await.map(voting)
    }

    async fn remove_replica(
        &self,
        request: Request<wire::RemoveReplicaRequest>,
    ) -> Result<Response<wire::MembershipResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere(request.metadata())? {
            return leader.remove_replica(passed_on(request)).await;
        }
        self.changes.remove(request.into_inner().replica_id).await.map(voting)
    }

    async fn replace_replica(
        &self,
        request: Request<wire::ReplaceReplicaRequest>,
    ) -> Result<Response<wire::MembershipResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere(request.metadata())? {
            return leader.replace_replica(passed_on(request)).await;
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
        let tries = if was_forwarded(request.metadata()) { 1 } else { MOVES_MAX };
        for _ in 0..tries {
            // Whoever won the last time is asked the next.
            let leader = match self.leader_elsewhere(request.metadata())? {
                Some(mut leader) => {
                    let request = passed_on(Request::new(wire::MoveLeaderRequest { to }));
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
        if let Some(mut leader) = self.leader_elsewhere(request.metadata())? {
            return leader.feature_level(passed_on(request)).await;
        }
        super::feature_level::feature_level(self.group(), request.into_inner()).await.map(Response::new)
    }

    async fn trigger_snapshot(
        &self,
        _: Request<wire::TriggerSnapshotRequest>,
    ) -> Result<Response<wire::TriggerSnapshotResponse>, Status> {
        let built = tokio::time::timeout(SNAPSHOT_DEADLINE, self.snapshots.snapshot()).await;
        let revision = built.map_err(|_| Status::deadline_exceeded("snapshot: not built yet"))?;
        let revision = revision.map_err(|error| Status::unavailable(format!("snapshot: {error}")))?;
        Ok(Response::new(wire::TriggerSnapshotResponse { revision }))
    }

    async fn list_namespaces(
        &self,
        request: Request<wire::ListNamespacesRequest>,
    ) -> Result<Response<wire::ListNamespacesResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        names::list_namespaces(self.group(), request.into_inner(), deadline).await.map(Response::new)
    }

    async fn drop_namespace(
        &self,
        request: Request<wire::DropNamespaceRequest>,
    ) -> Result<Response<wire::DropNamespaceResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        names::drop_namespace(self.group(), request.into_inner(), deadline).await.map(Response::new)
    }

    async fn list_page_files(
        &self,
        request: Request<wire::ListPageFilesRequest>,
    ) -> Result<Response<wire::ListPageFilesResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        names::list_page_files(self.group(), deadline).await.map(Response::new)
    }

    async fn drop_page_file(
        &self,
        request: Request<wire::DropPageFileRequest>,
    ) -> Result<Response<wire::DropPageFileResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere(request.metadata())? {
            return leader.drop_page_file(passed_on(request)).await;
        }
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        names::drop_page_file(&self.source.page_files, request.into_inner(), deadline).await.map(Response::new)
    }

    async fn import_hf3fs(
        &self,
        request: Request<wire::ImportHf3fsRequest>,
    ) -> Result<Response<wire::ImportHf3fsResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        super::import::import(self.group(), request.into_inner(), deadline).await.map(Response::new)
    }
}
