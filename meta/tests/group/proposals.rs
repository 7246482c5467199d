//! Proposals in flight, waiting and passed on, when the leader cannot get through.

use std::time::Duration;

use foreword_meta::state::command::Command;
use foreword_proto::bad_input::field_of;
use foreword_proto::wire::meta as wire;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::cluster::{Agent, Cluster, PATIENCE, namespace, present};

/// Proposals that the leader has written and not applied, at most.
const IN_FLIGHT_MAX: u64 = 4;

fn last_index(cluster: &Cluster, replica: u64) -> u64 {
    cluster.running[&replica].group().raft.metrics().borrow().last_log_index.unwrap_or(0)
}

/// Waits until a leader that reaches nobody has as many entries in flight as it may.
async fn fill_flight(cluster: &Cluster, leader: u64) {
    let before = last_index(cluster, leader);
    cluster
        .eventually("entries in flight", async || {
            let group = cluster.running[&leader].group().clone();
            let deadline = Instant::now() + PATIENCE;
            tokio::spawn(async move { group.propose_one(Command::Reclaim { entries_max: 1 }, deadline).await });
            (last_index(cluster, leader) >= before + IN_FLIGHT_MAX).then_some(())
        })
        .await;
}

/// A cluster whose leader stays the leader though nobody hears it.
async fn patient_cluster() -> Cluster {
    let mut cluster = Cluster::new(3).await;
    cluster.election_ms = Some((20_000, 40_000));
    cluster.start_all().await;
    cluster
}

/// openraft answers what is in flight when it is applied or truncated, and never when a snapshot takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_cut_off_and_got_a_snapshot_proposes_again_once_it_leads() {
    let mut cluster = Cluster::new(3).await;
    cluster.log_bytes_per_snapshot = 128 << 10;
    cluster.start_all().await;
    let cut_off = cluster.leader().await;
    let others: Vec<u64> = cluster.running.keys().copied().filter(|id| *id != cut_off).collect();
    cluster.cut_off(cut_off);
    fill_flight(&cluster, cut_off).await;
    let in_flight = last_index(&cluster, cut_off);
    let mut agent = Agent::open(&cluster, others[0], "a").await;
    for batch in 0..300 {
        agent.publish(batch * 10..(batch + 1) * 10).await;
    }
    cluster
        .eventually("the others purged what was in flight", async || {
            (cluster.status(others[0]).await.purged_index > in_flight).then_some(())
        })
        .await;
    cluster.links.heal_all();
    assert_eq!(cluster.converged().await.pages, 3000);
    assert!(cluster.status(cut_off).await.snapshot_revision > in_flight, "it got a snapshot");

    let moved = cluster.admin(cut_off).move_leader(wire::MoveLeaderRequest { to: cut_off }).await.unwrap();
    assert_eq!(moved.into_inner().leader, cut_off);
    let mut agent = Agent::open(&cluster, cut_off, "b").await;
    agent.publish(5000..5010).await;
    assert!(present(&cluster, cut_off, agent.namespace, 5000..5010).await.into_iter().all(|found| found));
    assert!(cluster.counter(cut_off, "foreword_meta_proposals_unknown_total") >= IN_FLIGHT_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forward_waits_for_its_answer_and_is_not_repeated() {
    let cluster = patient_cluster().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mut agent = Agent::open(&cluster, follower, "a").await;
    agent.publish(0..3).await;
    let before = last_index(&cluster, leader);
    cluster.mute(leader);
    let (mut client, namespace_id) = (agent.client.clone(), agent.namespace);
    let clearing = tokio::spawn(async move { client.clear(wire::ClearRequest { namespace_id }).await });
    // The leader's own ticks come every two seconds then: long enough for a forward that does not wait.
    cluster
        .eventually("the leader proposed more", async || (last_index(&cluster, leader) >= before + 3).then_some(()))
        .await;
    cluster.links.heal_all();
    assert_eq!(clearing.await.unwrap().unwrap().into_inner().epoch, 2);
    assert_eq!(cluster.converged().await.namespaces[0].epoch, 2, "it was cleared once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_caller_gave_up_is_not_proposed() {
    let cluster = patient_cluster().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    cluster.mute(leader);
    fill_flight(&cluster, leader).await;
    for replica in [leader, follower] {
        for number in 0..5 {
            let mut abandoned = namespace();
            abandoned.model = format!("{replica}-{number}");
            let request = wire::RegisterNamespaceRequest { namespace: Some((&abandoned).into()) };
            let mut request = Request::new(request);
            request.set_timeout(Duration::from_millis(200));
            cluster.meta(replica).register_namespace(request).await.unwrap_err();
        }
    }
    cluster.links.heal_all();
    Agent::open(&cluster, leader, "a").await;
    let names: Vec<_> = cluster.converged().await.namespaces.into_iter().map(|known| known.model).collect();
    assert_eq!(names, ["test"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_passed_on_once() {
    let cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    let mut agent = Agent::open(&cluster, follower, "a").await;
    let renew = wire::RenewSessionRequest { session: agent.session.to_wire() };
    agent.client.renew_session(renew.clone()).await.unwrap();
    fn passed_on<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("foreword-forwarded", MetadataValue::from_static("1"));
        request
    }
    let refused = |error: Status| assert_eq!((error.code(), field_of(&error)), (Code::Unavailable, Some("leader")));
    refused(agent.client.renew_session(passed_on(renew)).await.unwrap_err());
    refused(agent.client.report_heat(passed_on(wire::ReportHeatRequest::default())).await.unwrap_err());
    let removed = passed_on(wire::RemoveReplicaRequest { replica_id: 9 });
    refused(cluster.admin(follower).remove_replica(removed).await.unwrap_err());
}
