//! Replicas come and go while pages are published.

use std::collections::BTreeMap;

use foreword_proto::wire::meta as wire;
use foreword_proto::{Namespace, bad_input};
use foreword_seams::Endpoint;
use tonic::Code;

use crate::cluster::{Agent, Cluster, PATIENCE, free_endpoint, present};
use crate::proxy::Proxy;

pub(crate) fn add(replica_id: u64, endpoint: &str) -> wire::AddReplicaRequest {
    wire::AddReplicaRequest { replica_id, endpoint: endpoint.into(), client_endpoint: String::new() }
}

pub(crate) fn replace(old_replica_id: u64, new_replica_id: u64, endpoint: &str) -> wire::ReplaceReplicaRequest {
    let client_endpoint = String::new();
    wire::ReplaceReplicaRequest { old_replica_id, new_replica_id, endpoint: endpoint.into(), client_endpoint }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_replaced_under_load() {
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    let mut agent = Agent::open(&cluster, follower, "a").await;
    agent.publish(0..100).await;
    let leaving = *cluster.running.keys().find(|id| **id != follower).unwrap();
    let endpoint = free_endpoint();
    cluster.add_site(4, endpoint.clone(), BTreeMap::new());
    cluster.start(4).await;
    let request = replace(leaving, 4, &endpoint.to_string());
    let mut admin = cluster.admin(follower);
    let replacing = admin.replace_replica(request);
    let publishing = async {
        for batch in 10..30 {
            agent.publish(batch * 10..(batch + 1) * 10).await;
        }
    };
    let (replaced, ()) = tokio::join!(replacing, publishing);
    let voters = replaced.unwrap().into_inner().voters;
    assert!(voters.contains(&4) && !voters.contains(&leaving) && voters.len() == 3, "{voters:?}");
    cluster.crash(leaving).await;
    assert_eq!(cluster.converged().await.pages, 300);
    assert!(present(&cluster, 4, agent.namespace, 0..300).await.into_iter().all(|found| found));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_grows_and_shrinks_and_names_what_it_refuses() {
    let mut cluster = Cluster::started(1).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    agent.publish(0..10).await;
    let endpoint = free_endpoint();
    cluster.add_site(2, endpoint.clone(), BTreeMap::new());
    cluster.start(2).await;
    let request = add(2, &endpoint.to_string());
    assert_eq!(cluster.admin(1).add_replica(request).await.unwrap().into_inner().voters, [1, 2]);
    assert_eq!(cluster.converged().await.pages, 10);

    let refused = |error: tonic::Status| (error.code(), bad_input::field_of(&error).map(str::to_owned));
    let request = add(2, "127.0.0.1:1");
    let error = cluster.admin(1).add_replica(request).await.unwrap_err();
    assert_eq!(refused(error), (Code::AlreadyExists, Some("replica_id".into())));
    let request = add(3, "nowhere");
    let error = cluster.admin(1).add_replica(request).await.unwrap_err();
    assert_eq!(refused(error), (Code::InvalidArgument, Some("endpoint".into())));
    let error = cluster.admin(1).remove_replica(wire::RemoveReplicaRequest { replica_id: 9 }).await.unwrap_err();
    assert_eq!(refused(error), (Code::NotFound, Some("replica_id".into())));

    let removed = cluster.admin(2).remove_replica(wire::RemoveReplicaRequest { replica_id: 2 }).await.unwrap();
    assert_eq!(removed.into_inner().voters, [1]);
    let error = cluster.admin(1).remove_replica(wire::RemoveReplicaRequest { replica_id: 1 }).await.unwrap_err();
    assert_eq!(refused(error.clone()), (Code::FailedPrecondition, Some("replica_id".into())), "{error}");
}

/// Whether something new is acknowledged through a replica before the group gives up.
async fn acknowledges(cluster: &Cluster, replica: u64, name: &str) -> bool {
    let namespace = Namespace::simple(name, 64, vec![4096]);
    let request = wire::RegisterNamespaceRequest { namespace: Some((&namespace).into()) };
    let mut meta = cluster.meta(replica);
    let registered = tokio::time::timeout(PATIENCE, meta.register_namespace(request)).await;
    registered.expect("a deadline of the replica's own").is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_another_members_name_leads_to_does_not_acknowledge_alone() {
    let mut cluster = Cluster::new(3).await;
    let mut names = BTreeMap::new();
    for id in 1..=3 {
        let name = Proxy::to(&cluster.sites[&id].endpoint).await;
        cluster = cluster.reached_by(id, &name.endpoint);
        names.insert(id, name);
    }
    cluster.start_all().await;
    let leader = cluster.leader().await;
    assert!(acknowledges(&cluster, leader, "before").await);
    // The resolver is behind: both others' names lead to the leader's own address. The others themselves go on.
    for (_, name) in names.iter().filter(|(id, _)| **id != leader) {
        name.leads_to(&cluster.sites[&leader].endpoint);
    }
    assert!(!acknowledges(&cluster, leader, "alone").await, "one process of three acknowledged");
    for (id, name) in &names {
        name.leads_to(&cluster.sites[id].endpoint);
    }
    cluster.leader().await;
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_begins_only_when_all_its_members_are_there() {
    let mut cluster = Cluster::new(3).await;
    let Endpoint::Tcp(third) = cluster.sites[&3].endpoint.clone() else { panic!("no address of TCP") };
    let absent = tokio::net::TcpListener::bind(third).await.unwrap();
    cluster.start(1).await;
    cluster.start(2).await;
    for _ in 0..20 {
        let asked = tokio::time::timeout(PATIENCE, absent.accept()).await;
        drop(asked.expect("the third member is asked again and again").unwrap());
    }
    for id in [1, 2] {
        let status = cluster.status(id).await;
        assert_eq!((status.leader_id, status.voters.len(), status.term), (None, 0, 0), "replica {id}");
    }
    drop(absent);
    cluster.start_all().await;
    assert_eq!(cluster.status(2).await.voters, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_made_anew_is_no_voter_without_memory() {
    let mut cluster = Cluster::started(3).await;
    assert!(acknowledges(&cluster, 2, "before").await);
    // The lowest id, which forms groups, with the same members and another directory.
    cluster.crash(1).await;
    let (endpoint, members) = (cluster.sites[&1].endpoint.clone(), cluster.sites[&1].members.clone());
    cluster.add_site(1, endpoint, members);
    cluster.start(1).await;
    cluster
        .eventually("two of three acknowledge", async || acknowledges(&cluster, 2, "two of three").await.then_some(()))
        .await;
    cluster.crash(3).await;
    assert!(!acknowledges(&cluster, 2, "one of three").await, "one replica with a memory acknowledged");
    let made_anew = cluster.status(1).await;
    assert_eq!((made_anew.revision, made_anew.voters.len()), (0, 0));
    cluster.start(3).await;
    cluster
        .eventually("two of three acknowledge", async || acknowledges(&cluster, 2, "two again").await.then_some(()))
        .await;
}
