//! An agent is killed under load and comes back: the other one's engines do not notice, its own find their pages again.

use foreword_cli::clients;

use super::support::run::{Run, spec};
use super::support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_takes_nothing_with_it_and_serves_hits_again() {
    let mut run = Run::start("agent killed", spec()).await;
    run.acked_through(0, 200).await;
    run.acked_through(1, 200).await;
    run.kill_agent(0);
    run.acked_through(1, 200).await;
    run.read_through(1, 100).await;
    run.agent_is_back(0).await;
    let back = run.now();
    until("hits through the restarted agent", || async { (run.hits_since(0, back) >= 100).then_some(()) }).await;
    run.acked_through(0, 200).await;
    let status = clients::agent_status(&run.cluster.agent_endpoints()[0]).await.unwrap();
    assert!(status.ready && status.namespaces.iter().all(|namespace| namespace.synced), "{status:?}");
    assert!(status.counters.l3_hits > 0, "its memory was empty: the first hits came from L3");
    run.judge().await;
}
