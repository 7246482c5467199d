//! A replica that was taken out of its group finds out, says so, and leaves the group alone.
//!
//! The leader tells nothing more to whom it has removed, often not even that. So a replica that belongs to a group and
//! hears no leader asks the others who they are now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use tokio::time::sleep;

use super::group::Group;
use super::rejoin::Standing;
use crate::consensus::types::{LogId, Member};

const LOOK: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps [`Standing::removed`] as it is, until the task is dropped.
pub(crate) async fn watch_removal(group: Arc<Group>, standing: Arc<Standing>) {
    loop {
        sleep(LOOK).await;
        let Some(removed) = is_removed(&group).await else { continue };
        if removed == standing.removed() {
            continue;
        }
        standing.set_removed(removed);
        // One that is no member is nobody's candidate.
        group.raft.runtime_config().elect(!removed && standing.may_vote());
        match removed {
            true => tracing::warn!("this replica was removed from its group: it serves nothing that needs the group"),
            false => tracing::info!("this replica is in its group again"),
        }
    }
}

/// Whether the newest membership that anybody knows is without this replica. None: it is in no group yet, or it was
/// just heard.
async fn is_removed(group: &Group) -> Option<bool> {
    let (own, members, led): (LogId, BTreeMap<u64, Member>, bool) = {
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.nodes().map(|(id, member)| (*id, member.clone())).collect();
        let led = metrics.current_leader.is_some() && metrics.state != ServerState::Candidate;
        ((*metrics.membership_config.log_id())?, members, led)
    };
    if led && members.contains_key(&group.replica_id) {
        return Some(false);
    }
    let others = members.iter().filter(|(id, _)| **id != group.replica_id);
    let asked = others.map(|(id, member)| group.peers.hello(*id, &member.peer, ASK_TIMEOUT));
    let heard = futures::future::join_all(asked).await.into_iter().flatten();
    let known = heard.filter_map(|hello| Some((hello.membership?, hello.members.contains_key(&group.replica_id))));
    let newest = known.chain([(own, members.contains_key(&group.replica_id))]).max_by_key(|(at, _)| *at)?;
    Some(!newest.1)
}
