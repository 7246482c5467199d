//! Who the group is: members come and go, and some are not worth watching.

use foreword_node::api::EngineApi;
use foreword_proto::Namespace;
use foreword_proto::wire::node as wire;

use crate::fake_meta::Settings;
use crate::harness::{Cluster, SOON, eventually, keys};

const BYTES: usize = 4096;

fn namespace() -> Namespace {
    Namespace::simple("m", 64, vec![BYTES as u64])
}

/// A group that is renewed often.
async fn cluster() -> Cluster {
    Cluster::with(Settings { lease_ms: 500, ..Settings::default() }).await
}

#[tokio::test]
async fn an_agent_follows_the_group_to_members_that_it_never_was_told_of_by_hand() {
    let cluster = cluster().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    let (_, next) = cluster.meta.another(Settings::default()).await;
    cluster.meta.set(|settings| settings.members = vec![next.to_string()]);
    eventually("a renewal tells of it", || cluster.meta.state.lock().members_told > 0).await;
    // The one that it was configured with is gone for good.
    cluster.meta.set(|settings| settings.gone = true);
    let put = tokio::time::timeout(SOON, a.put(ns, &keys(0..5), 1, BYTES)).await.unwrap();
    assert!(put.iter().all(|page| page.outcome() == wire::PutOutcome::Published), "{put:?}");
}

#[tokio::test]
async fn a_mirror_leaves_a_replica_that_tells_less_than_the_group_has() {
    let cluster = cluster().await;
    // Both answer; only the second one brings news.
    let (_, second) = cluster.meta.another(Settings { lease_ms: 500, ..Settings::default() }).await;
    cluster.meta.set(|settings| settings.members = vec![cluster.endpoint.to_string(), second.to_string()]);
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    cluster.meta.set(|settings| settings.hold_watches = true);
    let put = a.put(ns, &keys(0..5), 1, BYTES).await;
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    let age = || a.handle.api().stats().namespaces[0].clone();
    eventually("it says how far behind it is", || age().mirror_age_ms > 1000 && age().revision < revision).await;
    eventually("it watches the other one", || age().revision >= revision).await;
    eventually("it says that it is not behind", || age().mirror_age_ms < 1000).await;
}

#[tokio::test]
async fn an_engine_that_comes_back_opens_what_is_open_while_the_group_is_away() {
    let cluster = cluster().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &keys(0..3), 1, BYTES).await;
    cluster.meta.set(|settings| settings.gone = true);
    assert_eq!(a.open(&namespace()).await, ns);
    assert_eq!(a.lookup(ns, &keys(0..3), 0).await.pages, 3);
    let other = Some(foreword_proto::wire::common::Namespace::from(&Namespace::simple("n", 64, vec![BYTES as u64])));
    let mut request = tonic::Request::new(wire::OpenNamespaceRequest { namespace: other });
    request.set_timeout(std::time::Duration::from_millis(100));
    assert!(a.client.clone().open_namespace(request).await.is_err(), "of this one nothing is known");
}
