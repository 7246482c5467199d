//! Starting, being ready, and refusing to start.

use std::sync::Arc;

use foreword_node::arena::HeapRegions;
use foreword_node::serve::machine_stores;
use foreword_node::store::{ClusterMark, NoFaults, init_l3_root};
use foreword_node::{Deps, L3Location, NodeConfig, ServeError, serve};
use foreword_proto::limits::WIRE_VERSION;
use foreword_proto::wire::node as wire;
use foreword_proto::{ClusterId, Namespace};
use foreword_seams::{Endpoint, Net, OsEntropy, Telemetry, TokioNet, on_a_task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::fake_meta::{CHUNK_BYTES, CLUSTER, Settings};
use crate::harness::{Cluster, TestAgent, client, eventually, expected, keys};

async fn refused(cluster: &Cluster, change: impl FnOnce(&mut NodeConfig)) -> ServeError {
    let mut config = cluster.config("a");
    config.meta_wait_ms = 300;
    change(&mut config);
    serve(config, cluster.deps(Arc::new(NoFaults))).await.err().expect("it must not start")
}

fn machine(telemetry: Telemetry) -> Deps {
    Deps {
        net: Arc::new(TokioNet),
        entropy: Arc::new(OsEntropy),
        store: machine_stores(),
        files: None,
        kept: None,
        regions: Arc::new(HeapRegions),
        segment_maker: on_a_task(),
        telemetry,
    }
}

async fn http_get(endpoint: &Endpoint, path: &str) -> String {
    let mut stream = TokioNet.connect(endpoint).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn it_does_not_start_where_it_does_not_belong() {
    let cluster = Cluster::start().await;
    let other = ClusterId([9; 16]);
    let error = refused(&cluster, |config| config.cluster_id = Some(other)).await;
    assert!(matches!(&error, ServeError::Hello(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains(&other.to_string()) && text.contains(&CLUSTER.to_string()), "{text}");

    let error = refused(&cluster, |config| config.arena_bytes = 1).await;
    assert!(error.to_string().starts_with("arena_bytes"), "{error}");

    let taken = cluster.agent("holder").await.handle.endpoint().clone();
    let error = refused(&cluster, |config| config.listen = taken).await;
    assert!(matches!(error, ServeError::Listen { field: "listen", .. }), "{error}");

    let nobody: Endpoint = "127.0.0.1:1".parse().unwrap();
    let error = refused(&cluster, |config| config.meta = vec![nobody]).await;
    assert!(error.to_string().starts_with("meta: no replica answered"), "{error}");

    cluster.meta.set(|settings| settings.wire_version = WIRE_VERSION + 1);
    let error = refused(&cluster, |_| {}).await.to_string();
    assert!(error.contains(&format!("speaks {WIRE_VERSION}, the replica {}", WIRE_VERSION + 1)), "{error}");
}

#[tokio::test]
async fn it_does_not_use_another_clusters_directory() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let l3 = L3Location::Posix(dir.path().to_owned());
    let start = || {
        let mut config = cluster.config("a");
        config.l3 = l3.clone();
        serve(config, machine(Telemetry::new()))
    };
    let error = start().await.err().unwrap();
    assert!(matches!(error, ServeError::NoCluster { .. }), "{error}");
    init_l3_root(dir.path(), &ClusterMark::new(CLUSTER, CHUNK_BYTES * 2, "test")).unwrap();
    let error = start().await.err().unwrap();
    assert!(matches!(error, ServeError::OtherCluster { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&CHUNK_BYTES.to_string()) && text.contains(&(CHUNK_BYTES * 2).to_string()), "{text}");
}

#[tokio::test]
async fn two_agents_share_pages_through_a_posix_directory() {
    const BYTES: usize = 6000;
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    init_l3_root(dir.path(), &ClusterMark::new(CLUSTER, CHUNK_BYTES, "test")).unwrap();
    let mut agents = Vec::new();
    for node in ["a", "b"] {
        let mut config = cluster.config(node);
        config.l3 = L3Location::Posix(dir.path().to_owned());
        let handle = serve(config, machine(Telemetry::new())).await.unwrap();
        let client = client(handle.endpoint());
        agents.push(TestAgent { handle, client });
    }
    let namespace = Namespace::simple("m", 64, vec![BYTES as u64; 2]);
    let ns = agents[0].open(&namespace).await;
    agents[1].open(&namespace).await;
    let put = agents[0].put(ns, &keys(0..100), 2, BYTES).await;
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    let got = agents[1].get(ns, &keys(0..100), |get| get.min_revision = revision).await;
    for (page, key) in got.iter().zip(keys(0..100)) {
        assert_eq!((page.hit, page.tier), (true, wire::Tier::L3 as i32), "{}", page.reason);
        assert_eq!(page.bytes, expected(&key, 2, BYTES));
    }
}

#[tokio::test]
async fn it_serves_on_a_unix_socket_and_over_http() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = cluster.config("a");
    config.socket = Some(dir.path().join("agent.sock"));
    config.http = Some("127.0.0.1:0".parse().unwrap());
    let a = cluster.agent_with(config.clone(), Arc::new(NoFaults)).await;
    let ns = a.open(&Namespace::simple("m", 64, vec![100])).await;
    a.put(ns, &keys(0..1), 1, 100).await;

    let mut over_unix = client(&Endpoint::Unix(config.socket.unwrap()));
    let stats = over_unix.stats(wire::StatsRequest {}).await.unwrap().into_inner();
    let status: foreword_proto::status::AgentStatus = serde_json::from_str(&stats.json).unwrap();
    assert_eq!((status.cluster_id, status.node.as_str()), (CLUSTER, "a"));
    assert_eq!(status.counters.publishes_acked, 1);

    let http = a.handle.http_endpoint().unwrap();
    assert!(http_get(http, "/healthz").await.starts_with("HTTP/1.1 200"));
    eventually("it is ready", || a.handle.ready()).await;
    assert!(http_get(http, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(http_get(http, "/status").await.contains("\"node\":\"a\""));
    let metrics = http_get(http, "/metrics").await;
    assert!(metrics.contains("foreword_agent_publishes_acked_total 1"), "{metrics}");
}

#[tokio::test]
async fn calls_above_the_limit_are_refused_at_once() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config("a");
    config.calls_max = 1;
    let a = cluster.agent_with(config, Arc::new(NoFaults)).await;
    let ns = a.open(&Namespace::simple("m", 64, vec![100])).await;
    let asked = keys(0..1);
    let waiting = a.lookup(ns, &asked, u64::MAX);
    tokio::pin!(waiting);
    let mut refusals = 0;
    while refusals == 0 {
        assert!(futures::poll!(&mut waiting).is_pending());
        tokio::task::yield_now().await;
        if let Err(status) = a.client.clone().stats(wire::StatsRequest {}).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            refusals += 1;
        }
    }
}

#[tokio::test]
async fn an_orderly_end_gives_the_slots_back() {
    let cluster = Cluster::with(Settings { slots: 64, ..Settings::default() }).await;
    let a = cluster.agent("a").await;
    let ns = a.open(&Namespace::simple("m", 64, vec![100])).await;
    a.put(ns, &keys(0..1), 1, 100).await;
    a.handle.shutdown().await;
    assert_eq!(cluster.meta.sessions(), 0);
    assert_eq!(cluster.meta.pages(ns), 1);
}
