//! Namespaces and page files: listed and dropped, through any replica.

use foreword_proto::bad_input;
use foreword_proto::status::{NamespaceStatus, PageFileStatus};
use foreword_proto::wire::common;
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::watch_response::Kind;
use serde_json::json;
use tonic::Code;

use crate::client::Client;
use crate::cluster::{Agent, Cluster, namespace};
use crate::watching::Watch;

async fn namespaces(cluster: &Cluster, replica: u64) -> Vec<NamespaceStatus> {
    let request = wire::ListNamespacesRequest { after: 0 };
    let listed = cluster.admin(replica).list_namespaces(request).await.unwrap().into_inner();
    assert!(!listed.more);
    listed.json.iter().map(|json| serde_json::from_str(json).unwrap()).collect()
}

async fn page_files(cluster: &Cluster, replica: u64) -> Vec<PageFileStatus> {
    let listed = cluster.admin(replica).list_page_files(wire::ListPageFilesRequest {}).await.unwrap().into_inner();
    listed.json.iter().map(|json| serde_json::from_str(json).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_dropped_through_any_replica_is_gone_on_all_and_its_room_is_reclaimed() {
    let cluster = Cluster::started(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mut agent = Agent::open(&cluster, 1, "a").await;
    agent.publish(0..500).await;
    let dropped = agent.namespace;
    let mut watching = Watch::open(&cluster, follower, dropped, 0, 0).await;
    let found = namespaces(&cluster, follower).await;
    assert_eq!(found.iter().map(|one| (one.id, one.pages)).collect::<Vec<_>>(), [(dropped, 500)]);

    let drop = wire::DropNamespaceRequest { namespace_id: dropped };
    let told = cluster.admin(follower).drop_namespace(drop).await.unwrap().into_inner();
    assert_eq!(told.pages, 500);
    for replica in [leader, follower] {
        assert!(namespaces(&cluster, replica).await.is_empty(), "as of now, on every replica");
    }
    let again = cluster.admin(leader).drop_namespace(drop).await.unwrap_err();
    assert_eq!((again.code(), bad_input::field_of(&again)), (Code::NotFound, Some("namespace_id")));
    // Its watchers are told, those that ask later, too.
    while !matches!(watching.next().await.unwrap(), Kind::Dropped(_)) {}
    let mut late = Watch::open(&cluster, follower, dropped, 0, 0).await;
    assert!(matches!(late.next().await.unwrap(), Kind::Dropped(_)));
    let published = cluster
        .eventually("reclaimed", async || {
            let status = cluster.status(leader).await.l3;
            (status.published_bytes == 0 && status.resting_bytes == 0).then_some(status)
        })
        .await;
    assert_eq!(published.published_bytes, 0);
    // The same namespace begins again, empty, under another id.
    let request = wire::RegisterNamespaceRequest { namespace: Some(common::Namespace::from(&namespace())) };
    let registered = agent.client.register_namespace(request).await.unwrap().into_inner();
    assert!(registered.namespace_id > dropped);
    cluster.converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_file_dropped_through_any_replica_gives_its_pages_out_after_their_time() {
    let mut cluster = Cluster::new(3).await;
    cluster.hf3fs_protection_ms = 2000;
    cluster.start_all().await;
    let follower = cluster.follower().await;
    let mut client = Client::new(&cluster, follower, "/m/0");
    client.initialize(4).await;
    let pages = client.write(&["a"]).await;
    let reading = tokio::time::Instant::now();
    assert_eq!(client.get(&["a"]).await, [Some(pages[0] as u32)]);
    let file = page_files(&cluster, follower).await.remove(0);
    assert_eq!((file.pages, file.confirmed, file.deployment.as_str()), (4, 1, "m"));

    let drop = wire::DropPageFileRequest { page_file_id: file.id };
    cluster.admin(follower).drop_page_file(drop).await.unwrap();
    assert!(page_files(&cluster, follower).await.is_empty());
    let again = cluster.admin(follower).drop_page_file(drop).await.unwrap_err();
    assert_eq!((again.code(), bad_input::field_of(&again)), (Code::NotFound, Some("page_file_id")));
    assert_eq!(client.post("exists", &json!({ "keys": ["a"] })).await.status, 404);
    // Whoever was told of the page may still be reading it.
    client.initialize(4).await;
    assert_eq!(client.exists(&["a"]).await, [false]);
    while client.reserve(&["b"]).await[0].1 < 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(reading.elapsed().as_millis() >= 2000, "given out after {:?}", reading.elapsed());
    cluster.converged().await;
}

/// A watcher that is told that a namespace is not there gives it up: a replica that is behind must not say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_behind_does_not_call_a_new_namespace_dropped() {
    let cluster = Cluster::started(3).await;
    let (leader, behind) = (cluster.leader().await, cluster.follower().await);
    cluster.cut_off(behind);
    let agent = Agent::open(&cluster, leader, "a").await;
    let mut unsure = Watch::open_even_alone(&cluster, behind, agent.namespace).await;
    // It gives up before it says anything of the namespace.
    assert!(unsure.next().await.is_err());
    let mut watching = Watch::open_even_alone(&cluster, behind, agent.namespace).await;
    cluster.links.heal_all();
    assert!(matches!(watching.next().await.unwrap(), Kind::Begin(_)), "it waited until it knew");
}
