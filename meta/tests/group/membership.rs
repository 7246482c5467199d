//! Replicas come and go while pages are published.

use std::collections::BTreeMap;

use foreword_proto::bad_input;
use foreword_proto::wire::meta as wire;
use tonic::Code;

use crate::cluster::{Agent, Cluster, free_endpoint, present};

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
    let request =
        wire::ReplaceReplicaRequest { old_replica_id: leaving, new_replica_id: 4, endpoint: endpoint.to_string() };
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
    let request = wire::AddReplicaRequest { replica_id: 2, endpoint: endpoint.to_string() };
    assert_eq!(cluster.admin(1).add_replica(request).await.unwrap().into_inner().voters, [1, 2]);
    assert_eq!(cluster.converged().await.pages, 10);

    let refused = |error: tonic::Status| (error.code(), bad_input::field_of(&error).map(str::to_owned));
    let request = wire::AddReplicaRequest { replica_id: 2, endpoint: "127.0.0.1:1".into() };
    let error = cluster.admin(1).add_replica(request).await.unwrap_err();
    assert_eq!(refused(error), (Code::AlreadyExists, Some("replica_id".into())));
    let request = wire::AddReplicaRequest { replica_id: 3, endpoint: "nowhere".into() };
    let error = cluster.admin(1).add_replica(request).await.unwrap_err();
    assert_eq!(refused(error), (Code::InvalidArgument, Some("endpoint".into())));
    let error = cluster.admin(1).remove_replica(wire::RemoveReplicaRequest { replica_id: 9 }).await.unwrap_err();
    assert_eq!(refused(error), (Code::NotFound, Some("replica_id".into())));

    let removed = cluster.admin(2).remove_replica(wire::RemoveReplicaRequest { replica_id: 2 }).await.unwrap();
    assert_eq!(removed.into_inner().voters, [1]);
    let error = cluster.admin(1).remove_replica(wire::RemoveReplicaRequest { replica_id: 1 }).await.unwrap_err();
    assert_eq!(refused(error), (Code::FailedPrecondition, Some("replica_id".into())));
}
