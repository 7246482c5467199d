//! Calls to a replica that are wrong, and strangers.

use std::time::Duration;

use bytes::Bytes;
use foreword_proto::Namespace;
use foreword_proto::bad_input::field_of;
use foreword_proto::limits::{KEYS_MAX, META_MESSAGE_BYTES_MAX, WIRE_VERSION};
use foreword_proto::wire::common;
use foreword_proto::wire::meta as m;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_proto::wire::meta::watch_request::Kind as Ask;
use foreword_proto::wire::meta::watch_response::Kind;
use foreword_proto::wire::raft as r;
use foreword_proto::wire::raft::raft_client::RaftClient;
use foreword_seams::rpc::held_open;
use foreword_seams::{TokioNet, rpc};
use std::sync::Arc;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::live::{Live, meta_lookup, spec};

const UNKNOWN: (Code, &str) = (Code::NotFound, "namespace_id");
const KEYS: (Code, &str) = (Code::InvalidArgument, "keys");

fn keys(count: usize) -> Bytes {
    vec![7; count * 32].into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_names_what_is_wrong() {
    let mut live = Live::start(spec(1, 1)).await;
    unknown_namespaces(&mut live).await;
    keys_and_records(&mut live).await;
    namespaces(&mut live).await;
    large_and_late(&mut live).await;
    strangers(&mut live).await;
    live.cluster.check().unwrap();
}

/// The id of no session.
fn id(byte: u8) -> Bytes {
    vec![byte; 16].into()
}

async fn unknown_namespaces(live: &mut Live) {
    let namespace_id = live.namespace_id + 1000;
    let meta = live.meta(1);
    live.refuses("lookup", UNKNOWN, meta.clone().lookup(meta_lookup(namespace_id, keys(1)))).await;
    let open = m::WatchOpen { namespace_id, ..m::WatchOpen::default() };
    let told =
        first_of_watch(meta.clone(), open).await.expect("the stream goes on for its other namespaces").into_inner();
    assert!(matches!(told.kind, Some(Kind::Dropped(_))), "{told:?}");
    let request = m::PublishRequest { session: id(1), sequence: 1, namespace_id, epoch: 0, pages: keys(1) };
    live.refuses("publish", UNKNOWN, meta.clone().publish(request)).await;
    let request = m::SuspectRequest { session: id(1), namespace_id, suspects: Bytes::new() };
    live.refuses("suspect", UNKNOWN, meta.clone().suspect(request)).await;
    live.refuses("clear", UNKNOWN, meta.clone().clear(m::ClearRequest { namespace_id })).await;
    let request = m::DeleteRequest { namespace_id, keys: keys(1) };
    live.refuses("delete", UNKNOWN, meta.clone().delete(request)).await;
}

async fn keys_and_records(live: &mut Live) {
    let (namespace_id, meta) = (live.namespace_id, live.meta(1));
    for (what, keys) in [("too many keys", keys(KEYS_MAX + 1)), ("ragged keys", Bytes::from(vec![7; 33]))] {
        let request = meta_lookup(namespace_id, keys.clone());
        live.refuses(&format!("lookup, {what}"), KEYS, meta.clone().lookup(request)).await;
        let request = m::DeleteRequest { namespace_id, keys };
        live.refuses(&format!("delete, {what}"), KEYS, meta.clone().delete(request)).await;
    }
    let mut both = meta_lookup(namespace_id, keys(1));
    both.tokens = Some(common::Tokens::default());
    live.refuses("keys and tokens", (Code::InvalidArgument, "tokens"), meta.clone().lookup(both)).await;
    let torn = m::PublishRequest { session: id(1), sequence: 1, namespace_id, epoch: 0, pages: vec![1; 45].into() };
    live.refuses("torn records", (Code::InvalidArgument, "pages"), meta.clone().publish(torn)).await;
    let agent_id = vec![7; 16].into();
    let session = m::OpenSessionRequest { node: "stranger".into(), incarnation: 1, endpoint: String::new(), agent_id };
    let session = meta.clone().open_session(session).await.unwrap().into_inner().session;
    let grant = |session: &Bytes, sequence, slot_bytes, slots| {
        let (mut meta, session) = (meta.clone(), session.clone());
        async move { meta.grant(m::GrantRequest { session, sequence, slot_bytes, slots }).await }
    };
    let bad = Code::InvalidArgument;
    live.refuses("grant of nothing", (bad, "slots"), grant(&session, 1, 4096, 0)).await;
    live.refuses("grant of another chunk", (bad, "slot_bytes"), grant(&session, 1, 5000, 1)).await;
    live.refuses("grant without a sequence", (bad, "sequence"), grant(&session, 0, 4096, 1)).await;
    let ended = (Code::FailedPrecondition, "session");
    live.refuses("grant to no session", ended, grant(&id(1), 1, 4096, 1)).await;
    live.refuses("grant to half an id", (bad, "session"), grant(&session.slice(..8), 1, 4096, 1)).await;
    let request = m::OpenSessionRequest::default();
    live.refuses("a session of nobody", (bad, "node"), meta.clone().open_session(request)).await;
    // The first sequence has its outcome: a retry would get the same refusal.
    grant(&session, 2, 3 * 4096, 1).await.unwrap();
}

async fn namespaces(live: &mut Live) {
    let meta = live.meta(1);
    let register = |namespace: &Namespace| {
        let (mut meta, request) = (meta.clone(), m::RegisterNamespaceRequest { namespace: Some(namespace.into()) });
        async move { meta.register_namespace(request).await }
    };
    let other = Namespace { shard_bytes: vec![8192], ..live.namespace.clone() };
    let geometry = (Code::FailedPrecondition, "namespace.shard_bytes");
    live.refuses("another geometry", geometry, register(&other)).await;
    let other = Namespace { page_tokens: 0, ..live.namespace.clone() };
    live.refuses("no tokens", (Code::InvalidArgument, "namespace.page_tokens"), register(&other)).await;
    let other = Namespace { dtype: String::new(), ..live.namespace.clone() };
    live.refuses("no dtype", (Code::InvalidArgument, "namespace.dtype"), register(&other)).await;
    let registered = register(&live.namespace).await.unwrap().into_inner();
    assert_eq!(registered.namespace_id, live.namespace_id);
}

async fn large_and_late(live: &mut Live) {
    let (namespace_id, meta) = (live.namespace_id, live.meta(1));
    let too_large = meta_lookup(namespace_id, keys(META_MESSAGE_BYTES_MAX / 32 + 1));
    live.refuses("too large a lookup", (Code::OutOfRange, "message"), meta.clone().lookup(too_large)).await;
    let mut late = Request::new(m::LookupRequest {
        freshness: Some(common::Freshness { min_revision: 1 << 40, linearizable: false }),
        ..meta_lookup(namespace_id, keys(1))
    });
    late.set_timeout(Duration::from_millis(100));
    let error = meta.clone().lookup(late).await.unwrap_err();
    // Told in time what is missing; a slow machine lets the deadline pass first.
    let told = matches!(error.code(), Code::FailedPrecondition | Code::DeadlineExceeded | Code::Cancelled);
    assert!(told, "{error:?}");
    live.works("a passed deadline").await;
    let open = m::WatchOpen { namespace_id, from_revision: 1 << 40, ..m::WatchOpen::default() };
    let first = first_of_watch(meta.clone(), open.clone());
    live.refuses("a watch from the future", (Code::FailedPrecondition, "behind"), first).await;
    let bits = m::WatchOpen { bucket_bits: 13, ..open.clone() };
    live.refuses("too many buckets", (Code::InvalidArgument, "bucket_bits"), first_of_watch(meta.clone(), bits)).await;
    let digests = m::WatchOpen { bucket_bits: 1, digests: keys(1), ..open };
    live.refuses("half a digest", (Code::InvalidArgument, "digests"), first_of_watch(meta.clone(), digests)).await;
}

/// The first message of a watch stream on which one namespace is opened.
async fn first_of_watch(
    mut meta: MetaClient<Channel>,
    open: m::WatchOpen,
) -> Result<Response<m::WatchResponse>, Status> {
    let request = m::WatchRequest { kind: Some(Ask::Open(open)), node: String::new(), ..Default::default() };
    let mut stream = meta.watch(held_open(vec![request], m::WatchRequest::default())).await?.into_inner();
    loop {
        let message = stream.message().await?.expect("a message");
        if !matches!(message.kind, Some(Kind::Progress(_))) {
            return Ok(Response::new(message));
        }
    }
}

async fn strangers(live: &mut Live) {
    let meta = live.meta(1);
    let other = [9; 16];
    let hello = |wire_version, cluster_id: &[u8]| {
        let (mut meta, cluster_id) = (meta.clone(), Bytes::copy_from_slice(cluster_id));
        async move { meta.hello(m::HelloRequest { wire_version, cluster_id, ..Default::default() }).await }
    };
    let another = |field| (Code::FailedPrecondition, field);
    let error = live.refuses("another wire version", another("wire_version"), hello(WIRE_VERSION + 1, &[])).await;
    assert!(error.message().contains(&format!("expected {WIRE_VERSION}, the caller speaks {}", WIRE_VERSION + 1)));
    let ours = live.stats().await.cluster_id;
    let error = live.refuses("another cluster", another("cluster_id"), hello(WIRE_VERSION, &other)).await;
    assert!(error.message().contains(&ours.to_string()) && error.message().contains(&hex::encode(other)), "{error}");
    live.refuses("a short cluster id", (Code::InvalidArgument, "cluster_id"), hello(WIRE_VERSION, &[1; 15])).await;

    // What a peer says of itself travels as metadata of each call between replicas.
    let channel = rpc::channel(Arc::new(TokioNet), &live.meta_endpoint(1));
    let vote = |cluster: Option<String>, version: u32, to: &'static str| {
        let mut raft = RaftClient::new(channel.clone());
        let mut request = Request::new(r::VoteRequest { body: Bytes::from_static(b"{}") });
        if let Some(cluster) = cluster {
            request.metadata_mut().insert("foreword-cluster", cluster.parse().unwrap());
            request.metadata_mut().insert("foreword-wire-versions", version.into());
            request.metadata_mut().insert("foreword-from", "2".parse().unwrap());
            request.metadata_mut().insert("foreword-to", to.parse().unwrap());
        }
        async move { raft.vote(request).await }
    };
    live.refuses("a peer that says nothing", another("wire_version"), vote(None, 0, "1")).await;
    let newer = vote(Some(ours.to_string()), WIRE_VERSION + 1, "1");
    live.refuses("a peer of another version", another("wire_version"), newer).await;
    let error = live
        .refuses("a peer of another cluster", another("cluster_id"), vote(Some(hex::encode(other)), WIRE_VERSION, "1"))
        .await;
    assert!(error.message().contains(&ours.to_string()) && error.message().contains(&hex::encode(other)), "{error}");
    let error = live
        .refuses("a call for another replica", another("replica_id"), vote(Some(ours.to_string()), WIRE_VERSION, "4"))
        .await;
    assert!(error.message().contains("replica 1,") && error.message().contains("replica 4"), "{error}");
    let broken = vote(Some(ours.to_string()), WIRE_VERSION, "1");
    live.refuses("a peer's broken message", (Code::InvalidArgument, "body"), broken).await;
    let answer = hello(WIRE_VERSION, &ours.0).await.unwrap().into_inner();
    assert_eq!((answer.replica_id, field_of(&error)), (1, Some("replica_id")));
}
