//! The Meta service: parses, asks the group, answers. Nothing is decided here.

use std::sync::Arc;

use foreword_proto::bad_input::status_for;
use foreword_proto::key::page_keys_from_wire;
use foreword_proto::limits::{
    FEATURE_LEVEL_MAX, HEAT_KEYS_PER_REPORT_MAX, KEYS_MAX, META_MESSAGE_BYTES_MAX, PAGES_PER_PUBLISH_MAX,
    SESSION_WINDOW, SLOTS_PER_ABORT_MAX, SLOTS_PER_GRANT_MAX, SUSPECTS_PER_REPORT_MAX, WIRE_VERSIONS,
};
use foreword_proto::records::{self, Record};
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_proto::wire::meta::meta_server::{Meta, MetaServer};
use foreword_proto::wire::namespace_from_wire;
use foreword_proto::{
    AgentId, BadInput, ClusterId, EntryKey, Namespace, NamespaceId, PageKey, Revision, Sequence, SessionId, SlotRef,
    Versions,
};
use foreword_seams::deadline::deadline_of;
use foreword_seams::{Entropy, Marker, sometimes};
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::lookup;
use crate::eviction::Evictor;
use crate::network::forwarded;
use crate::refusal::{refused, unexpected};
use crate::replica::group::{Group, Leader, PROPOSE_DEADLINE};
use crate::replica::leases::{Leases, Renewal};
use crate::replica::unavailable::Unavailable;
use crate::state::command::{Command, Outcome, Refusal, SessionOperation};
use crate::watch;
use crate::watch::hub::WatchHub;

/// Keys of one command that deletes pages: who waits for the lock of the applied state gets it between two.
const KEYS_PER_DELETE: usize = 1024;

/// The service of one replica.
pub struct MetaService {
    group: Arc<Group>,
    leases: Arc<Leases>,
    evictor: Arc<Evictor>,
    hub: Arc<WatchHub>,
    /// Draws ids of sessions.
    entropy: Arc<dyn Entropy>,
}

impl MetaService {
    /// Serves one replica's group.
    pub fn server(
        group: Arc<Group>,
        leases: Arc<Leases>,
        evictor: Arc<Evictor>,
        hub: Arc<WatchHub>,
        entropy: Arc<dyn Entropy>,
    ) -> MetaServer<Self> {
        MetaServer::new(Self { group, leases, evictor, hub, entropy })
            .max_decoding_message_size(META_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(META_MESSAGE_BYTES_MAX)
    }

    async fn propose(&self, command: Command, deadline: Instant) -> Result<(Revision, Outcome), Status> {
        let (revision, outcome) = self.group.propose_one(command, deadline).await?;
        match outcome {
            Outcome::Refused(refusal) => Err(refused(refusal)),
            outcome => Ok((revision, outcome)),
        }
    }

    /// Opens a session for an agent's process at `endpoint` under a node's name. Each try has an id of its own: one
    /// that was proposed twice could open again after it ended.
    async fn open(
        &self,
        (node, agent): (String, AgentId),
        (incarnation, endpoint): (u64, String),
        deadline: Instant,
    ) -> Result<(Revision, Outcome), Status> {
        loop {
            let session = SessionId(self.entropy.bytes16());
            let (node, endpoint) = (node.clone(), endpoint.clone());
            let command = Command::OpenSession { session, node, agent, incarnation, endpoint };
            match self.group.propose_one(command, deadline).await {
                Err(Unavailable::Unknown) => {
                    self.group.leader_may_change(deadline).await.map_err(|_| Unavailable::Unknown)?;
                }
                Err(unavailable) => return Err(unavailable.into()),
                Ok((_, Outcome::Refused(refusal))) => return Err(refused(refusal)),
                Ok(opened) => return Ok(opened),
            }
        }
    }

    async fn session_command(
        &self,
        session: &[u8],
        sequence: Sequence,
        operation: SessionOperation,
        deadline: Instant,
    ) -> Result<(Revision, Outcome), Status> {
        let session = SessionId::from_wire(session)?;
        if sequence == 0 {
            return Err(BadInput::new("sequence", "a positive number, got 0").into());
        }
        self.propose(Command::Session { session, sequence, operation }, deadline).await
    }

    /// Shards of a registered namespace: the record size of its batches.
    fn shards(&self, namespace: NamespaceId) -> Result<usize, Status> {
        let shards = self.group.applied.peek(|state| state.namespace(namespace).map(|info| info.shards()));
        shards.ok_or_else(|| refused(Refusal::NoNamespace { namespace }))
    }

    /// Like [`Self::shards`], for callers that may come from a replica that is ahead of this one.
    async fn shards_soon(&self, namespace: NamespaceId, deadline: Instant) -> Result<usize, Status> {
        if let Ok(shards) = self.shards(namespace) {
            return Ok(shards);
        }
        self.group.catch_up(deadline).await?;
        self.shards(namespace)
    }

    /// A registered namespace, while this replica is alone and could register none: its pages can be read without a
    /// majority.
    fn known_alone(&self, namespace: &Namespace) -> Option<wire::RegisterNamespaceResponse> {
        if !*self.group.alone.borrow() {
            return None;
        }
        let fingerprint = namespace.fingerprint();
        let known = self.group.applied.peek(|state| {
            state.namespace_of(&fingerprint).map(|info| wire::RegisterNamespaceResponse {
                namespace_id: info.id,
                epoch: info.epoch,
                revision: state.revision(),
                slot_bytes: info.slot_bytes as u32,
            })
        });
        if known.is_some() {
            sometimes(Marker::NamespaceOpenedAlone);
        }
        known
    }

    /// The leader, for a call that is only the leader's. None: it is this replica. A call that was passed on goes no
    /// further.
    fn leader_elsewhere(&self, metadata: &MetadataMap) -> Result<Option<MetaClient<Channel>>, Status> {
        Ok(self.group.leader_channel(metadata)?.map(MetaClient::new))
    }
}

#[tonic::async_trait]
impl Meta for MetaService {
    async fn hello(&self, request: Request<wire::HelloRequest>) -> Result<Response<wire::HelloResponse>, Status> {
        let request = request.into_inner();
        let min = if request.wire_version_min == 0 { request.wire_version } else { request.wire_version_min };
        let theirs = Versions { min, max: request.wire_version };
        let wire_version = WIRE_VERSIONS.highest_shared(theirs).ok_or_else(|| {
            let message = format!("wire_version: expected {WIRE_VERSIONS}, the caller speaks {theirs}");
            status_for(Code::FailedPrecondition, "wire_version", message)
        })?;
        if !request.cluster_id.is_empty() {
            let caller = ClusterId::from_wire(&request.cluster_id)?;
            if caller != self.group.cluster_id {
                let message = format!("cluster_id: expected {}, the caller has {caller}", self.group.cluster_id);
                return Err(status_for(Code::FailedPrecondition, "cluster_id", message));
            }
        }
        let leader_id = match self.group.leader() {
            Leader::Here => self.group.replica_id,
            Leader::There(peer) => peer.address.replica_id,
            Leader::Unknown => 0,
        };
        let response = self.group.applied.read(|state| {
            let settings = state.settings();
            wire::HelloResponse {
                wire_version,
                cluster_id: self.group.cluster_id.to_wire(),
                replica_id: self.group.replica_id,
                leader_id,
                chunk_bytes: settings.chunk_bytes,
                slab_bytes: settings.slab_bytes,
                l3_bytes: settings.l3_bytes,
                lease_ms: settings.lease_ms as u32,
                read_rest_ms: settings.read_rest_ms as u32,
                write_rest_ms: settings.write_rest_ms as u32,
                revision: state.revision(),
                endpoints: self.group.client_endpoints(),
                feature_level: state.feature_level(),
                feature_level_max: FEATURE_LEVEL_MAX,
                first_feature_level: settings.first_feature_level,
                hf3fs_protection_ms: settings.hf3fs_protection_ms as u32,
            }
        });
        Ok(Response::new(response))
    }

    async fn register_namespace(
        &self,
        request: Request<wire::RegisterNamespaceRequest>,
    ) -> Result<Response<wire::RegisterNamespaceResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let namespace = Box::new(namespace_from_wire(request.into_inner().namespace)?);
        if let Some(known) = self.known_alone(&namespace) {
            return Ok(Response::new(known));
        }
        match self.propose(Command::RegisterNamespace { namespace }, deadline).await? {
            (revision, Outcome::NamespaceRegistered { namespace, epoch, slot_bytes }) => {
                Ok(Response::new(wire::RegisterNamespaceResponse {
                    namespace_id: namespace,
                    epoch,
                    revision,
                    slot_bytes: slot_bytes as u32,
                }))
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn open_session(
        &self,
        request: Request<wire::OpenSessionRequest>,
    ) -> Result<Response<wire::OpenSessionResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let wire::OpenSessionRequest { node, incarnation, endpoint, agent_id } = request.into_inner();
        if node.is_empty() || node.len() > 256 {
            return Err(BadInput::new("node", format!("a name of 1 to 256 bytes, got {}", node.len())).into());
        }
        let agent = AgentId::from_wire(&agent_id)?;
        match self.open((node, agent), (incarnation, endpoint), deadline).await? {
            (revision, Outcome::SessionOpened { session }) => Ok(Response::new(wire::OpenSessionResponse {
                session: session.to_wire(),
                lease_ms: self.group.applied.peek(|state| state.settings().lease_ms) as u32,
                window: SESSION_WINDOW as u32,
                revision,
            })),
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn renew_session(
        &self,
        request: Request<wire::RenewSessionRequest>,
    ) -> Result<Response<wire::RenewSessionResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        if let Some(mut leader) = self.leader_elsewhere(request.metadata())? {
            return leader.renew_session(forwarded(request.into_inner(), deadline)).await;
        }
        let session = SessionId::from_wire(&request.into_inner().session)?;
        match self.leases.renew(session) {
            Renewal::Renewed => {
                let (lease_ms, revision) =
                    self.group.applied.peek(|state| (state.settings().lease_ms as u32, state.revision()));
                let endpoints = self.group.client_endpoints();
                return Ok(Response::new(wire::RenewSessionResponse { lease_ms, revision, endpoints }));
            }
            Renewal::NoQuorum => return Err(Status::unavailable("this leader has not heard a quorum lately")),
            Renewal::Unknown => {}
        }
        // A leader that has not applied everything yet, or was deposed, must not say that a session is gone.
        self.group.catch_up(deadline).await?;
        if self.group.applied.peek(|state| state.session(session).is_some()) {
            return Err(Status::unavailable("this replica has just become the leader"));
        }
        Err(refused(Refusal::NoSession { session }))
    }

    async fn close_session(
        &self,
        request: Request<wire::CloseSessionRequest>,
    ) -> Result<Response<wire::CloseSessionResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let session = SessionId::from_wire(&request.into_inner().session)?;
        self.propose(Command::EndSession { session }, deadline).await?;
        Ok(Response::new(wire::CloseSessionResponse {}))
    }

    async fn grant(&self, request: Request<wire::GrantRequest>) -> Result<Response<wire::GrantResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let request = request.into_inner();
        if request.slots == 0 || request.slots > SLOTS_PER_GRANT_MAX {
            let expected = format!("1 to {SLOTS_PER_GRANT_MAX} slots, got {}", request.slots);
            return Err(BadInput::new("slots", expected).into());
        }
        let operation = SessionOperation::Grant { slot_bytes: u64::from(request.slot_bytes), slots: request.slots };
        match self.session_command(&request.session, request.sequence, operation, deadline).await? {
            (revision, Outcome::Granted { slots }) => {
                Ok(Response::new(wire::GrantResponse { slots: records::encode(&slots, 0), revision }))
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn publish(&self, request: Request<wire::PublishRequest>) -> Result<Response<wire::PublishResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let request = request.into_inner();
        let shards = self.shards_soon(request.namespace_id, deadline).await?;
        let record_bytes = records::PageRecord::bytes(shards);
        if !request.pages.len().is_multiple_of(record_bytes) {
            let expected = format!("records of {record_bytes} bytes, got {} bytes", request.pages.len());
            return Err(BadInput::new("pages", expected).into());
        }
        let pages = request.pages.len() / record_bytes;
        if pages == 0 || pages > PAGES_PER_PUBLISH_MAX {
            return Err(BadInput::new("pages", format!("1 to {PAGES_PER_PUBLISH_MAX} pages, got {pages}")).into());
        }
        let operation =
            SessionOperation::Publish { namespace: request.namespace_id, epoch: request.epoch, pages: request.pages };
        match self.session_command(&request.session, request.sequence, operation, deadline).await? {
            (_, Outcome::Published { revision, outcomes, existing }) => Ok(Response::new(wire::PublishResponse {
                revision,
                outcomes: outcomes.iter().map(|outcome| *outcome as u8).collect::<Vec<_>>().into(),
                existing,
            })),
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Result<Response<wire::AbortResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let request = request.into_inner();
        let operation = SessionOperation::Abort {
            unwritten: records::decode::<SlotRef>("unwritten", &request.unwritten, 0, SLOTS_PER_ABORT_MAX)?,
            unknown: records::decode::<SlotRef>("unknown", &request.unknown, 0, SLOTS_PER_ABORT_MAX)?,
        };
        let (revision, _) = self.session_command(&request.session, request.sequence, operation, deadline).await?;
        Ok(Response::new(wire::AbortResponse { revision }))
    }

    async fn suspect(&self, request: Request<wire::SuspectRequest>) -> Result<Response<wire::SuspectResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let request = request.into_inner();
        let session = SessionId::from_wire(&request.session)?;
        let shards = self.shards_soon(request.namespace_id, deadline).await?;
        let suspects = records::decode("suspects", &request.suspects, shards, SUSPECTS_PER_REPORT_MAX)?;
        let command = Command::Suspect { session, namespace: request.namespace_id, suspects };
        match self.propose(command, deadline).await? {
            (revision, Outcome::Suspected { outcomes }) => Ok(Response::new(wire::SuspectResponse {
                outcomes: outcomes.iter().map(|outcome| *outcome as u8).collect::<Vec<_>>().into(),
                revision,
            })),
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn report_heat(
        &self,
        request: Request<wire::ReportHeatRequest>,
    ) -> Result<Response<wire::ReportHeatResponse>, Status> {
        if let Some(mut leader) = self.leader_elsewhere(request.metadata())? {
            let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
            return leader.report_heat(forwarded(request.into_inner(), deadline)).await;
        }
        let request = request.into_inner();
        let keys: Vec<EntryKey> = records::decode("keys", &request.keys, 0, HEAT_KEYS_PER_REPORT_MAX)?;
        let session = SessionId::from_wire(&request.session)?;
        if self.group.applied.peek(|state| state.session(session).is_none()) {
            return Err(refused(Refusal::NoSession { session }));
        }
        self.evictor.heat(session, request.namespace_id, request.epoch, keys);
        Ok(Response::new(wire::ReportHeatResponse {}))
    }

    async fn lookup(&self, request: Request<wire::LookupRequest>) -> Result<Response<wire::LookupResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        lookup::lookup(&self.group, request.into_inner(), deadline).await.map(Response::new)
    }

    type WatchStream = BoxStream<'static, Result<wire::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<wire::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        watch::watch(&self.group, &self.hub, request.into_inner()).map(Response::new)
    }

    async fn clear(&self, request: Request<wire::ClearRequest>) -> Result<Response<wire::ClearResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let namespace = request.into_inner().namespace_id;
        match self.propose(Command::Clear { namespace }, deadline).await? {
            (revision, Outcome::Cleared { epoch }) => Ok(Response::new(wire::ClearResponse { epoch, revision })),
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteResponse>, Status> {
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let request = request.into_inner();
        let keys = page_keys_from_wire("keys", &request.keys, KEYS_MAX)?;
        let namespace = request.namespace_id;
        let command = |keys: &[PageKey]| Command::Delete { namespace, keys: keys.iter().map(PageKey::entry).collect() };
        // Without keys, one that says whether there is such a namespace.
        let commands: Vec<Command> = match keys.as_slice() {
            [] => vec![command(&[])],
            keys => keys.chunks(KEYS_PER_DELETE).map(command).collect(),
        };
        let (revision, outcomes) = self.group.propose(&commands, deadline).await?;
        let mut deleted = 0;
        for outcome in outcomes {
            match outcome {
                Outcome::Retired { entries } => deleted += entries,
                Outcome::Refused(refusal) => return Err(refused(refusal)),
                other => return Err(unexpected(&other)),
            }
        }
        Ok(Response::new(wire::DeleteResponse { deleted, revision }))
    }
}
