//! A replica that was down for more than a snapshot's worth of log: what it misses is no longer in anyone's log.

use foreword_cli::cluster::Spec;

use super::support::run::{Run, spec};
use super::support::until;

/// A few thousand publishes.
const CONFIG: &str = "[meta]\nlog_bytes_per_snapshot = 65536\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_missed_a_snapshots_worth_of_log_catches_up() {
    let mut run = Run::start("replica behind", Spec { config: CONFIG.into(), ..spec() }).await;
    run.acked(200).await;
    let leader = run.cluster.leader().await.unwrap();
    let follower = run.cluster.replica_ids().into_iter().find(|id| *id != leader).unwrap();
    let statuses = run.cluster.statuses().await;
    let had = statuses.iter().map(|status| status.last_log_index).max().unwrap();
    run.cluster.kill_replica(follower).unwrap();
    // Whoever leads by then has nothing to send it but a snapshot. What it got between the question and its death is
    // less than what is purged: the log goes on meanwhile.
    let purged = until("a purge of what the dead replica misses", || async {
        let statuses = run.cluster.statuses().await;
        let purged = statuses.iter().map(|status| status.purged_index).min()?;
        (statuses.len() == 2 && purged > had + 50).then_some(purged)
    })
    .await;
    run.cluster.restart_replica(follower).await.unwrap();
    run.cluster.replica_ready(follower).await.unwrap();
    run.acked(200).await;
    let statuses = run.cluster.statuses().await;
    let back = statuses.iter().find(|status| status.replica_id == follower).unwrap();
    assert!(
        back.purged_index >= purged,
        "it has a log from {} on, only a snapshot leads past {purged}",
        back.purged_index
    );
    eprintln!("replica behind: it had {had}, the others had purged to {purged}");
    run.judge().await;
}
