//! Who answers at an endpoint: what a replica says of itself to another before anything depends on it.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_proto::versions::Versions;
use foreword_proto::wire::raft as wire;
use foreword_proto::{BadInput, DirectoryId};
use openraft::CommittedLeaderId;
use tonic::Status;

use super::address::Address;
use super::peers::Peers;
use crate::consensus::types::LogId;
use crate::state::command::ClusterSettings;

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// With its directory, always.
    pub(crate) address: Address,
    /// It never took part in a group: it has no entry, no snapshot and no vote, and lost none.
    pub(crate) pristine: bool,
    /// Wires it speaks.
    pub(crate) wire: Versions,
    /// The highest feature level it knows.
    pub(crate) feature_level: u32,
    /// The entry that set `members`; None: they are those that its data directory was made with.
    pub(crate) membership: Option<LogId>,
    pub(crate) members: BTreeMap<u64, Known>,
    /// What its data directory was made with.
    pub(crate) settings: ClusterSettings,
}

/// A member as another replica knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) peer: String,
    pub(crate) client: String,
    /// None: nobody has told yet.
    pub(crate) directory: Option<DirectoryId>,
    pub(crate) voter: bool,
}

impl Peers {
    /// Asks whoever answers at an endpoint, where this replica is expected. It may be another one.
    ///
    /// Errors: the callee's, as of another cluster; DEADLINE_EXCEEDED after `within`.
    pub(crate) async fn hello(&self, expected: u64, endpoint: &str, within: Duration) -> Result<Hello, Status> {
        let mut client = self.client_of_anyone(endpoint);
        let answer = tokio::time::timeout(within, client.hello(wire::HelloRequest {})).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        let hello = Hello::from_wire(answer.into_inner())?;
        if hello.address.replica_id != expected {
            self.answered_by_another(endpoint);
        }
        Ok(hello)
    }
}

impl Hello {
    /// As a message.
    pub(crate) fn to_wire(&self) -> wire::HelloResponse {
        let members = self.members.iter().map(|(id, known)| wire::KnownMember {
            replica_id: *id,
            peer: known.peer.clone(),
            client: known.client.clone(),
            directory: directory_to_wire(known.directory),
            voter: known.voter,
        });
        wire::HelloResponse {
            replica_id: self.address.replica_id,
            directory: directory_to_wire(self.address.directory),
            pristine: self.pristine,
            wire_version_min: self.wire.min,
            wire_version_max: self.wire.max,
            feature_level: self.feature_level,
            membership: self.membership.map(|id| wire::LogPosition {
                term: id.leader_id.term,
                leader: id.leader_id.node_id,
                index: id.index,
            }),
            members: members.collect(),
            settings: serde_json::to_string(&self.settings).unwrap_or_default(),
        }
    }

    fn from_wire(message: wire::HelloResponse) -> Result<Self, BadInput> {
        let members = message.members.into_iter().map(|member| {
            let directory = directory_from_wire(&member.directory)?;
            let wire::KnownMember { replica_id, peer, client, voter, .. } = member;
            Ok((replica_id, Known { peer, client, directory, voter }))
        });
        Ok(Self {
            address: Address::of(message.replica_id, DirectoryId::from_wire(&message.directory)?),
            pristine: message.pristine,
            wire: Versions { min: message.wire_version_min, max: message.wire_version_max },
            feature_level: message.feature_level,
            membership: message
                .membership
                .map(|at| LogId { leader_id: CommittedLeaderId::new(at.term, at.leader), index: at.index }),
            members: members.collect::<Result<_, BadInput>>()?,
            settings: serde_json::from_str(&message.settings)
                .map_err(|error| BadInput::new("settings", format!("the cluster's settings: {error}")))?,
        })
    }
}

fn directory_to_wire(directory: Option<DirectoryId>) -> bytes::Bytes {
    directory.map_or_else(bytes::Bytes::new, DirectoryId::to_wire)
}

fn directory_from_wire(bytes: &[u8]) -> Result<Option<DirectoryId>, BadInput> {
    if bytes.is_empty() { Ok(None) } else { DirectoryId::from_wire(bytes).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_the_wire() {
        let known =
            |directory| Known { peer: "m:1".into(), client: "c:1".into(), directory, voter: directory.is_some() };
        let hello = Hello {
            address: Address::of(3, DirectoryId([3; 16])),
            pristine: true,
            wire: Versions { min: 1, max: 2 },
            feature_level: 7,
            membership: Some(LogId { leader_id: CommittedLeaderId::new(4, 2), index: 9 }),
            members: [(1, known(None)), (2, known(Some(DirectoryId([2; 16]))))].into(),
            settings: ClusterSettings::of_a_test(),
        };
        assert_eq!(Hello::from_wire(hello.to_wire()).unwrap(), hello);
        let nameless = wire::HelloResponse { directory: bytes::Bytes::new(), ..hello.to_wire() };
        assert_eq!(Hello::from_wire(nameless).unwrap_err().field, "directory");
    }
}
