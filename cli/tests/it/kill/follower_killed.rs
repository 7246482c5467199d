//! A follower is killed under load and comes back.

use super::support::run::{Run, spec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_follower_is_not_missed_and_catches_up() {
    let mut run = Run::start("follower killed", spec()).await;
    run.acked(400).await;
    let leader = run.cluster.leader().await.unwrap();
    let follower = run.cluster.replica_ids().into_iter().find(|id| *id != leader).unwrap();
    run.cluster.kill_replica(follower).unwrap();
    run.acked(400).await;
    run.cluster.restart_replica(follower).await.unwrap();
    run.cluster.replica_ready(follower).await.unwrap();
    run.acked(300).await;
    run.judge().await;
}
