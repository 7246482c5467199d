//! Replicas compare the digests that all replicas note at the same revisions.

use foreword_meta::replica::group::Group;
use foreword_meta::serve::Failure;
use foreword_meta::state::command::Command;
use foreword_proto::Namespace;
use foreword_proto::limits::DIGEST_EVERY_ENTRIES;

use crate::cluster::{Agent, Cluster, PATIENCE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_note_equal_digests_and_compare_them() {
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

/// What a bug in applying would do: this replica holds a namespace that no other has.
fn diverge(group: &Group) {
    let (mut state, position) = group.applied.read_with_position(|state, position| (state.clone(), position.clone()));
    let namespace = Box::new(Namespace::simple("only here", 64, vec![4096]));
    state.apply(state.revision(), &Command::RegisterNamespace { namespace }, &mut Vec::new());
    drop(group.applied.replace(state, position));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_most_others_disagree_with_votes_no_more_and_fails() {
    for leads in [false, true] {
        let mut cluster = Cluster::started(3).await;
        let leader = cluster.leader().await;
        let wrong = if leads { leader } else { cluster.follower().await };
        cluster.converged().await;
        diverge(cluster.running[&wrong].group());
        let mut agent = Agent::open(&cluster, leader, "a").await;
        for page in 0..DIGEST_EVERY_ENTRIES {
            agent.publish(page..page + 1).await;
        }
        let mut failing = cluster.running.remove(&wrong).unwrap();
        let failure = tokio::time::timeout(PATIENCE, failing.failed()).await.expect("the wrong one notices");
        assert!(matches!(failure, Failure::Diverged(_)), "{failure}");
        assert!(!failing.standing().may_vote());
        failing.shutdown().await;
        let next = cluster.leader().await;
        let revision = Agent::open(&cluster, next, "b").await.publish(1000..1001).await;
        assert!(revision > 0, "the others go on");
    }
}
