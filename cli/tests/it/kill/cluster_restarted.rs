//! Everything is killed at once and started again: a power cut as far as processes can see one.

use super::support::run::{AGENTS, Run, spec};
use super::support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_cluster_goes_on_where_it_was() {
    let mut run = Run::start("cluster restarted", spec()).await;
    run.acked(400).await;
    run.cluster.kill_all_replicas();
    for agent in 0..AGENTS {
        run.kill_agent(agent);
    }
    run.cluster.restart_all_replicas().await.unwrap();
    for agent in 0..AGENTS {
        run.agent_is_back(agent).await;
    }
    let back = run.now();
    for agent in 0..AGENTS {
        until("hits", || async { (run.hits_since(agent, back) >= 100).then_some(()) }).await;
    }
    run.acked(400).await;
    run.judge().await;
}
