//! The first words with the group: do we belong together?

use foreword_proto::limits::WIRE_VERSIONS;
use foreword_proto::wire::meta as wire;
use foreword_proto::{BadInput, ClusterId};
use foreword_seams::rpc;
use tokio::time::Instant;
use tonic::Status;

use crate::group::Group;
use crate::retry::{Next, next};

/// What the group says of itself and every agent must agree with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub cluster_id: ClusterId,
    pub chunk_bytes: u32,
    /// A slab file's size, before rounding down to whole slots.
    pub slab_bytes: u64,
    pub lease_ms: u32,
}

/// Why an agent does not join.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("no replica answered: {}", rpc::words(.0))]
    NoReplica(Status),
    #[error("the group refused: {}", rpc::words(.0))]
    Refused(Status),
    #[error("wire_version: this agent speaks {WIRE_VERSIONS}, the replica {0}")]
    OtherVersion(u32),
    #[error("cluster_id: configured {configured}, the replicas belong to {theirs}")]
    OtherCluster { configured: ClusterId, theirs: ClusterId },
    #[error("the replica's hello is malformed: {0}")]
    Malformed(#[from] BadInput),
}

impl Group {
    /// Finds the group and checks that this agent belongs to it; learns who its members are.
    pub async fn hello(&self, expected: Option<ClusterId>, deadline: Instant) -> Result<Cluster, HelloError> {
        let cluster_id = expected.map(|id| id.0.to_vec()).unwrap_or_default();
        let request = wire::HelloRequest {
            wire_version: WIRE_VERSIONS.max,
            wire_version_min: WIRE_VERSIONS.min,
            cluster_id: cluster_id.into(),
        };
        let answer = self
            .retry(deadline, |mut replica| {
                let request = request.clone();
                async move { replica.hello(request).await }
            })
            .await
            .map_err(|status| match next(&status) {
                Next::Elsewhere => HelloError::NoReplica(status),
                Next::Final => HelloError::Refused(status),
            })?;
        if !WIRE_VERSIONS.contains(answer.wire_version) {
            return Err(HelloError::OtherVersion(answer.wire_version));
        }
        let theirs = ClusterId::from_wire(&answer.cluster_id)?;
        if let Some(configured) = expected.filter(|id| *id != theirs) {
            return Err(HelloError::OtherCluster { configured, theirs });
        }
        self.members_are(&answer.endpoints);
        Ok(Cluster {
            cluster_id: theirs,
            chunk_bytes: answer.chunk_bytes,
            slab_bytes: answer.slab_bytes,
            lease_ms: answer.lease_ms,
        })
    }
}
