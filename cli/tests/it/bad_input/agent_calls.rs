//! Calls to an agent that are wrong, over its unix socket.

use std::time::Duration;

use bytes::Bytes;
use foreword_cli::clients;
use foreword_proto::Namespace;
use foreword_proto::bad_input::field_of;
use foreword_proto::limits::{KEYS_MAX, NODE_MESSAGE_BYTES_MAX, SHARDS_MAX};
use foreword_proto::wire::common;
use foreword_proto::wire::node as n;
use rustix::process::{Pid, Signal, kill_process};
use tonic::{Code, Request};

use super::live::{Live, header, open, open_message, piece, shard_bytes, spec};

const UNKNOWN: (Code, &str) = (Code::NotFound, "namespace_id");
const KEYS: (Code, &str) = (Code::InvalidArgument, "keys");
const PIECES: (Code, &str) = (Code::InvalidArgument, "pieces");

fn keys(count: usize) -> Bytes {
    vec![7; count * 32].into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_names_what_is_wrong() {
    let mut live = Live::start(spec(1, 1)).await;
    unknown_namespaces(&mut live).await;
    keys_and_tokens(&mut live).await;
    page_sizes(&mut live).await;
    namespaces(&mut live).await;
    large_and_late(&mut live).await;
    live.cluster.check().unwrap();
}

async fn unknown_namespaces(live: &mut Live) {
    let namespace_id = live.namespace_id + 1000;
    let (agent, keys) = (live.agent.clone(), keys(1));
    let request = n::LookupRequest { namespace_id, keys: keys.clone(), ..Default::default() };
    live.refuses("lookup in no namespace", UNKNOWN, agent.clone().lookup(request)).await;
    let request = n::GetRequest { namespace_id, keys: keys.clone(), ..Default::default() };
    live.refuses("get in no namespace", UNKNOWN, agent.clone().get(request)).await;
    let request = n::PrefetchRequest { namespace_id, keys: keys.clone() };
    live.refuses("prefetch in no namespace", UNKNOWN, agent.clone().prefetch(request)).await;
    let request = n::LocateRequest { namespace_id, keys: keys.clone(), tokens: None, freshness: None };
    live.refuses("locate in no namespace", UNKNOWN, agent.clone().locate(request)).await;
    let request = n::ReleaseRequest { namespace_id, keys };
    live.refuses("release in no namespace", UNKNOWN, agent.clone().release(request)).await;
    let key = live.fresh_key();
    let messages = vec![header(namespace_id, 0, key), piece(0, 0, 0, shard_bytes(&key, 0))];
    live.refuses("put in no namespace", UNKNOWN, put_messages(&agent, messages)).await;
}

/// A put of these messages.
fn put_messages(
    agent: &foreword_cli::clients::Agent,
    messages: Vec<n::PutRequest>,
) -> impl Future<Output = Result<tonic::Response<n::PutResponse>, tonic::Status>> + use<> {
    let mut agent = agent.clone();
    async move { agent.put(tokio_stream::iter(messages)).await }
}

async fn keys_and_tokens(live: &mut Live) {
    let (namespace_id, agent) = (live.namespace_id, live.agent.clone());
    for (what, keys) in [("too many keys", keys(KEYS_MAX + 1)), ("ragged keys", Bytes::from(vec![7; 33]))] {
        let request = n::LookupRequest { namespace_id, keys: keys.clone(), ..Default::default() };
        live.refuses(&format!("lookup, {what}"), KEYS, agent.clone().lookup(request)).await;
        let request = n::GetRequest { namespace_id, keys: keys.clone(), ..Default::default() };
        live.refuses(&format!("get, {what}"), KEYS, agent.clone().get(request)).await;
        let request = n::PrefetchRequest { namespace_id, keys: keys.clone() };
        live.refuses(&format!("prefetch, {what}"), KEYS, agent.clone().prefetch(request)).await;
        let request = n::LocateRequest { namespace_id, keys: keys.clone(), tokens: None, freshness: None };
        live.refuses(&format!("locate, {what}"), KEYS, agent.clone().locate(request)).await;
        let put_header = n::PutHeader { namespace_id, keys, ..Default::default() };
        let message = n::PutRequest { kind: Some(n::put_request::Kind::Header(put_header)) };
        live.refuses(&format!("put, {what}"), KEYS, put_messages(&agent, vec![message])).await;
    }
    let tokens = common::Tokens {
        algorithm: common::ChainAlgorithm::Sha256.into(),
        unit: common::ChainUnit::Token.into(),
        token_ids: vec![0; 64].into(),
        ..Default::default()
    };
    let both = n::LookupRequest { namespace_id, keys: keys(1), tokens: Some(tokens.clone()), freshness: None };
    live.refuses("keys and tokens", (Code::InvalidArgument, "tokens"), agent.clone().lookup(both)).await;
    type Spoil = fn(&mut common::Tokens);
    let cases: [(&str, Spoil); 4] = [
        ("tokens.algorithm", |tokens| tokens.algorithm = 99),
        ("tokens.unit", |tokens| tokens.unit = 0),
        ("tokens.seed", |tokens| tokens.seed = vec![1; 31].into()),
        ("tokens.token_ids", |tokens| tokens.token_ids = vec![0; 63].into()),
    ];
    for (field, spoil) in cases {
        let mut tokens = tokens.clone();
        spoil(&mut tokens);
        let request = n::LookupRequest { namespace_id, tokens: Some(tokens), ..Default::default() };
        live.refuses(field, (Code::InvalidArgument, field), agent.clone().lookup(request)).await;
    }
    let request = n::GetRequest { namespace_id, keys: keys(1), shards: vec![2], ..Default::default() };
    live.refuses("get of a shard out of range", (Code::InvalidArgument, "shards"), agent.clone().get(request)).await;
    let request = n::GetRequest { namespace_id, keys: keys(1), shards: vec![0; SHARDS_MAX + 1], ..Default::default() };
    live.refuses("get of too many shards", (Code::InvalidArgument, "shards"), agent.clone().get(request)).await;
    let request = n::WatchLocalRequest { namespace_id };
    live.refuses("watch local", (Code::Unimplemented, "watch_local"), agent.clone().watch_local(request)).await;
}

async fn page_sizes(live: &mut Live) {
    let (id, agent) = (live.namespace_id, live.agent.clone());
    let key = live.fresh_key();
    let bytes = shard_bytes(&key, 0);
    let short = bytes.slice(..bytes.len() - 1);
    let long = Bytes::from(vec![1; bytes.len() + 1]);
    let cases: [(&str, (Code, &str), Vec<n::PutRequest>); 9] = [
        ("too few bytes", PIECES, vec![header(id, 0, key), piece(0, 0, 0, short)]),
        ("too many bytes", PIECES, vec![header(id, 0, key), piece(0, 0, 0, long)]),
        ("a gap", PIECES, vec![header(id, 0, key), piece(0, 0, 8, bytes.slice(8..))]),
        ("an offset beyond the shard", PIECES, vec![header(id, 0, key), piece(0, 0, u64::MAX, bytes.slice(..1))]),
        ("an index beyond the keys", PIECES, vec![header(id, 0, key), piece(1, 0, 0, bytes.clone())]),
        ("a piece of another shard", PIECES, vec![header(id, 0, key), piece(0, 1, 0, bytes.clone())]),
        ("no header", (Code::InvalidArgument, "header"), vec![piece(0, 0, 0, bytes.clone())]),
        ("two headers", (Code::InvalidArgument, "header"), vec![header(id, 0, key), header(id, 0, key)]),
        ("a shard out of range", (Code::InvalidArgument, "shard"), vec![header(id, 2, key), piece(0, 2, 0, bytes)]),
    ];
    for (what, named, messages) in cases {
        live.refuses(what, named, put_messages(&agent, messages)).await;
    }
    let parent = n::PutHeader { namespace_id: id, parent: vec![1; 31].into(), ..Default::default() };
    let message = n::PutRequest { kind: Some(n::put_request::Kind::Header(parent)) };
    live.refuses("a short parent", (Code::InvalidArgument, "parent"), put_messages(&agent, vec![message])).await;
    // Nothing of all that is in the way of the page itself.
    live.publish(&key).await.unwrap();
    live.readable(&key, true).await;
}

async fn namespaces(live: &mut Live) {
    let agent = live.agent.clone();
    for (field, other) in [
        ("namespace.shard_bytes", Namespace { shard_bytes: vec![3000, 5001], ..live.namespace.clone() }),
        ("namespace.shard_bytes", Namespace { shard_bytes: vec![8000], ..live.namespace.clone() }),
        ("namespace.page_tokens", Namespace { page_tokens: 32, ..live.namespace.clone() }),
    ] {
        let mut agent = agent.clone();
        let opening = async move { open(&mut agent, &other).await.map(tonic::Response::new) };
        live.refuses("another geometry", (Code::FailedPrecondition, field), opening).await;
    }
    type Spoil = fn(&mut common::Namespace);
    let cases: [(&str, Spoil); 10] = [
        ("tenant", |namespace| namespace.tenant.clear()),
        ("model", |namespace| namespace.model = "m".repeat(257)),
        ("revision", |namespace| namespace.revision.clear()),
        ("page_tokens", |namespace| namespace.page_tokens = 0),
        ("shard_bytes", |namespace| namespace.shard_bytes.clear()),
        ("shard_bytes", |namespace| namespace.shard_bytes = vec![u64::MAX, 2]),
        ("shard_bytes", |namespace| namespace.shard_bytes = vec![4 << 20]),
        ("cp_rank", |namespace| namespace.cp_rank = 1),
        ("tp_count", |namespace| (namespace.tp_first, namespace.tp_count) = (u32::MAX, u32::MAX)),
        ("salt", |namespace| namespace.salt = vec![0; 257].into()),
    ];
    for (field, spoil) in cases {
        let mut message = common::Namespace::from(&live.namespace);
        spoil(&mut message);
        let mut agent = agent.clone();
        let opening = async move { open_message(&mut agent, message).await.map(tonic::Response::new) };
        live.refuses(field, (Code::InvalidArgument, &format!("namespace.{field}")), opening).await;
    }
    let none = n::OpenNamespaceRequest { namespace: None };
    live.refuses("no namespace", (Code::InvalidArgument, "namespace"), agent.clone().open_namespace(none)).await;
    assert_eq!(open(&mut agent.clone(), &live.namespace).await.unwrap(), live.namespace_id);
}

async fn large_and_late(live: &mut Live) {
    let namespace_id = live.namespace_id;
    // A client that does not itself refuse to send it.
    let unlimited = clients::agent(&live.cluster.agent_endpoints()[0]).max_encoding_message_size(usize::MAX);
    let too_large = (Code::OutOfRange, "message");
    let request = n::LookupRequest { namespace_id, keys: keys(NODE_MESSAGE_BYTES_MAX / 32 + 1), ..Default::default() };
    live.refuses("too large a lookup", too_large, unlimited.clone().lookup(request)).await;
    let key = live.fresh_key();
    let messages = vec![header(namespace_id, 0, key), piece(0, 0, 0, Bytes::from(vec![0; NODE_MESSAGE_BYTES_MAX + 1]))];
    live.refuses("too large a piece", too_large, put_messages(&unlimited, messages)).await;

    // The group neither answers nor refuses: what needs it takes longer than its caller has.
    let replica = Pid::from_raw(live.cluster.replica_announced(1).unwrap().pid as i32).unwrap();
    kill_process(replica, Signal::STOP).unwrap();
    let mut late =
        Request::new(tokio_stream::iter(vec![header(namespace_id, 0, key), piece(0, 0, 0, shard_bytes(&key, 0))]));
    late.set_timeout(Duration::from_millis(100));
    let error = live.agent.put(late).await.unwrap_err();
    assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled), "{error:?}");
    // An agent answers before the time is over: this time is long enough for its word to arrive.
    let freshness = Some(common::Freshness { min_revision: 0, linearizable: true });
    let mut late = Request::new(n::LookupRequest { namespace_id, keys: keys(1), freshness, ..Default::default() });
    late.set_timeout(Duration::from_secs(2));
    let error = live.agent.lookup(late).await.unwrap_err();
    assert_eq!((error.code(), field_of(&error)), (Code::DeadlineExceeded, Some("deadline")), "{error:?}");
    kill_process(replica, Signal::CONT).unwrap();
    live.works("passed deadlines").await;
}
