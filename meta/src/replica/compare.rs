//! Replicas compare digests: those that applied the same entries must hold the same state
//! (docs/adr/0004-digests-are-asked-for.md).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::Revision;
use foreword_proto::wire::raft as wire;
use foreword_seams::{Marker, Telemetry, sometimes};
use futures::future::join_all;
use tokio::time::timeout;

use super::group::Group;

const ROUND: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(1);

/// Most voters agree on a state at this revision, and this replica holds another: it cannot be trusted any more, and
/// they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this replica's state differs from that of most voters at revision {revision}: digest {ours:016x} here, {theirs:016x} there"
)]
pub struct Diverged {
    pub revision: Revision,
    pub ours: u64,
    pub theirs: u64,
}

/// Asks the others for their digest at each revision that all replicas note. Any difference is a bug: it is counted and
/// logged with both digests. Answers when most voters agree on another digest than this replica's; one that is alone
/// against one other cannot tell who is right and goes on.
pub(crate) async fn compare_digests(group: Arc<Group>, telemetry: Telemetry) -> Diverged {
    let compared = telemetry.counter("foreword_meta_digests_compared_total", "Digests of other replicas compared");
    let different = telemetry.counter(
        "foreword_meta_digests_different_total",
        "Digests of others that differed: the replica that most disagree with sets its state aside",
    );
    let mut last: Revision = 0;
    loop {
        tokio::time::sleep(ROUND).await;
        let Some((revision, ours)) = group.applied.newest_digest() else { continue };
        if revision == last {
            continue;
        }
        last = revision;
        let heard = ask(&group, revision).await;
        compared.increment(heard.len() as u64);
        for (id, theirs) in &heard {
            if *theirs == ours {
                sometimes(Marker::DigestsAgreed);
                continue;
            }
            different.increment(1);
            let (ours, theirs) = (format!("{ours:016x}"), format!("{theirs:016x}"));
            tracing::error!(revision, replica = id, ours, theirs, "replicas diverge");
        }
        let voters = group.voters();
        let said = heard.into_iter().filter(|(id, _)| voters.contains(id)).map(|(_, digest)| digest);
        if let Some(theirs) = majority(said, voters.len()).filter(|theirs| *theirs != ours) {
            sometimes(Marker::ReplicaDiverged);
            return Diverged { revision, ours, theirs };
        }
    }
}

/// The others' digests at `revision`, by id. A replica that is away, or has not come so far, is compared at a later
/// revision.
async fn ask(group: &Group, revision: Revision) -> BTreeMap<u64, u64> {
    let asked = group.others().into_iter().map(|peer| async move {
        let mut client = group.peers.raft_client(&peer);
        let answer = timeout(ANSWER, client.digest(wire::DigestRequest { revision })).await.ok()?.ok()?.into_inner();
        answer.known.then_some((peer.address.replica_id, answer.digest))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// The digest that more than half of `voters` said.
fn majority(said: impl Iterator<Item = u64>, voters: usize) -> Option<u64> {
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for digest in said {
        *votes.entry(digest).or_default() += 1;
    }
    votes.into_iter().find(|(_, count)| *count > voters / 2).map(|(digest, _)| digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_of_all_voters_must_say_the_same() {
        assert_eq!(majority([7, 7].into_iter(), 3), Some(7));
        assert_eq!(majority([7].into_iter(), 3), None, "one other cannot overrule");
        assert_eq!(majority([7, 8].into_iter(), 3), None);
        assert_eq!(majority([7].into_iter(), 2), None, "of two, nobody knows who is right");
        assert_eq!(majority([7, 8, 7, 7].into_iter(), 5), Some(7));
        assert_eq!(majority([7, 7, 8, 8].into_iter(), 5), None);
    }
}
