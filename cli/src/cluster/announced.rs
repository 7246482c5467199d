//! What the servers of a cluster announced of themselves.

use super::Cluster;
use crate::process::Announcement;

impl Cluster {
    /// The announcement of a replica that runs.
    pub fn replica_announced(&self, id: u64) -> Option<&Announcement> {
        let replica = self.replicas.iter().find(|replica| replica.id == id)?;
        Some(&replica.child.as_ref()?.announced)
    }

    /// The announcement of an agent that runs.
    pub fn agent_announced(&self, number: usize) -> Option<&Announcement> {
        Some(&self.agents.get(number)?.child.as_ref()?.announced)
    }
}
