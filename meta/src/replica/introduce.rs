//! What this replica says of itself to another one.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::limits::{FEATURE_LEVEL_MAX, WIRE_VERSIONS};

use super::group::Group;
use super::rejoin::Standing;
use crate::consensus::types::{Member, Vote};
use crate::network::hello::{Hello, Known};

/// What this replica says of itself. None when raft has stopped.
pub(crate) async fn hello_of(group: &Group, standing: &Standing) -> Option<Hello> {
    let look = |state: &openraft::RaftState<u64, Member, _>| {
        let membership = state.membership_state.effective();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, member)| {
            let Member { peer, client, directory } = member.clone();
            (*id, Known { peer, client, directory: Some(directory), voter: voters.contains(id) })
        });
        // A vote comes before the first entry of another; the first entry of a group is its membership.
        let untouched = *state.vote_ref() == Vote::default() && membership.log_id().is_none();
        (untouched, *membership.log_id(), members.collect())
    };
    let settings = group.applied.read(|state| state.settings().clone());
    let (untouched, membership, members) = group.raft.with_raft_state(look).await.ok()?;
    Some(Hello {
        address: group.address(),
        pristine: untouched && standing.may_vote(),
        wire: WIRE_VERSIONS,
        feature_level: FEATURE_LEVEL_MAX,
        membership,
        members: if membership.is_some() { members } else { named(group) },
        settings,
    })
}

/// Whom the data directory was made with.
fn named(group: &Group) -> BTreeMap<u64, Known> {
    let known =
        |endpoint: &String| Known { peer: endpoint.clone(), client: endpoint.clone(), directory: None, voter: true };
    group.named.iter().map(|(id, endpoint)| (*id, known(endpoint))).collect()
}
