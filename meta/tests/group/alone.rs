//! A replica that is cut off from the others: whom it still serves, and who is told to look elsewhere.

use std::sync::Arc;
use std::time::Duration;

use foreword_client::watch::{Cursor, Ended, WatchStream, Watcher};
use foreword_proto::Namespace;
use foreword_proto::bad_input::field_of;
use foreword_proto::wire::meta as wire;
use foreword_seams::TokioNet;
use tonic::Code;
use wire::watch_response::Kind;

use crate::cluster::{Agent, Cluster, PATIENCE, namespace};

/// A stream of one namespace of one replica, from nothing.
async fn watch(cluster: &Cluster, replica: u64, namespace: u32, even_alone: bool) -> WatchStream {
    let mut replica = foreword_client::replica(Arc::new(TokioNet), &cluster.sites[&replica].endpoint);
    let who = Watcher { node: "test", even_alone };
    WatchStream::of(&mut replica, who, &mut Cursor::new(namespace)).await.unwrap()
}

/// Reads until the resync is whole. Err: the stream ended.
async fn synced(stream: &mut WatchStream) -> Result<(), Ended> {
    while !matches!(stream.next_within(PATIENCE).await?.1, Kind::End(_)) {}
    Ok(())
}

/// Reads until the stream ends; it must be for want of the others.
async fn ends_alone(stream: &mut WatchStream) {
    let ended = loop {
        if let Err(ended) = stream.next_within(PATIENCE).await {
            break ended;
        }
    };
    let Ended::Status(status) = ended else { panic!("{ended}") };
    assert_eq!((status.code(), field_of(&status)), (Code::Unavailable, Some("leader")), "{status:?}");
}

/// Leader and follower alike: a mirror that watched it would stay at its revision, and nobody would know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_ends_its_watches_unless_they_have_no_better() {
    for of_leader in [true, false] {
        let cluster = Cluster::started(3).await;
        let lost = if of_leader { cluster.leader().await } else { cluster.follower().await };
        let agent = Agent::open(&cluster, lost, "a").await;
        let mut watching = watch(&cluster, lost, agent.namespace, false).await;
        synced(&mut watching).await.unwrap();
        let mut modest = watch(&cluster, lost, agent.namespace, true).await;
        synced(&mut modest).await.unwrap();
        cluster.cut_off(lost);
        ends_alone(&mut watching).await;
        ends_alone(&mut watch(&cluster, lost, agent.namespace, false).await).await;
        // Who finds nobody else is served on, and from the start.
        synced(&mut watch(&cluster, lost, agent.namespace, true).await).await.unwrap();
        let still = tokio::time::timeout(Duration::from_millis(100), modest.next()).await;
        assert!(still.is_err() || still.unwrap().is_ok(), "it goes on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_a_replica_knows_can_be_opened_without_a_majority() {
    let mut cluster = Cluster::started(3).await;
    let left = cluster.follower().await;
    let agent = Agent::open(&cluster, left, "a").await;
    let (known, unknown) = (namespace(), Namespace::simple("never seen", 64, vec![4096]));
    for id in cluster.running.keys().copied().filter(|id| *id != left).collect::<Vec<_>>() {
        cluster.crash(id).await;
    }
    let register = async |namespace: &Namespace| {
        let mut request = tonic::Request::new(wire::RegisterNamespaceRequest { namespace: Some(namespace.into()) });
        request.set_timeout(Duration::from_millis(500));
        cluster.meta(left).register_namespace(request).await
    };
    let opened = cluster.eventually("an answer without a majority", async || register(&known).await.ok()).await;
    assert_eq!(opened.into_inner().namespace_id, agent.namespace);
    assert!(register(&unknown).await.is_err(), "who would have registered it?");
}
