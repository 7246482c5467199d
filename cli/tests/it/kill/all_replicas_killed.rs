//! All replicas are killed at once and come back: meanwhile reads go on, and what was acknowledged is on their disks.

use super::support::run::{AGENTS, Run, spec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_killed_replicas_remember_what_they_acknowledged() {
    let mut run = Run::start("all replicas killed", spec()).await;
    run.acked(400).await;
    run.cluster.kill_all_replicas();
    for agent in 0..AGENTS {
        run.read_through(agent, 100).await;
    }
    run.cluster.restart_all_replicas().await.unwrap();
    run.acked(400).await;
    run.judge().await;
}
