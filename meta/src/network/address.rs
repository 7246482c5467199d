//! Whom a call is for, and from whom: every call between replicas says so, and the callee refuses what is not meant for
//! it.
//!
//! Raft counts votes and acknowledgements by the id that was dialled. Whatever else answers at that endpoint, by a slip
//! of the pen or by a name that resolves elsewhere by now, must therefore not answer as that id.

use std::fmt;
use std::str::FromStr;

use foreword_proto::bad_input::status_for;
use foreword_proto::limits::WIRE_VERSIONS;
use foreword_proto::{BadInput, ClusterId, DirectoryId, Versions};
use foreword_seams::{Marker, sometimes};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

use crate::consensus::types::Member;

const CLUSTER_METADATA: &str = "foreword-cluster";
/// `MIN-MAX`: the wire versions that the caller speaks. Both sides use the highest they share.
const VERSIONS_METADATA: &str = "foreword-wire-versions";
const FROM_METADATA: &str = "foreword-from";
const TO_METADATA: &str = "foreword-to";
/// The fields of a refusal that says that the call is for somebody else.
const ID_FIELD: &str = "replica_id";
const DIRECTORY_FIELD: &str = "directory";

/// A replica, with its data directory where that is known. As text: `3`, or `3/` and the directory's 32 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub replica_id: u64,
    pub directory: Option<DirectoryId>,
}

impl Address {
    /// A replica of which only the id is known.
    pub fn of_id(replica_id: u64) -> Self {
        Self { replica_id, directory: None }
    }

    /// A replica with its directory.
    pub fn of(replica_id: u64, directory: DirectoryId) -> Self {
        Self { replica_id, directory: Some(directory) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.directory {
            Some(directory) => write!(f, "{}/{directory}", self.replica_id),
            None => write!(f, "{}", self.replica_id),
        }
    }
}

impl FromStr for Address {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let bad = || BadInput::new("replica_id", format!("ID or ID/DIRECTORY, got {text:?}"));
        let (id, directory) = match text.split_once('/') {
            Some((id, directory)) => (id, Some(directory.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        Ok(Self { replica_id: id.parse().map_err(|_| bad())?, directory })
    }
}

/// Where a replica is expected, and which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub address: Address,
    /// Its gRPC endpoint.
    pub endpoint: String,
}

impl Peer {
    /// A member of the group.
    pub fn member(replica_id: u64, member: &Member) -> Self {
        Self { address: Address::of(replica_id, member.directory), endpoint: member.peer.clone() }
    }
}

/// Who this replica is to others: it says so on every call, and checks of callers that they mean it.
#[derive(Clone, Copy, Debug)]
pub struct PeerIdentity {
    cluster_id: ClusterId,
    replica_id: u64,
    directory: DirectoryId,
}

impl PeerIdentity {
    /// A replica of this cluster.
    pub fn new(cluster_id: ClusterId, replica_id: u64, directory: DirectoryId) -> Self {
        Self { cluster_id, replica_id, directory }
    }

    /// What goes on each call; `to`: None for a question to whoever answers.
    pub(crate) fn calling(self, to: Option<Address>) -> Addressed {
        Addressed { caller: self, to }
    }

    /// Refuses a caller of another cluster or one that shares no wire version, and a call for another replica or for
    /// another directory of this id. Gives who calls.
    ///
    /// Errors: FAILED_PRECONDITION, its field `wire_version`, `cluster_id`, `replica_id` or `directory`.
    pub(crate) fn check(&self, metadata: &MetadataMap) -> Result<Address, Status> {
        let from = self.check_cluster(metadata)?;
        let to = address(metadata, TO_METADATA)?;
        if to.replica_id != self.replica_id {
            sometimes(Marker::MisaddressedCallRefused);
            let message = format!(
                "replica_id: expected a call for replica {}, which answers here, got one of replica {} for replica {}",
                self.replica_id, from.replica_id, to.replica_id
            );
            return Err(status_for(Code::FailedPrecondition, ID_FIELD, message));
        }
        if let Some(meant) = to.directory.filter(|meant| *meant != self.directory) {
            sometimes(Marker::MisaddressedCallRefused);
            return Err(other_directory(self.replica_id, self.directory, meant));
        }
        Ok(from)
    }

    /// Like [`Self::check`], for a question to whoever answers at an endpoint.
    pub(crate) fn check_cluster(&self, metadata: &MetadataMap) -> Result<Address, Status> {
        let theirs = said(metadata, VERSIONS_METADATA);
        let shared = theirs.parse::<Versions>().ok().and_then(|theirs| WIRE_VERSIONS.highest_shared(theirs));
        if shared.is_none() {
            let message = format!("wire_version: expected {WIRE_VERSIONS}, the peer speaks {theirs}");
            return Err(status_for(Code::FailedPrecondition, "wire_version", message));
        }
        let cluster = said(metadata, CLUSTER_METADATA);
        if cluster != self.cluster_id.to_string() {
            let message = format!("cluster_id: expected {}, the peer has {cluster}", self.cluster_id);
            return Err(status_for(Code::FailedPrecondition, "cluster_id", message));
        }
        address(metadata, FROM_METADATA)
    }
}

/// A replica id that goes with another directory.
pub(crate) fn other_directory(replica_id: u64, expected: DirectoryId, got: DirectoryId) -> Status {
    let message = format!("directory: expected {expected}, which is replica {replica_id}'s, got {got}");
    status_for(Code::FailedPrecondition, DIRECTORY_FIELD, message)
}

/// Whether a refusal that names this field says that the call is for another replica, or another directory, than the
/// one that answers.
pub(super) fn is_about_addressee(field: &str) -> bool {
    [ID_FIELD, DIRECTORY_FIELD].contains(&field)
}

fn said<'a>(metadata: &'a MetadataMap, key: &str) -> &'a str {
    metadata.get(key).and_then(|value| value.to_str().ok()).unwrap_or("none")
}

fn address(metadata: &MetadataMap, key: &str) -> Result<Address, Status> {
    let text = said(metadata, key);
    text.parse().map_err(|error: BadInput| {
        status_for(Code::FailedPrecondition, ID_FIELD, format!("replica_id: metadata {key}: {error}"))
    })
}

/// Puts on every call whose it is, and whom it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressed {
    caller: PeerIdentity,
    to: Option<Address>,
}

impl Interceptor for Addressed {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = |text: String| MetadataValue::try_from(text).map_err(|error| Status::internal(error.to_string()));
        let PeerIdentity { cluster_id, replica_id, directory } = self.caller;
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER_METADATA, value(cluster_id.to_string())?);
        metadata.insert(VERSIONS_METADATA, value(WIRE_VERSIONS.to_string())?);
        metadata.insert(FROM_METADATA, value(Address::of(replica_id, directory).to_string())?);
        if let Some(to) = self.to {
            metadata.insert(TO_METADATA, value(to.to_string())?);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::bad_input::field_of;

    use super::*;

    fn replica(id: u64, directory: u8) -> PeerIdentity {
        PeerIdentity::new(ClusterId([1; 16]), id, DirectoryId([directory; 16]))
    }

    fn call(caller: PeerIdentity, to: Option<Address>) -> MetadataMap {
        caller.calling(to).call(Request::new(())).unwrap().metadata().clone()
    }

    #[test]
    fn a_call_says_whose_it_is_and_is_taken_by_whom_it_is_for() {
        let from = replica(2, 2);
        for to in [Address::of_id(1), Address::of(1, DirectoryId([1; 16]))] {
            let caller = replica(1, 1).check(&call(from, Some(to))).unwrap();
            assert_eq!(caller, Address::of(2, DirectoryId([2; 16])));
        }
        assert_eq!(replica(1, 1).check_cluster(&call(from, None)).unwrap().replica_id, 2);
    }

    #[test]
    fn what_is_for_another_replica_or_directory_is_refused_by_name() {
        let from = replica(2, 2);
        let refused = |to| replica(1, 1).check(&call(from, to)).unwrap_err();
        let other = refused(Some(Address::of_id(4)));
        assert_eq!((other.code(), field_of(&other)), (Code::FailedPrecondition, Some("replica_id")));
        assert!(other.message().contains("for replica 1,") && other.message().contains("for replica 4"), "{other}");
        let old = refused(Some(Address::of(1, DirectoryId([9; 16]))));
        assert_eq!((old.code(), field_of(&old)), (Code::FailedPrecondition, Some("directory")));
        assert_eq!(field_of(&refused(None)), Some("replica_id"));
        let stranger = PeerIdentity::new(ClusterId([7; 16]), 2, DirectoryId([2; 16]));
        let stranger = replica(1, 1).check(&call(stranger, Some(Address::of_id(1)))).unwrap_err();
        assert_eq!(field_of(&stranger), Some("cluster_id"));
    }

    #[test]
    fn addresses_read_what_they_write() {
        for address in [Address::of_id(3), Address::of(u64::MAX, DirectoryId([0xab; 16]))] {
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
        for text in ["", "x", "3/", "3/ab", "/"] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
