//! Whether this replica leads, and whether the others hear it: from Raft's metrics and what the network noted.

use std::time::Duration;

use openraft::{Raft, RaftMetrics, ServerState};

use crate::consensus::types::{Member, TypeConfig};
use crate::network::Heard;

/// The term in which this replica leads, as far as it knows.
pub(super) fn leading_term(metrics: &RaftMetrics<u64, Member>) -> Option<u64> {
    let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id);
    leads.then_some(metrics.current_term)
}

/// Whether this replica leads, and a quorum took what it sent within this time: no other leader was elected before
/// that.
pub(super) fn quorum_heard_within(raft: &Raft<TypeConfig>, heard: &Heard, within: Duration) -> bool {
    let metrics = raft.metrics();
    let (own, term, membership) = {
        let metrics = metrics.borrow();
        let Some(term) = leading_term(&metrics) else { return false };
        (metrics.id, term, metrics.membership_config.clone())
    };
    heard.quorum_within(own, term, membership.membership().get_joint_config(), within)
}
