//! An agent is killed under load and comes back: the other one's engines do not notice, its own find their pages again.

use std::path::Path;

use foreword_cli::clients;
use foreword_cli::cluster::Spec;

use super::support::run::{AGENTS, Run, spec};
use super::support::until;

/// How often mirrors are saved here.
const MIRROR_SAVE: &str = "100ms";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_takes_nothing_with_it_and_serves_hits_again() {
    let dir = tempfile::tempdir().unwrap();
    let mirrors = |agent: &str| dir.path().join(format!("mirrors-{agent}"));
    for agent in 0..AGENTS {
        std::fs::create_dir(mirrors(&agent.to_string())).unwrap();
    }
    let config = format!("[node]\nmirror_dir = {:?}\nmirror_save_ms = \"{MIRROR_SAVE}\"\n", mirrors("{agent}"));
    let mut run = Run::start("agent killed", Spec { config, ..spec() }).await;
    run.acked_through(0, 200).await;
    run.acked_through(1, 200).await;
    until("a saved mirror", || async { is_saved(&mirrors("0")).then_some(()) }).await;
    run.kill_agent(0);
    run.acked_through(1, 200).await;
    run.read_through(1, 100).await;
    run.agent_is_back(0).await;
    let log = std::fs::read_to_string(run.cluster.dir().join("logs/agent-0.log")).unwrap();
    assert!(log.contains("a saved mirror is used"), "{log}");
    let back = run.now();
    until("hits through the restarted agent", || async { (run.hits_since(0, back) >= 100).then_some(()) }).await;
    run.acked_through(0, 200).await;
    let status = clients::agent_status(&run.cluster.agent_endpoints()[0]).await.unwrap();
    assert!(status.ready && status.namespaces.iter().all(|namespace| namespace.synced), "{status:?}");
    assert!(status.counters.l3_hits > 0, "its memory was empty: the first hits came from L3");
    run.judge().await;
}

/// Whether a whole file is there: one that is still written to has a suffix.
fn is_saved(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().flatten().any(|file| !file.file_name().to_string_lossy().ends_with(".unsealed"))
}
