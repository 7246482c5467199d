//! A replica that is to be taken into the group: who answers at its endpoint, and whether it has what was committed.

use std::time::Duration;

use foreword_proto::bad_input::status_for;
use foreword_proto::limits::WIRE_VERSIONS;
use foreword_proto::{BadInput, DirectoryId};
use foreword_seams::{Endpoint, rpc};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use super::group::Group;
use super::unavailable::not_leader;
use crate::consensus::types::Member;
use crate::network::hello::Hello;

/// A newcomer that says nothing for so long is given up.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);
/// So is one that gets no further for so long.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// What the operator says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Newcomer {
    pub(crate) replica_id: u64,
    /// Where the other replicas reach it, and where agents do.
    pub(crate) peer: String,
    pub(crate) client: String,
}

impl Newcomer {
    /// Parses a request; no client endpoint: the same as for replicas.
    pub(crate) fn new(replica_id: u64, peer: &str, client: &str) -> Result<Self, BadInput> {
        if replica_id == 0 {
            return Err(BadInput::new("replica_id", "a positive number, got 0"));
        }
        let client = if client.is_empty() { peer } else { client };
        let parse = |field: &'static str, text: &str| match text.parse::<Endpoint>() {
            Ok(endpoint @ Endpoint::Tcp(_)) => Ok(endpoint.to_string()),
            _ => Err(BadInput::new(field, format!("HOST:PORT, got {text:?}"))),
        };
        let (peer, client) = (parse("endpoint", peer)?, parse("client_endpoint", client)?);
        Ok(Self { replica_id, peer, client })
    }

    /// Asks whoever answers at its endpoint, until something does.
    ///
    /// Errors: FAILED_PRECONDITION with the field, when nobody answers, or somebody else.
    pub(crate) async fn prove(&self, group: &Group) -> Result<Member, Status> {
        let until = Instant::now() + SILENCE_MAX;
        let hello = loop {
            match group.peers.hello(self.replica_id, &self.peer, ASK_TIMEOUT).await {
                Ok(hello) => break hello,
                // Another cluster or another version says so itself.
                Err(status) if status.code() == Code::FailedPrecondition || Instant::now() >= until => {
                    return Err(self.unproven(&rpc::words(&status)));
                }
                Err(_) => sleep(PAUSE).await,
            }
        };
        let directory = group.applied.read(|state| {
            let same = state.settings().check_same(&hello.settings);
            same.map_err(|other| self.unproven(&format!("it was made with other settings: {other}")))?;
            self.check(&hello, state.feature_level(), state.directory(self.replica_id))
        })?;
        Ok(Member { peer: self.peer.clone(), client: self.client.clone(), directory })
    }

    /// What the newcomer says of itself must fit what the operator says of it. Gives its directory.
    fn check(&self, hello: &Hello, level: u32, known: Option<DirectoryId>) -> Result<DirectoryId, Status> {
        let Some(directory) = hello.address.directory.filter(|_| hello.address.replica_id == self.replica_id) else {
            return Err(self.unproven(&format!("replica {} answers there", hello.address.replica_id)));
        };
        if WIRE_VERSIONS.highest_shared(hello.wire).is_none() {
            return Err(self.unproven(&format!("it speaks wire {}, the group {WIRE_VERSIONS}", hello.wire)));
        }
        if hello.feature_level < level {
            return Err(
                self.unproven(&format!("it knows feature level {}, the group is at {level}", hello.feature_level))
            );
        }
        match known {
            Some(known) if known != directory => {
                let expected = format!("{known}, to which replica id {} belongs for ever", self.replica_id);
                let message = format!("directory: expected {expected}, {} has {directory}: use a new id", self.peer);
                Err(status_for(Code::FailedPrecondition, "directory", message))
            }
            // One that lost its log before it was taken in has no past either, though it is careful with its vote.
            None if !hello.pristine && hello.membership.is_some() => {
                Err(self.unproven("it has taken part in another group"))
            }
            _ => Ok(directory),
        }
    }

    fn unproven(&self, why: &str) -> Status {
        let message = format!("endpoint: expected replica {} to answer at {}: {why}", self.replica_id, self.peer);
        status_for(Code::FailedPrecondition, "endpoint", message)
    }

    /// Waits until this learner has everything up to `committed`, and has answered since.
    ///
    /// Errors: DEADLINE_EXCEEDED with the reason when it is silent or gets no further; UNAVAILABLE when this replica
    /// leads no more.
    pub(crate) async fn catch_up(&self, group: &Group, committed: u64, directory: DirectoryId) -> Result<(), Status> {
        let mut heard = Instant::now();
        let mut moved = (None, Instant::now());
        loop {
            let matched = matched(group, self.replica_id).ok_or_else(not_leader)?;
            match group.peers.hello(self.replica_id, &self.peer, ASK_TIMEOUT).await {
                Ok(hello) => {
                    self.check(&hello, group.applied.read(|state| state.feature_level()), Some(directory))?;
                    heard = Instant::now();
                    if matched.is_some_and(|index| index >= committed) && !hello.pristine {
                        return Ok(());
                    }
                }
                Err(status) if heard.elapsed() >= SILENCE_MAX => {
                    return Err(self.gave_up(&format!("no answer for {SILENCE_MAX:?}: {}", status.message())));
                }
                Err(_) => {}
            }
            if matched != moved.0 || group.peers.transfers().runs_to(self.replica_id) {
                moved = (matched, Instant::now());
            } else if moved.1.elapsed() >= STANDSTILL_MAX {
                let at = matched.map_or_else(|| "nothing".to_owned(), |index| format!("entry {index}"));
                return Err(self.gave_up(&format!("it stands at {at} of {committed} for {STANDSTILL_MAX:?}")));
            }
            sleep(PAUSE).await;
        }
    }

    fn gave_up(&self, why: &str) -> Status {
        Status::deadline_exceeded(format!(
            "replica {} at {} did not catch up and is taken out again: {why}",
            self.replica_id, self.peer
        ))
    }
}

/// How far a member's log matches this leader's. The outer None: this replica does not lead.
pub(super) fn matched(group: &Group, replica_id: u64) -> Option<Option<u64>> {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow();
    let replication = metrics.replication.as_ref()?;
    Some(replication.get(&replica_id).copied().flatten().map(|id| id.index))
}

#[cfg(test)]
mod tests {
    use foreword_proto::bad_input::field_of;
    use foreword_proto::versions::Versions;
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::consensus::types::LogId;
    use crate::network::Address;
    use crate::state::command::ClusterSettings;

    fn hello(id: u64, directory: u8, pristine: bool) -> Hello {
        Hello {
            address: Address::of(id, DirectoryId([directory; 16])),
            pristine,
            wire: WIRE_VERSIONS,
            feature_level: 1,
            membership: None,
            members: Default::default(),
            settings: ClusterSettings::of_a_test(),
        }
    }

    #[test]
    fn a_newcomer_is_who_the_operator_says_it_is() {
        let newcomer = Newcomer::new(4, "m4:7400", "").unwrap();
        assert_eq!(newcomer.client, "m4:7400");
        let (own, other) = (DirectoryId([4; 16]), DirectoryId([9; 16]));
        assert_eq!(newcomer.check(&hello(4, 4, true), 1, None).unwrap(), own);
        assert_eq!(newcomer.check(&hello(4, 4, false), 1, Some(own)).unwrap(), own, "it comes back");
        let refused = |hello: &Hello, known| {
            let status = newcomer.check(hello, 1, known).unwrap_err();
            (field_of(&status).unwrap().to_owned(), status.message().to_owned())
        };
        let (field, message) = refused(&hello(2, 2, false), None);
        assert!(field == "endpoint" && message.contains("replica 2 answers there"), "{message}");
        assert_eq!(refused(&hello(4, 4, true), Some(other)).0, "directory");
        let emptied = hello(4, 4, false);
        assert_eq!(newcomer.check(&emptied, 1, None).unwrap(), own, "it lost its log before it was taken in");
        let set_by = LogId { leader_id: CommittedLeaderId::new(1, 4), index: 0 };
        assert_eq!(refused(&Hello { membership: Some(set_by), ..emptied }, None).0, "endpoint");
        assert_eq!(refused(&Hello { feature_level: 0, ..hello(4, 4, true) }, None).0, "endpoint");
        let ahead = Versions { min: WIRE_VERSIONS.max + 1, max: WIRE_VERSIONS.max + 2 };
        assert_eq!(refused(&Hello { wire: ahead, ..hello(4, 4, true) }, None).0, "endpoint");
    }

    #[test]
    fn a_request_names_what_is_wrong() {
        assert_eq!(Newcomer::new(0, "m:1", "").unwrap_err().field, "replica_id");
        assert_eq!(Newcomer::new(4, "nowhere", "").unwrap_err().field, "endpoint");
        assert_eq!(Newcomer::new(4, "unix:/x", "").unwrap_err().field, "endpoint");
        assert_eq!(Newcomer::new(4, "m:1", "nowhere").unwrap_err().field, "client_endpoint");
    }
}
