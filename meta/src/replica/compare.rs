//! The leader compares digests: replicas that applied the same entries must hold the same state.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::Revision;
use foreword_proto::wire::raft as wire;
use foreword_seams::{Marker, Telemetry, sometimes};
use tokio::time::timeout;

use super::group::{Group, Leader};

const ROUND: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(1);

/// Asks the others for their digest at each revision that all replicas note. A difference is a bug: it is counted and logged with
/// both digests, for an operator to replace the replica. It stops nobody, since readers verify every page by its own checksum.
pub async fn compare_digests(group: Arc<Group>, telemetry: Telemetry) {
    let compared = telemetry.counter("foreword_meta_digests_compared_total", "Digests of other replicas compared");
    let different =
        telemetry.counter("foreword_meta_digests_different_total", "Digests that differed: replace that replica");
    let mut last: Revision = 0;
    loop {
        tokio::time::sleep(ROUND).await;
        let Some((revision, digest)) = group.applied.newest_digest() else { continue };
        if revision == last || group.leader() != Leader::Here {
            continue;
        }
        last = revision;
        for (id, endpoint) in group.others() {
            let mut client = group.peers.raft_client(&endpoint);
            let asked = timeout(ANSWER, client.digest(wire::DigestRequest { revision })).await;
            // A replica that is away, or has not come so far, is compared at a later revision.
            let Ok(Ok(answer)) = asked else { continue };
            let answer = answer.into_inner();
            if !answer.known {
                continue;
            }
            compared.increment(1);
            if answer.digest != digest {
                different.increment(1);
                let (ours, theirs) = (format!("{digest:016x}"), format!("{:016x}", answer.digest));
                tracing::error!(revision, replica = id, ours, theirs, "replicas diverge: replace that replica");
            } else {
                sometimes(Marker::DigestsAgreed);
            }
        }
    }
}
