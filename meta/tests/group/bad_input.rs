//! What a caller got wrong is named, and the next valid request succeeds.

use bytes::Bytes;
use foreword_proto::bad_input::field_of;
use foreword_proto::limits::{KEYS_MAX, META_MESSAGE_BYTES_MAX, WIRE_VERSION};
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_seams::{Net, TokioNet, rpc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tonic::{Code, Request, Status};

use crate::cluster::{Agent, Cluster, PATIENCE, namespace};

fn named(error: &Status) -> (Code, Option<&str>) {
    (error.code(), field_of(error))
}

fn lookup(namespace_id: u32, keys: usize) -> wire::LookupRequest {
    wire::LookupRequest { namespace_id, keys: vec![7; keys * 32].into(), ..wire::LookupRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_name_what_is_wrong() {
    let cluster = Cluster::started(1).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    let namespace_id = agent.namespace;
    let error = agent.client.lookup(lookup(namespace_id + 1, 1)).await.unwrap_err();
    assert_eq!(named(&error), (Code::NotFound, Some("namespace_id")));
    let error = agent.client.lookup(lookup(namespace_id, KEYS_MAX + 1)).await.unwrap_err();
    assert_eq!(named(&error), (Code::InvalidArgument, Some("keys")));
    let ragged = wire::LookupRequest { namespace_id, keys: vec![7; 33].into(), ..wire::LookupRequest::default() };
    let error = agent.client.lookup(ragged).await.unwrap_err();
    assert_eq!(named(&error), (Code::InvalidArgument, Some("keys")));
    let error = agent.client.lookup(lookup(namespace_id, META_MESSAGE_BYTES_MAX / 32 + 1)).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    let mut late = Request::new(wire::LookupRequest {
        freshness: Some(foreword_proto::wire::common::Freshness { min_revision: 1 << 40, linearizable: false }),
        ..lookup(namespace_id, 1)
    });
    late.set_timeout(std::time::Duration::from_millis(20));
    let error = agent.client.lookup(late).await.unwrap_err();
    // Told in time what is missing; a slow machine lets the deadline pass first.
    let told = matches!(error.code(), Code::FailedPrecondition | Code::DeadlineExceeded | Code::Cancelled);
    assert!(told, "{error}");
    assert_eq!(agent.client.lookup(lookup(namespace_id, KEYS_MAX)).await.unwrap().into_inner().prefix, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_namespaces_name_what_is_wrong() {
    let cluster = Cluster::started(1).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    let mut other = namespace();
    other.shard_bytes = vec![8192];
    let request = wire::RegisterNamespaceRequest { namespace: Some((&other).into()) };
    let error = agent.client.register_namespace(request).await.unwrap_err();
    assert_eq!(named(&error), (Code::FailedPrecondition, Some("namespace.shard_bytes")));
    other.page_tokens = 0;
    let request = wire::RegisterNamespaceRequest { namespace: Some((&other).into()) };
    let error = agent.client.register_namespace(request).await.unwrap_err();
    assert_eq!(named(&error), (Code::InvalidArgument, Some("namespace.page_tokens")));

    let request = wire::GrantRequest { session: vec![9; 16].into(), sequence: 1, slot_bytes: 4096, slots: 1 };
    let error = agent.client.grant(request).await.unwrap_err();
    assert_eq!(named(&error), (Code::FailedPrecondition, Some("session")));
    let request = wire::GrantRequest { session: vec![9; 8].into(), sequence: 1, slot_bytes: 4096, slots: 1 };
    let error = agent.client.grant(request).await.unwrap_err();
    assert_eq!(named(&error), (Code::InvalidArgument, Some("session")));
    let request = wire::ReportHeatRequest { session: vec![9; 16].into(), ..Default::default() };
    let error = agent.client.report_heat(request).await.unwrap_err();
    assert_eq!(named(&error), (Code::FailedPrecondition, Some("session")));
    let session = agent.session.to_wire();
    let request = wire::GrantRequest { session: session.clone(), sequence: 0, slot_bytes: 4096, slots: 1 };
    let error = agent.client.grant(request).await.unwrap_err();
    assert_eq!(named(&error), (Code::InvalidArgument, Some("sequence")));
    let request = wire::GrantRequest { session, sequence: 1, slot_bytes: 5000, slots: 1 };
    let error = agent.client.grant(request).await.unwrap_err();
    assert_eq!(named(&error), (Code::InvalidArgument, Some("slot_bytes")));
    let mut torn = agent.publish_request(&[]);
    torn.pages = Bytes::from_static(&[1; 45]);
    let error = agent.client.publish(torn).await.unwrap_err();
    assert_eq!(named(&error), (Code::InvalidArgument, Some("pages")));
    agent.publish(0..3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_told_both_sides() {
    let cluster = Cluster::started(1).await;
    let mut client: MetaClient<_> = cluster.meta(1);
    let error = client
        .hello(wire::HelloRequest { wire_version: WIRE_VERSION + 1, cluster_id: Bytes::new(), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(named(&error), (Code::FailedPrecondition, Some("wire_version")));
    assert!(error.message().contains(&(WIRE_VERSION + 1).to_string()), "{error}");
    let error = client
        .hello(wire::HelloRequest { wire_version: WIRE_VERSION, cluster_id: vec![1; 16].into(), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(named(&error), (Code::FailedPrecondition, Some("cluster_id")));
    assert!(error.message().contains(&cluster.id.to_string()), "{error}");
    // A replica of another cluster, or no replica at all, gets nothing from the Raft service.
    let mut raft = foreword_proto::wire::raft::raft_client::RaftClient::new(cluster.channel(1));
    let error = raft.propose(foreword_proto::wire::raft::ProposeRequest { commands: vec![] }).await.unwrap_err();
    assert_eq!(named(&error), (Code::FailedPrecondition, Some("wire_version")));
    // A caller one version ahead that still speaks ours, too.
    for (wire_version, wire_version_min) in [(WIRE_VERSION, 0), (WIRE_VERSION + 1, WIRE_VERSION)] {
        let request = wire::HelloRequest { wire_version, wire_version_min, cluster_id: Bytes::new() };
        assert_eq!(client.hello(request).await.unwrap().into_inner().wire_version, WIRE_VERSION);
    }
}

/// A client that is told nothing opens as many streams as it likes on one connection, each of which costs memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_told_how_many_calls_it_may_have_under_way() {
    const SETTINGS: u8 = 4;
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let cluster = Cluster::started(1).await;
    let mut stream = TokioNet.connect(&cluster.sites[&1].endpoint).await.unwrap();
    // RFC 9113: the preface and an empty frame of settings; the server's first frame is its own settings, of 6 bytes
    // each.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(head[3], SETTINGS);
    let mut settings = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    timeout(PATIENCE, stream.read_exact(&mut settings)).await.unwrap().unwrap();
    let told = settings.chunks_exact(6).find_map(|setting| {
        let (id, value) = (u16::from_be_bytes([setting[0], setting[1]]), setting[2..].try_into().unwrap());
        (id == MAX_CONCURRENT_STREAMS).then_some(u32::from_be_bytes(value))
    });
    assert_eq!(told, Some(rpc::STREAMS_PER_CONNECTION_MAX));
}
