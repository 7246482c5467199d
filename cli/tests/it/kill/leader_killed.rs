//! The leader is killed under load and comes back.

use std::time::Duration;

use super::support::run::{Run, spec};

/// A new leader is there within this; `cargo run --example outage` gives the figure.
const OUTAGE_MAX: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_takes_nothing_with_it() {
    let mut run = Run::start("leader killed", spec()).await;
    run.acked(400).await;
    let leader = run.cluster.leader().await.unwrap();
    run.cluster.kill_replica(leader).unwrap();
    let outage = run.outage().await;
    eprintln!("leader killed: acknowledged again after {outage:?}");
    assert!(outage < OUTAGE_MAX, "no acknowledgement for {outage:?}");
    run.acked(300).await;
    run.cluster.restart_replica(leader).await.unwrap();
    run.cluster.replica_ready(leader).await.unwrap();
    run.acked(300).await;
    run.judge().await;
}
