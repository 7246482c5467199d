//! An agent that comes back: its saved mirror, and what it does with one that is not its own.

use std::sync::Arc;

use foreword_node::api::EngineApi;
use foreword_node::store::NoFaults;
use foreword_node::{Handle, serve};
use foreword_proto::Namespace;
use foreword_seams::{Files, LocalFiles};

use crate::harness::{Cluster, TestAgent, client, expected, key, keys};

const BYTES: usize = 3000;

fn namespace() -> Namespace {
    Namespace::simple("m", 64, vec![BYTES as u64])
}

async fn start(cluster: &Cluster, files: &Arc<dyn Files>) -> TestAgent {
    let mut deps = cluster.deps(Arc::new(NoFaults));
    deps.files = Some(files.clone());
    let handle: Handle = serve(cluster.config("a"), deps).await.unwrap();
    let client = client(handle.endpoint());
    TestAgent { handle, client }
}

#[tokio::test]
async fn it_goes_on_from_its_saved_mirror() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(LocalFiles::new(dir.path()).unwrap());
    let a = start(&cluster, &files).await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &keys(0..50), 1, BYTES).await;
    a.lookup(ns, &[], cluster.meta.revision()).await;
    a.handle.shutdown().await;
    assert!(!cluster.meta.has_sessions(), "its name is free at once");
    assert_eq!(files.list().await.unwrap().len(), 1);
    // While it is away: one page less, and one more.
    cluster.meta.retire(ns, &key(3).entry(), foreword_proto::RetireReason::Evicted);
    let other = cluster.agent("other").await;
    other.open(&namespace()).await;
    other.put(ns, &keys(50..51), 1, BYTES).await;

    let a = start(&cluster, &files).await;
    assert_eq!(a.open(&namespace()).await, ns);
    a.lookup(ns, &[], cluster.meta.revision()).await;
    let got = a.get(ns, &keys(0..51), |_| {}).await;
    for (number, page) in got.iter().enumerate() {
        assert_eq!(page.hit, number != 3, "page {number}: {}", page.reason);
        if page.hit {
            assert_eq!(page.bytes, expected(&key(number as u64), 1, BYTES));
        }
    }
    assert_eq!(cluster.meta.state.lock().snapshots_sent, 2, "each agent's first sync, and none for the restart");
    assert_eq!(a.handle.api().stats().namespaces[0].pages, 50);
}

#[tokio::test]
async fn a_damaged_or_outdated_mirror_is_not_used() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(LocalFiles::new(dir.path()).unwrap());
    let a = start(&cluster, &files).await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &keys(0..10), 1, BYTES).await;
    a.lookup(ns, &[], cluster.meta.revision()).await;
    a.handle.shutdown().await;
    let path = dir.path().join(&files.list().await.unwrap()[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let a = start(&cluster, &files).await;
    a.open(&namespace()).await;
    assert_eq!(a.lookup(ns, &keys(0..10), cluster.meta.revision()).await.pages, 10);
    a.handle.shutdown().await;
    cluster.meta.clear_namespace(ns);
    let a = start(&cluster, &files).await;
    a.open(&namespace()).await;
    assert_eq!(a.lookup(ns, &keys(0..10), 0).await.pages, 0);
    assert_eq!(cluster.meta.state.lock().snapshots_sent, 3);
}
