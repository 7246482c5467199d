//! Channels to other replicas, made once each and kept, carrying the cluster's identity on every call.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::limits::{RAFT_MESSAGE_BYTES_MAX, WIRE_VERSIONS};
use foreword_proto::wire::raft::raft_client::RaftClient;
use foreword_proto::{ClusterId, Versions};
use foreword_seams::{Endpoint, Net, rpc};
use parking_lot::Mutex;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::reach::Reach;

const CLUSTER_METADATA: &str = "foreword-cluster";
/// `MIN-MAX`: the wire versions that the caller speaks. Both sides use the highest they share.
const VERSIONS_METADATA: &str = "foreword-wire-versions";

/// Says on every call of which cluster this replica is and which wire versions it speaks; checks the same of callers.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    cluster_id: ClusterId,
}

impl PeerIdentity {
    /// The identity of this cluster's replicas.
    pub fn new(cluster_id: ClusterId) -> Self {
        Self { cluster_id }
    }

    /// Refuses a caller of another cluster, or one that shares no wire version.
    pub fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let said = |key| request.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or("none");
        let theirs = said(VERSIONS_METADATA);
        let shared = theirs.parse::<Versions>().ok().and_then(|theirs| WIRE_VERSIONS.highest_shared(theirs));
        if shared.is_none() {
            let message = format!("wire_version: expected {WIRE_VERSIONS}, the peer speaks {theirs}");
            return Err(foreword_proto::bad_input::status_for(
                tonic::Code::FailedPrecondition,
                "wire_version",
                message,
            ));
        }
        if said(CLUSTER_METADATA) != self.cluster_id.to_string() {
            let message = format!("cluster_id: expected {}, the peer has {}", self.cluster_id, said(CLUSTER_METADATA));
            return Err(foreword_proto::bad_input::status_for(tonic::Code::FailedPrecondition, "cluster_id", message));
        }
        Ok(())
    }
}

impl Interceptor for PeerIdentity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let cluster = self.cluster_id.to_string();
        let cluster = MetadataValue::try_from(cluster).map_err(|error| Status::internal(error.to_string()))?;
        request.metadata_mut().insert(CLUSTER_METADATA, cluster);
        let versions = MetadataValue::try_from(WIRE_VERSIONS.to_string());
        let versions = versions.map_err(|error| Status::internal(error.to_string()))?;
        request.metadata_mut().insert(VERSIONS_METADATA, versions);
        Ok(request)
    }
}

/// A channel that says on every call whose it is.
pub(crate) type IdentifiedChannel = InterceptedService<Channel, PeerIdentity>;

/// A client of another replica's Raft service.
pub(super) type PeerClient = RaftClient<IdentifiedChannel>;

/// The channels, by endpoint. Making one per call costs milliseconds (facts/STACK.md).
pub struct Peers {
    net: Arc<dyn Net>,
    identity: PeerIdentity,
    channels: Mutex<BTreeMap<String, Channel>>,
    reach: Reach,
}

impl Peers {
    /// No channels yet.
    pub fn new(net: Arc<dyn Net>, cluster_id: ClusterId) -> Self {
        Self { net, identity: PeerIdentity::new(cluster_id), channels: Mutex::default(), reach: Reach::default() }
    }

    /// Which peers can be reached.
    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// The channel to an endpoint.
    pub fn channel(&self, endpoint: &str) -> Channel {
        self.channels
            .lock()
            .entry(endpoint.to_owned())
            .or_insert_with(|| {
                let target = endpoint.parse().unwrap_or_else(|_| Endpoint::Tcp(endpoint.to_owned()));
                rpc::channel(self.net.clone(), &target)
            })
            .clone()
    }

    /// The channel to an endpoint, for a service that only replicas call.
    pub(crate) fn identified(&self, endpoint: &str) -> IdentifiedChannel {
        InterceptedService::new(self.channel(endpoint), self.identity.clone())
    }

    /// A client of the Raft service at an endpoint.
    pub fn raft_client(&self, endpoint: &str) -> PeerClient {
        RaftClient::new(self.identified(endpoint))
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX)
    }
}
