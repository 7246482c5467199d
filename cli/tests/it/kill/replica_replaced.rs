//! The leader is replaced under load by a replica with an empty directory, and then killed.

use super::support::run::{Run, spec};

const NEW: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_replaced_under_load() {
    let mut run = Run::start("replica replaced", spec()).await;
    run.acked(400).await;
    let old = run.cluster.leader().await.unwrap();
    run.cluster.join_replica(NEW).await.unwrap();
    let voters = run.cluster.replace_replica(old, NEW).await.unwrap();
    assert!(voters.contains(&NEW) && !voters.contains(&old) && voters.len() == 3, "{voters:?}");
    run.acked(200).await;
    run.cluster.dismiss_replica(old).unwrap();
    run.acked(300).await;
    // The two that are left and the new one are the whole group: it goes on without another of the first three.
    let first = run.cluster.replica_ids().into_iter().find(|id| *id != NEW).unwrap();
    run.cluster.kill_replica(first).unwrap();
    run.acked(200).await;
    run.cluster.restart_replica(first).await.unwrap();
    run.cluster.replica_ready(first).await.unwrap();
    run.judge().await;
}
