//! A new group begins: once all members that `meta init` named have answered, and none of them ever took part in a
//! group.
//!
//! Only the member with the lowest id forms it. A member that was made anew while its group goes on finds the others at
//! work, and waits; so does one that is left alone with its name. Nothing begins beside a group that has begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::group::Group;
use super::introduce::hello_of;
use super::rejoin::Standing;
use crate::consensus::types::Member;
use crate::network::hello::Hello;
use crate::state::command::{ClusterSettings, OtherSetting};
use crate::storage::IdentityFile;

const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before the others are asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a replica that waits says for whom.
const TELL: Duration = Duration::from_secs(10);

/// Why a member that was named cannot begin yet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum NotYet {
    #[error("no answer: {0}")]
    Silent(String),
    #[error("replica {0} answers there")]
    Another(u64),
    #[error("it has taken part in a group already")]
    TookPart,
    #[error("it was made with other members: {0}")]
    OtherMembers(String),
    #[error("it was made with other settings: {0}")]
    OtherSettings(OtherSetting),
}

/// Until the group is there: this replica's, or the one that reaches it.
pub(crate) async fn form(group: Arc<Group>, standing: Arc<Standing>, file: Arc<dyn IdentityFile>) {
    let formed = {
        let group = group.clone();
        async move {
            let mut revisions = group.applied.revisions();
            revisions.wait_for(|revision| *revision > 0).await.is_ok()
        }
    };
    tokio::pin!(formed);
    let begun = tokio::select! {
        begun = &mut formed => begun,
        () = begin(&group, &standing) => formed.await,
    };
    if begun && let Err(error) = file.bootstrapped() {
        tracing::error!(%error, "could not note that the group was formed");
    }
}

/// Forms the group when this replica is to; otherwise, and until then, says every now and then what it waits for.
async fn begin(group: &Group, standing: &Standing) {
    let first = group.named.keys().next().copied();
    let mut told = Instant::now();
    loop {
        let waiting = match (pristine_members(group, standing).await, first) {
            (Err(waiting), _) => waiting,
            (Ok(_), Some(first)) if first != group.replica_id => format!("replica {first} to form the group"),
            (Ok(members), _) => {
                if let Err(error) = group.raft.initialize(members).await {
                    tracing::debug!(%error, "the group was formed already");
                }
                return;
            }
        };
        if told.elapsed() >= TELL {
            told = Instant::now();
            tracing::warn!(waiting, "no group yet: it begins once all named members have answered and none has a past");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// All named members with their directories; else for whom this replica waits, and why.
async fn pristine_members(group: &Group, standing: &Standing) -> Result<BTreeMap<u64, Member>, String> {
    let settings = group.applied.read(|state| state.settings().clone());
    let settings = &settings;
    let asked = group.named.iter().map(|(id, endpoint)| async move {
        let heard = if *id == group.replica_id {
            hello_of(group, standing).await.ok_or_else(|| NotYet::Silent("raft has stopped".into()))
        } else {
            let heard = group.peers.hello(*id, endpoint, ASK_TIMEOUT).await;
            heard.map_err(|status| NotYet::Silent(status.message().into()))
        };
        let member = heard.and_then(|hello| founder(*id, &group.named, settings, &hello));
        member.map(|member| (*id, member)).map_err(|why| format!("replica {id} at {endpoint} ({why})"))
    });
    let (members, missing): (Vec<_>, Vec<_>) =
        futures::future::join_all(asked).await.into_iter().partition(Result::is_ok);
    if missing.is_empty() {
        return Ok(members.into_iter().flatten().collect());
    }
    Err(missing.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; "))
}

/// The member that said hello, if it may begin with the others.
fn founder(
    id: u64,
    named: &BTreeMap<u64, String>,
    settings: &ClusterSettings,
    hello: &Hello,
) -> Result<Member, NotYet> {
    if hello.address.replica_id != id {
        return Err(NotYet::Another(hello.address.replica_id));
    }
    let (true, Some(directory)) = (hello.pristine, hello.address.directory) else { return Err(NotYet::TookPart) };
    let theirs: BTreeMap<u64, String> = hello.members.iter().map(|(id, known)| (*id, known.peer.clone())).collect();
    if theirs != *named {
        let theirs: Vec<String> = theirs.iter().map(|(id, endpoint)| format!("{id}={endpoint}")).collect();
        return Err(NotYet::OtherMembers(theirs.join(",")));
    }
    settings.check_same(&hello.settings).map_err(NotYet::OtherSettings)?;
    let peer = named.get(&id).cloned().unwrap_or_default();
    Ok(Member { client: peer.clone(), peer, directory })
}

#[cfg(test)]
mod tests {
    use foreword_proto::DirectoryId;
    use foreword_proto::limits::WIRE_VERSIONS;

    use super::*;
    use crate::network::Address;
    use crate::network::hello::Known;

    fn hello(id: u64, pristine: bool, members: &[u64]) -> Hello {
        let known = |id: &u64| {
            let endpoint = format!("m{id}:1");
            (*id, Known { peer: endpoint.clone(), client: endpoint, directory: None, voter: true })
        };
        Hello {
            address: Address::of(id, DirectoryId([id as u8; 16])),
            pristine,
            wire: WIRE_VERSIONS,
            feature_level: 1,
            membership: None,
            members: members.iter().map(known).collect(),
            settings: ClusterSettings::of_a_test(),
        }
    }

    #[test]
    fn only_a_named_member_without_a_past_begins() {
        let named: BTreeMap<u64, String> = [(1, "m1:1".to_owned()), (2, "m2:1".to_owned())].into();
        let settings = ClusterSettings::of_a_test();
        let member = founder(2, &named, &settings, &hello(2, true, &[1, 2])).unwrap();
        assert_eq!(member, Member { peer: "m2:1".into(), client: "m2:1".into(), directory: DirectoryId([2; 16]) });
        assert_eq!(founder(2, &named, &settings, &hello(1, true, &[1, 2])), Err(NotYet::Another(1)));
        assert_eq!(founder(2, &named, &settings, &hello(2, false, &[1, 2])), Err(NotYet::TookPart));
        let other = founder(2, &named, &settings, &hello(2, true, &[2, 3])).unwrap_err();
        assert_eq!(other, NotYet::OtherMembers("2=m2:1,3=m3:1".into()));
        // Two that slice L3 otherwise come to other states from the same log.
        let sliced = ClusterSettings { slab_bytes: 8192, ..settings.clone() };
        let other = founder(2, &named, &settings, &Hello { settings: sliced, ..hello(2, true, &[1, 2]) }).unwrap_err();
        assert_eq!(
            other.to_string(),
            "it was made with other settings: slab_bytes: expected 40960, as the cluster has it, got 8192"
        );
    }
}
