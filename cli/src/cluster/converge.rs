//! Asks replicas until they agree: on a leader, on one digest at one revision.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{bail, ensure};
use foreword_proto::status::{ReplicaRole, ReplicaStatus};
use foreword_seams::Endpoint;
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use crate::clients::replica_status;

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

async fn ask(endpoints: &[Endpoint]) -> Vec<anyhow::Result<ReplicaStatus>> {
    join_all(endpoints.iter().map(replica_status)).await
}

/// The id of the replica that says it leads.
pub(super) async fn leader(endpoints: &[Endpoint]) -> anyhow::Result<u64> {
    let until = Instant::now() + PATIENCE;
    loop {
        let leads = ask(endpoints).await.into_iter().flatten().filter(|status| status.role == ReplicaRole::Leader);
        // After an election the old leader may not know yet: the highest term is right.
        if let Some(leader) = leads.max_by_key(|status| status.term) {
            return Ok(leader.replica_id);
        }
        ensure!(Instant::now() < until, "cluster: no replica leads after {PATIENCE:?}");
        sleep(POLL).await;
    }
}

/// Waits until every replica has reported the same digest at a common revision.
///
/// The log goes on (time itself is in it), so the revisions of one round of questions need not be equal: what each
/// replica said of each revision is kept, and one revision that all of them reported decides.
///
/// Errors: two digests at one revision, at once; no common revision in a minute.
pub(super) async fn converged(endpoints: &[Endpoint]) -> anyhow::Result<(u64, String)> {
    let until = Instant::now() + PATIENCE;
    let mut said = Said::default();
    loop {
        let mut last = None;
        for (at, status) in ask(endpoints).await.into_iter().enumerate() {
            match status {
                Ok(status) => said.add(at, status.revision, status.state_digest)?,
                Err(error) => last = Some(error),
            }
        }
        if let Some(agreed) = said.agreed(endpoints.len()) {
            return Ok(agreed);
        }
        if Instant::now() >= until {
            match last {
                Some(error) => return Err(error.context("cluster: a replica does not answer")),
                None => bail!("cluster: the replicas report no common revision after {PATIENCE:?}"),
            }
        }
        sleep(POLL).await;
    }
}

/// What replicas said: revision -> replica -> digest.
#[derive(Default)]
struct Said(BTreeMap<u64, BTreeMap<usize, String>>);

impl Said {
    fn add(&mut self, replica: usize, revision: u64, digest: String) -> anyhow::Result<()> {
        let at = self.0.entry(revision).or_default();
        if let Some((other, different)) = at.iter().find(|(_, known)| **known != digest) {
            bail!(
                "cluster: at revision {revision} replica {} has state digest {different}, replica {} has {digest}",
                other + 1,
                replica + 1
            );
        }
        at.insert(replica, digest);
        Ok(())
    }

    fn agreed(&self, replicas: usize) -> Option<(u64, String)> {
        let (revision, digests) = self.0.iter().rev().find(|(_, digests)| digests.len() == replicas)?;
        Some((*revision, digests.values().next()?.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_common_revision_decides_and_two_digests_are_an_error() {
        let mut said = Said::default();
        said.add(0, 5, "a".into()).unwrap();
        said.add(1, 6, "b".into()).unwrap();
        assert_eq!(said.agreed(2), None);
        said.add(0, 6, "b".into()).unwrap();
        assert_eq!(said.agreed(2), Some((6, "b".into())));
        let error = said.add(1, 5, "c".into()).unwrap_err().to_string();
        assert!(error.contains("revision 5"), "{error}");
    }
}
