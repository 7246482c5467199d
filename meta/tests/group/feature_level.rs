//! The feature level is told, and raised only to what every member knows.

use foreword_proto::bad_input::field_of;
use foreword_proto::limits::FEATURE_LEVEL_MAX;
use foreword_proto::wire::meta as wire;
use tonic::Code;

use crate::cluster::Cluster;

/// Asks a replica; again while it knows no leader.
async fn ask(cluster: &Cluster, id: u64, raise_to: u32) -> Result<wire::FeatureLevelResponse, tonic::Status> {
    let answered = cluster.eventually("an answer of the leader", async || {
        match cluster.admin(id).feature_level(wire::FeatureLevelRequest { raise_to }).await {
            Err(error) if error.code() == Code::Unavailable => None,
            answered => Some(answered.map(tonic::Response::into_inner)),
        }
    });
    answered.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_that_a_member_does_not_know_is_refused_and_each_is_named() {
    let mut cluster = Cluster::started(3).await;
    for id in 1..=3 {
        let told = ask(&cluster, id, 0).await.unwrap();
        assert_eq!(told.committed, FEATURE_LEVEL_MAX, "asked {id}");
        let known: Vec<_> = told.members.iter().map(|member| (member.replica_id, member.known)).collect();
        assert_eq!(known, [1, 2, 3].map(|id| (id, FEATURE_LEVEL_MAX)), "asked {id}");
    }
    let leader = cluster.leader().await;
    let down = leader % 3 + 1;
    cluster.crash(down).await;
    let error = ask(&cluster, leader, FEATURE_LEVEL_MAX + 1).await.unwrap_err();
    assert_eq!((error.code(), field_of(&error)), (Code::FailedPrecondition, Some("raise_to")));
    for id in 1..=3 {
        let why = if id == down { "did not answer".to_owned() } else { format!("knows {FEATURE_LEVEL_MAX}") };
        let named =
            error.message().split(", ").any(|one| one.contains(&format!("replica {id} at ")) && one.contains(&why));
        assert!(named, "{error}");
    }
    // What is committed already is no change, and needs nobody.
    let told = ask(&cluster, leader, FEATURE_LEVEL_MAX).await.unwrap();
    assert_eq!(told.committed, FEATURE_LEVEL_MAX);
}
