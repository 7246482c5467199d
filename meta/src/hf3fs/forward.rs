//! A call on its way from a replica that does not lead to the one that does: both ends.

use std::sync::Arc;

use foreword_proto::limits::RAFT_MESSAGE_BYTES_MAX;
use foreword_proto::wire::page_files as wire;
use foreword_proto::wire::page_files::page_files_client::PageFilesClient;
use foreword_proto::wire::page_files::page_files_server::{PageFiles, PageFilesServer};
use foreword_seams::deadline::deadline_of;
use foreword_seams::{Marker, sometimes};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status};

use super::{Answer, Call, Leader, Operation};
use crate::network::{Peer, PeerIdentity, forwarded};
use crate::replica::group::{Group, PROPOSE_DEADLINE};
use crate::replica::unavailable::Unavailable;

/// Calls passed on at once: the leader refuses more on one connection, and votes travel on it too.
const FORWARDS_MAX: usize = 256;

/// This replica's end while another leads.
pub(super) struct Forwards {
    group: Arc<Group>,
    permits: Semaphore,
}

impl Forwards {
    /// No call is under way.
    pub(super) fn new(group: Arc<Group>) -> Self {
        Self { group, permits: Semaphore::new(FORWARDS_MAX) }
    }

    /// Asks the leader, as long as it leads and `deadline` has not passed.
    pub(super) async fn ask(&self, leader: &Peer, call: &Call, deadline: Instant) -> Result<Answer, Unavailable> {
        let permit = timeout_at(deadline, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(Unavailable::Overloaded) };
        let mut client = PageFilesClient::new(self.group.peers.addressed(leader))
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        let request = wire::DecideRequest {
            deployment: call.deployment.clone(),
            rank: call.rank,
            operation: call.operation.name().into(),
            body: call.body.clone(),
        };
        let answer = client.decide(forwarded(request, deadline));
        let response = match self.group.while_leads(leader.address.replica_id, deadline, answer).await {
            Some(Ok(response)) => response.into_inner(),
            Some(Err(status)) if status.code() == Code::ResourceExhausted => return Err(Unavailable::Overloaded),
            Some(Err(_)) | None => return Err(Unavailable::Unknown),
        };
        sometimes(Marker::PageFileCallForwarded);
        let status = u16::try_from(response.status).unwrap_or(503);
        Ok(Answer { status, body: response.body, revision: response.revision })
    }
}

/// This replica's end while it leads.
pub struct ForwardedCalls {
    identity: PeerIdentity,
    leader: Arc<Leader>,
}

impl ForwardedCalls {
    /// The service of one replica; `identity` says whose calls it takes.
    pub fn server(identity: PeerIdentity, leader: Arc<Leader>) -> PageFilesServer<Self> {
        PageFilesServer::new(Self { identity, leader })
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl PageFiles for ForwardedCalls {
    async fn decide(&self, request: Request<wire::DecideRequest>) -> Result<Response<wire::DecideResponse>, Status> {
        self.identity.check(request.metadata())?;
        let deadline = deadline_of(request.metadata(), PROPOSE_DEADLINE);
        let wire::DecideRequest { deployment, rank, operation, body } = request.into_inner();
        let operation = Operation::named(&operation).ok_or_else(|| {
            Status::unimplemented(format!("operation: expected one of this version, got {operation}"))
        })?;
        let call = Call { deployment, rank, operation, body };
        let answer = self.leader.answer(&call, deadline).await?;
        Ok(Response::new(wire::DecideResponse {
            status: answer.status.into(),
            body: answer.body,
            revision: answer.revision,
        }))
    }
}
