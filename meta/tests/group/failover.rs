//! Crashes: of the leader, of everything, and of one replica for longer than the log is kept.

use std::time::Duration;

use foreword_meta::replica::unavailable::Unavailable;
use foreword_meta::state::command::Command;
use foreword_proto::status::ReplicaRole;
use foreword_seams::{Marker, sometimes};
use tokio::time::Instant;

use crate::cluster::{Agent, Cluster, PATIENCE, present};

/// On one thread, whose markers then count every try of this group.
#[tokio::test]
async fn a_proposal_without_a_leader_rests_between_its_tries() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    cluster.crash(leader).await;
    let left = *cluster.running.keys().next().unwrap();
    let other = *cluster.running.keys().find(|id| **id != left).unwrap();
    cluster.crash(other).await;
    let before = sometimes::counts().get(Marker::ProposalRetried);
    let group = cluster.running[&left].group().clone();
    let answer = group.propose_one(Command::Reclaim { entries_max: 1 }, Instant::now() + Duration::from_secs(1)).await;
    // The first try may have gone out on a connection that the leader was closing.
    assert!(matches!(answer, Err(Unavailable::NoLeader | Unavailable::Unknown)), "{answer:?}");
    let tries = sometimes::counts().get(Marker::ProposalRetried) - before;
    // One every 25 ms, and some more for elections that were tried meanwhile.
    assert!((1..100).contains(&tries), "{tries} tries in a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_pages_survive_the_leader() {
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    let mut agent = Agent::open(&cluster, follower, "a").await;
    agent.publish(0..50).await;
    let leader = cluster.leader().await;
    cluster.crash(leader).await;
    // The session lives on: its next command waits for the new leader behind the same replica.
    let publishing = agent.publish(50..60);
    tokio::time::timeout(PATIENCE, publishing).await.expect("a publish goes through after the election");
    assert!(present(&cluster, follower, agent.namespace, 0..60).await.into_iter().all(|found| found));
    cluster.start(leader).await;
    assert_eq!(cluster.converged().await.pages, 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_pages_survive_a_power_cut_of_all() {
    let mut cluster = Cluster::started(3).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    agent.publish(0..200).await;
    for id in [1, 2, 3] {
        cluster.crash(id).await;
    }
    cluster.start_all().await;
    for replica in [1, 2, 3] {
        assert!(present(&cluster, replica, agent.namespace, 0..200).await.into_iter().all(|found| found));
    }
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_missed_the_purged_log_gets_a_snapshot() {
    let mut cluster = Cluster::new(3).await;
    cluster.log_bytes_per_snapshot = 128 << 10;
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let away = *cluster.running.keys().find(|id| **id != leader).unwrap();
    let mut agent = Agent::open(&cluster, leader, "a").await;
    cluster.crash(away).await;
    // More than openraft keeps behind a snapshot, in entries and in bytes.
    for batch in 0..300 {
        agent.publish(batch * 10..(batch + 1) * 10).await;
    }
    cluster
        .eventually("the leader purged its log", async || {
            (cluster.status(leader).await.purged_index > 100).then_some(())
        })
        .await;
    cluster.start(away).await;
    let status = cluster.converged().await;
    assert_eq!(status.pages, 3000);
    assert!(cluster.status(away).await.snapshot_revision > 0, "it started from a snapshot");
    assert!(present(&cluster, away, agent.namespace, 0..3000).await.into_iter().all(|found| found));
    // And it comes back from its own disk: the received snapshot and the log behind it.
    cluster.crash(away).await;
    cluster.start(away).await;
    assert_eq!(cluster.converged().await.pages, 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_expires_only_after_a_whole_lease_without_renewal() {
    let cluster = Cluster::started(1).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    agent.grant(16).await;
    assert_eq!(cluster.status(1).await.sessions.len(), 1);
    cluster
        .eventually("the session expires and its slots rest and are free", async || {
            let status = cluster.status(1).await;
            (status.sessions.is_empty() && status.l3.granted_bytes == 0 && status.l3.resting_bytes == 0).then_some(())
        })
        .await;
    let error = agent
        .client
        .renew_session(foreword_proto::wire::meta::RenewSessionRequest { session: agent.session.to_wire() })
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    assert_eq!(foreword_proto::bad_input::field_of(&error), Some("session"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_log_ends_before_its_mark_rejoins_empty_and_votes_only_once_caught_up() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let followers: Vec<u64> = cluster.running.keys().copied().filter(|id| *id != leader).collect();
    let (lost, other) = (followers[0], followers[1]);
    let mut agent = Agent::open(&cluster, leader, "a").await;
    agent.publish(0..100).await;
    cluster.converged().await;
    cluster.crash(lost).await;
    cluster.sites[&lost].disk.lose_tail(3);
    // Alone with the replica that has lost entries, the other must not be elected.
    cluster.crash(leader).await;
    cluster.start(lost).await;
    cluster
        .eventually("the replica knows what it lost", async || {
            (cluster.status(lost).await.role == ReplicaRole::Rejoining).then_some(())
        })
        .await;
    let before = cluster.status(other).await.term;
    cluster
        .eventually("the other stood for election, in vain", async || {
            let status = cluster.status(other).await;
            assert_ne!(status.role, ReplicaRole::Leader);
            (status.term > before + 1).then_some(())
        })
        .await;
    assert_eq!(cluster.status(lost).await.pages, 0);
    cluster.start(leader).await;
    cluster
        .eventually("it has caught up and votes", async || {
            (cluster.status(lost).await.role == ReplicaRole::Follower).then_some(())
        })
        .await;
    assert_eq!(cluster.converged().await.pages, 100);
    assert!(present(&cluster, lost, agent.namespace, 0..100).await.into_iter().all(|found| found));
}
