//! The leader compares the digests that all replicas note at the same revisions.

use foreword_proto::limits::DIGEST_EVERY_ENTRIES;

use crate::cluster::{Agent, Cluster};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_note_equal_digests_and_the_leader_compares_them() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let mut agent = Agent::open(&cluster, leader, "a").await;
    for page in 0..DIGEST_EVERY_ENTRIES {
        agent.publish(page..page + 1).await;
    }
    let noted = |id: u64| cluster.running[&id].group().applied.digest_at(DIGEST_EVERY_ENTRIES);
    let digests = cluster
        .eventually("every replica notes a digest", async || {
            [1, 2, 3].map(noted).into_iter().collect::<Option<Vec<_>>>()
        })
        .await;
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    cluster
        .eventually("the leader has compared both", async || {
            (cluster.counter(leader, "foreword_meta_digests_compared_total") >= 2).then_some(())
        })
        .await;
    assert_eq!(cluster.counter(leader, "foreword_meta_digests_different_total"), 0);
}
