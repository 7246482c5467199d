//! The leader is killed while L3 is full: pages are evicted all the time, and each one that goes is told to every
//! watcher.

use super::support::run::{Run, spec};

const L3_BYTES: u64 = 4 << 20;
const SLAB_BYTES: u64 = 256 << 10;
const ARENA_BYTES: u64 = 1 << 20;
/// Twice as many as there is room for.
const PAGES: usize = 2 * (L3_BYTES / super::support::run::PAGE_BYTES) as usize;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_eviction_every_page_that_is_gone_was_retired() {
    let spec =
        foreword_cli::cluster::Spec { l3_bytes: L3_BYTES, slab_bytes: SLAB_BYTES, arena_bytes: ARENA_BYTES, ..spec() };
    let mut run = Run::start("under pressure", spec).await;
    run.acked(PAGES / 2).await;
    let leader = run.cluster.leader().await.unwrap();
    run.cluster.kill_replica(leader).unwrap();
    run.acked(PAGES / 4).await;
    run.cluster.restart_replica(leader).await.unwrap();
    run.cluster.replica_ready(leader).await.unwrap();
    run.acked(PAGES / 4).await;
    let gone = run.judge_under_eviction().await;
    assert!(gone > 0, "nothing was evicted: this run proved nothing of eviction");
}
