//! Snapshots that cannot be written, transfers that break, and followers that are slower than the next snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foreword_meta::replica::group::Group;
use foreword_meta::state::command::Command;
use foreword_proto::Namespace;
use foreword_proto::wire::meta::TriggerSnapshotRequest;
use tokio::time::Instant;

use crate::cluster::{Cluster, PATIENCE};

const MIB: u64 = 1 << 20;
/// On a busy machine a replica that takes megabytes hears no leader for a while; another leader would send a snapshot
/// of its own.
const CALM: Option<(u64, u64)> = Some((2000, 4000));
/// Of a namespace whose texts are as long as they may be, in the log and in a snapshot: 2.5 KB.
const NAMESPACES_PER_ENTRY: usize = 400;

/// Commands of 1 MB that register namespaces; the same number does the same again.
fn namespaces(number: usize) -> Vec<Command> {
    let text = |what: &str, at: usize| format!("{what}-{number:04}-{at:04}-{}", "x".repeat(220));
    let namespace = |at| Namespace {
        model: text("model", at),
        revision: text("revision", at),
        dtype: text("dtype", at),
        layout: text("layout", at),
        storage_format: text("format", at),
        head_split: text("split", at),
        pool: text("pool", at),
        draft_model: text("draft", at),
        draft_revision: text("draft-revision", at),
        ..Namespace::simple(&text("tenant", at), 16, vec![4096])
    };
    (0..NAMESPACES_PER_ENTRY).map(|at| Command::RegisterNamespace { namespace: Box::new(namespace(at)) }).collect()
}

async fn fill(group: &Group, numbers: std::ops::Range<usize>) {
    for number in numbers {
        group.propose(&namespaces(number), Instant::now() + PATIENCE).await.unwrap();
    }
}

fn group(cluster: &Cluster, id: u64) -> Arc<Group> {
    cluster.running[&id].group().clone()
}

/// What a replica's log was purged of, and what its newest snapshot covers. Its status would list every namespace.
fn purged(cluster: &Cluster, id: u64) -> u64 {
    group(cluster, id).raft.metrics().borrow().purged.map_or(0, |id| id.index)
}

fn covered(cluster: &Cluster, id: u64) -> u64 {
    group(cluster, id).raft.metrics().borrow().snapshot.map_or(0, |id| id.index)
}

/// Waits until all running replicas hold one state.
async fn converged(cluster: &Cluster) {
    let of = |id: &u64| group(cluster, *id).applied.read(|state| (state.revision(), state.digest()));
    let same = async || {
        let held: BTreeSet<_> = cluster.running.keys().map(of).collect();
        (held.len() == 1).then_some(())
    };
    cluster.eventually("one revision and one digest", same).await;
}

/// A follower is away until the leader has no log for it any more.
async fn one_away(megabytes: usize) -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new(3).await;
    cluster.log_bytes_per_snapshot = MIB;
    cluster.election_ms = CALM;
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let away = cluster.follower().await;
    let has = group(&cluster, away).applied.revision();
    cluster.crash(away).await;
    fill(&group(&cluster, leader), 0..megabytes).await;
    cluster.admin(leader).trigger_snapshot(TriggerSnapshotRequest {}).await.unwrap();
    let gone = async || (purged(&cluster, leader) > has).then_some(());
    cluster.eventually("the leader purged its log", gone).await;
    (cluster, leader, away)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_a_snapshot_and_not_the_replica() {
    let mut cluster = Cluster::new(3).await;
    cluster.log_bytes_per_snapshot = MIB;
    cluster.election_ms = CALM;
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let full = cluster.sites[&leader].snapshot_disk.full.clone();
    full.store(true, Ordering::Release);
    fill(&group(&cluster, leader), 0..3).await;
    let failed = async || (cluster.counter(leader, "foreword_meta_snapshot_failures_total") >= 2).then_some(());
    cluster.eventually("failed and tried again", failed).await;
    // It goes on, and its log stays.
    fill(&group(&cluster, leader), 3..4).await;
    assert_eq!((covered(&cluster, leader), purged(&cluster, leader)), (0, 0));
    full.store(false, Ordering::Release);
    let built = async || (purged(&cluster, leader) > 0).then_some(());
    cluster.eventually("a snapshot once there is room", built).await;
    cluster.crash(leader).await;
    cluster.start(leader).await;
    converged(&cluster).await;
    let from = async || (covered(&cluster, leader) > 0).then_some(());
    cluster.eventually("it comes back from it", from).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_breaks_goes_on_where_it_broke() {
    const CHUNKS_UNDER_WAY: u64 = 8;
    let (mut cluster, leader, away) = one_away(16).await;
    let disk = cluster.sites[&away].snapshot_disk.clone();
    disk.chunk_ms.store(200, Ordering::Release);
    cluster.start(away).await;
    let half = async || (disk.received.load(Ordering::Acquire) >= 8 * MIB).then_some(());
    cluster.eventually("half of it came", half).await;
    cluster.links.cut(leader, &cluster.sites[&away].endpoint);
    let broke = async || (cluster.counter(leader, "foreword_meta_snapshot_transfer_failures_total") > 0).then_some(());
    cluster.eventually("the transfer broke", broke).await;
    cluster.links.heal_all();
    disk.chunk_ms.store(0, Ordering::Release);
    converged(&cluster).await;
    assert!(cluster.counter(leader, "foreword_meta_snapshot_transfers_resumed_total") > 0);
    let (sent, received) = (cluster.counter(leader, "foreword_meta_snapshot_sent_bytes_total"), disk.received);
    let bytes = received.load(Ordering::Acquire);
    assert!(bytes < 20 * MIB, "each byte was written once: {bytes}");
    assert!(sent <= bytes + CHUNKS_UNDER_WAY * MIB, "sent {sent} of {bytes}");
    // What was moved to its place is what it comes back from.
    cluster.crash(away).await;
    cluster.start(away).await;
    converged(&cluster).await;
}

/// A snapshot takes 2 s or more to come, and another one is due each second meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_slower_than_the_next_snapshot_catches_up_under_load() {
    let (mut cluster, leader, away) = one_away(10).await;
    cluster.sites[&away].snapshot_disk.chunk_ms.store(200, Ordering::Release);
    let ends = Arc::new(AtomicBool::new(false));
    let (loaded, stop) = (group(&cluster, leader), ends.clone());
    let load = tokio::spawn(async move {
        // What is there already: the log grows and the state does not.
        while !stop.load(Ordering::Acquire) {
            // What becomes of it is nothing to this test.
            let _ = loaded.propose(&namespaces(0), Instant::now() + PATIENCE).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    cluster.start(away).await;
    let follows = async || {
        let (behind, ahead) = (group(&cluster, away).applied.revision(), group(&cluster, leader).applied.revision());
        (behind + 5 >= ahead).then_some(())
    };
    cluster.eventually("it follows while the load goes on", follows).await;
    ends.store(true, Ordering::Release);
    load.await.unwrap();
    converged(&cluster).await;
}
