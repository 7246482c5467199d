//! The committed feature level, and raising it: only to what every member's binary knows, and never back.

use std::time::Duration;

use foreword_proto::bad_input::status_for;
use foreword_proto::wire::meta as wire;
use futures::future::join_all;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::consensus::types::Member;
use crate::network::Address;
use crate::replica::checked::Author;
use crate::replica::group::{Group, PROPOSE_DEADLINE, encode_commands};
use crate::state::State;
use crate::state::command::Command;

/// How long a member may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
const FIELD: &str = "raise_to";

/// Tells the committed level and what each member knows; raises the level first when that is asked for. Runs on the
/// leader.
///
/// Errors: `raise_to` is below the committed level, or above what a member knows or has said; each such member is
/// named.
pub(super) async fn feature_level(
    group: &Group,
    request: wire::FeatureLevelRequest,
) -> Result<wire::FeatureLevelResponse, Status> {
    let members = ask_members(group).await;
    let committed = group.applied.read(State::feature_level);
    if request.raise_to != 0 && request.raise_to < committed {
        let message = format!("{FIELD}: expected {committed} (the committed level) or above, got {}", request.raise_to);
        return Err(status_for(Code::FailedPrecondition, FIELD, message));
    }
    if request.raise_to > committed {
        everybody_knows(request.raise_to, &members)?;
        raise(group, request.raise_to).await?;
    }
    Ok(wire::FeatureLevelResponse { committed: group.applied.read(State::feature_level), members })
}

async fn raise(group: &Group, level: u32) -> Result<(), Status> {
    let deadline = Instant::now() + PROPOSE_DEADLINE;
    let command = encode_commands(&[Command::RaiseFeatureLevel { level }]);
    let (revision, _) = group.propose_here(command, Author::Leader, deadline).await?;
    tracing::warn!(
        level,
        revision,
        "the feature level is raised: binaries that do not know it refuse this group from now on"
    );
    Ok(group.wait_applied(revision, deadline).await?)
}

fn everybody_knows(level: u32, members: &[wire::MemberLevel]) -> Result<(), Status> {
    let behind = members.iter().filter(|member| member.known < level).map(|member| match member.known {
        0 => format!("replica {} at {} did not answer", member.replica_id, member.endpoint),
        known => format!("replica {} at {} knows {known}", member.replica_id, member.endpoint),
    });
    let behind: Vec<String> = behind.collect();
    if behind.is_empty() {
        return Ok(());
    }
    let message = format!("{FIELD}: expected a level that every member knows, got {level}: {}", behind.join(", "));
    Err(status_for(Code::FailedPrecondition, FIELD, message))
}

/// What each voter and learner says in its hello.
async fn ask_members(group: &Group) -> Vec<wire::MemberLevel> {
    let members: Vec<(u64, Member)> = group.applied.read_with_position(|_, position| {
        position.membership.nodes().map(|(id, member)| (*id, member.clone())).collect()
    });
    join_all(members.into_iter().map(|(id, member)| ask(group, id, member))).await
}

async fn ask(group: &Group, replica_id: u64, member: Member) -> wire::MemberLevel {
    let hello = group.peers.hello(replica_id, &member.peer, HELLO_TIMEOUT).await.ok();
    // Another replica at this endpoint does not speak for the member.
    let hello = hello.filter(|hello| hello.address == Address::of(replica_id, member.directory));
    wire::MemberLevel { replica_id, endpoint: member.peer, known: hello.map_or(0, |hello| hello.feature_level) }
}
