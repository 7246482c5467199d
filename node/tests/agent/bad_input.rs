//! What callers can get wrong: each is refused with its field, and the next right call is served.

use foreword_node::api::EngineApi;
use foreword_proto::Namespace;
use foreword_proto::bad_input::field_of;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::limits::{KEYS_MAX, NODE_MESSAGE_BYTES_MAX};
use foreword_proto::wire::common;
use foreword_proto::wire::node as wire;
use tonic::{Code, Request, Status};

use crate::harness::{Cluster, TestAgent, eventually, key, keys, pieces_of};

const BYTES: usize = 1000;

async fn agent() -> (Cluster, TestAgent, u32) {
    let cluster = Cluster::start().await;
    let agent = cluster.agent("a").await;
    let ns = agent.open(&Namespace::simple("m", 64, vec![BYTES as u64, BYTES as u64])).await;
    (cluster, agent, ns)
}

fn assert_refused(status: &Status, code: Code, field: &str) {
    assert_eq!((status.code(), field_of(status)), (code, Some(field)), "{status}");
}

async fn assert_still_serves(agent: &TestAgent, ns: u32) {
    let put = agent.put(ns, &keys(1000..1003), 2, BYTES).await;
    assert!(put.iter().all(|page| page.outcome() != wire::PutOutcome::Refused), "{put:?}");
    assert_eq!(agent.lookup(ns, &keys(1000..1003), 0).await.pages, 3);
}

async fn put_messages(agent: &TestAgent, messages: Vec<wire::PutRequest>) -> Result<wire::PutResponse, Status> {
    Ok(agent.client.clone().put(tokio_stream::iter(messages)).await?.into_inner())
}

fn header(ns: u32, shard: u32, count: u64) -> wire::PutRequest {
    let header = wire::PutHeader {
        namespace_id: ns,
        shard,
        keys: page_keys_to_wire(&keys(0..count)),
        parent: Default::default(),
        wait_published: true,
    };
    wire::PutRequest { kind: Some(wire::put_request::Kind::Header(header)) }
}

fn piece(index: u32, offset: u64, bytes: usize) -> wire::PutRequest {
    let piece = wire::Piece { index, shard: 0, offset, data: vec![1; bytes].into() };
    wire::PutRequest { kind: Some(wire::put_request::Kind::Pieces(wire::Pieces { pieces: vec![piece] })) }
}

#[tokio::test]
async fn an_unknown_namespace_is_named() {
    let (_cluster, agent, ns) = agent().await;
    let mut client = agent.client.clone();
    let keys = page_keys_to_wire(&keys(0..1));
    let lookup = wire::LookupRequest { namespace_id: 999, keys: keys.clone(), ..Default::default() };
    assert_refused(&client.lookup(lookup).await.unwrap_err(), Code::NotFound, "namespace_id");
    let get = wire::GetRequest { namespace_id: 999, keys: keys.clone(), ..Default::default() };
    assert_refused(&client.get(get).await.unwrap_err(), Code::NotFound, "namespace_id");
    let put = put_messages(&agent, vec![header(999, 0, 1)]).await;
    assert_refused(&put.unwrap_err(), Code::NotFound, "namespace_id");
    let prefetch = wire::PrefetchRequest { namespace_id: 999, keys };
    assert_refused(&client.prefetch(prefetch).await.unwrap_err(), Code::NotFound, "namespace_id");
    assert_still_serves(&agent, ns).await;
}

#[tokio::test]
async fn malformed_and_too_many_keys_are_named() {
    let (_cluster, agent, ns) = agent().await;
    let mut client = agent.client.clone();
    for keys in [vec![0; 33], vec![0; (KEYS_MAX + 1) * 32]] {
        let keys: bytes::Bytes = keys.into();
        let lookup = wire::LookupRequest { namespace_id: ns, keys: keys.clone(), ..Default::default() };
        assert_refused(&client.lookup(lookup).await.unwrap_err(), Code::InvalidArgument, "keys");
        let get = wire::GetRequest { namespace_id: ns, keys: keys.clone(), ..Default::default() };
        assert_refused(&client.get(get).await.unwrap_err(), Code::InvalidArgument, "keys");
        let locate = wire::LocateRequest { namespace_id: ns, keys, tokens: None, freshness: None };
        assert_refused(&client.locate(locate).await.unwrap_err(), Code::InvalidArgument, "keys");
    }
    assert_still_serves(&agent, ns).await;
}

#[tokio::test]
async fn bytes_that_are_no_page_are_named_and_nothing_of_them_stays() {
    let (_cluster, agent, ns) = agent().await;
    let cases = [
        ("too many bytes", vec![header(ns, 0, 1), piece(0, 0, BYTES + 1)]),
        ("too few bytes", vec![header(ns, 0, 1), piece(0, 0, BYTES - 1)]),
        ("a gap", vec![header(ns, 0, 1), piece(0, 0, 10), piece(0, 20, 10)]),
        ("a piece twice", vec![header(ns, 0, 1), piece(0, 0, 10), piece(0, 0, 10)]),
        ("no such page", vec![header(ns, 0, 1), piece(1, 0, BYTES)]),
        ("an offset out of reach", vec![header(ns, 0, 1), piece(0, u64::MAX, 10)]),
    ];
    for (what, messages) in cases {
        let status = put_messages(&agent, messages).await.expect_err(what);
        assert_refused(&status, Code::InvalidArgument, "pieces");
    }
    let other_shard = wire::Piece { index: 0, shard: 1, offset: 0, data: vec![1; BYTES].into() };
    let other_shard = wire::put_request::Kind::Pieces(wire::Pieces { pieces: vec![other_shard] });
    let status = put_messages(&agent, vec![header(ns, 0, 1), wire::PutRequest { kind: Some(other_shard) }]).await;
    assert_refused(&status.unwrap_err(), Code::InvalidArgument, "pieces");
    assert_refused(&put_messages(&agent, vec![header(ns, 2, 1)]).await.unwrap_err(), Code::InvalidArgument, "shard");
    assert_refused(&put_messages(&agent, vec![piece(0, 0, 1)]).await.unwrap_err(), Code::InvalidArgument, "header");
    assert_refused(&put_messages(&agent, vec![]).await.unwrap_err(), Code::InvalidArgument, "header");
    assert_eq!(agent.handle.api().stats().arena.frame_bytes_used, 0, "nothing stays of a put that was refused");
    assert_still_serves(&agent, ns).await;
}

#[tokio::test]
async fn a_page_without_any_bytes_is_incomplete_and_one_that_exists_needs_none() {
    let (_cluster, agent, ns) = agent().await;
    agent.put(ns, &keys(0..1), 2, BYTES).await;
    let put = put_messages(&agent, vec![header(ns, 0, 2)]).await.unwrap();
    assert_eq!(put.pages[0].outcome(), wire::PutOutcome::Exists);
    assert_eq!((put.pages[1].outcome(), put.pages[1].reason.as_str()), (wire::PutOutcome::Refused, "incomplete"));
}

#[tokio::test]
async fn a_client_that_vanishes_in_mid_put_leaves_nothing() {
    let (_cluster, agent, ns) = agent().await;
    let (sender, messages) = tokio::sync::mpsc::channel(8);
    let mut client = agent.client.clone();
    let putting = tokio::spawn(async move { client.put(tokio_stream::wrappers::ReceiverStream::new(messages)).await });
    sender.send(header(ns, 0, 1)).await.unwrap();
    sender.send(piece(0, 0, BYTES / 2)).await.unwrap();
    let used = || agent.handle.api().stats().arena.frame_bytes_used;
    eventually("the first bytes are taken", || used() > 0).await;
    putting.abort();
    drop(sender);
    eventually("the frame is free", || used() == 0).await;
    assert_still_serves(&agent, ns).await;
    let put = agent.put(ns, &keys(0..1), 2, BYTES).await;
    assert_eq!(put[0].outcome(), wire::PutOutcome::Published);
}

#[tokio::test]
async fn one_of_two_clients_vanishes_and_the_next_takes_its_shard() {
    let (_cluster, agent, ns) = agent().await;
    let whole = vec![vec![7; BYTES]];
    let asked = keys(0..1);
    let other = agent.put_shard(ns, 1, &asked, &whole, true);
    tokio::pin!(other);
    assert!(futures::poll!(&mut other).is_pending());
    let half = vec![header(ns, 0, 1), piece(0, 0, BYTES / 2)];
    assert_refused(&put_messages(&agent, half).await.unwrap_err(), Code::InvalidArgument, "pieces");
    let mut again = vec![header(ns, 0, 1)];
    again.extend(pieces_of(0, 0, &[9; BYTES]));
    let (other, again) = tokio::join!(other, put_messages(&agent, again));
    assert_eq!(other.unwrap()[0].outcome(), wire::PutOutcome::Published);
    assert_eq!(again.unwrap().pages[0].outcome(), wire::PutOutcome::Published);
    let got = agent.get(ns, &[key(0)], |_| {}).await;
    assert_eq!(got[0].bytes, [vec![9; BYTES], vec![7; BYTES]]);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let (_cluster, agent, ns) = agent().await;
    let messages = vec![header(ns, 0, 1), piece(0, 0, NODE_MESSAGE_BYTES_MAX + 1)];
    let status = put_messages(&agent, messages).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
    assert_still_serves(&agent, ns).await;
}

#[tokio::test]
async fn a_deadline_is_kept() {
    let (_cluster, agent, ns) = agent().await;
    let freshness = Some(common::Freshness { min_revision: u64::MAX, linearizable: false });
    let lookup = wire::LookupRequest { namespace_id: ns, freshness, ..Default::default() };
    let mut request = Request::new(lookup);
    request.set_timeout(std::time::Duration::from_millis(500));
    // An older answer than was demanded would be none: it says so, just before the caller's time is over.
    let status = agent.client.clone().lookup(request).await.unwrap_err();
    let told = matches!(status.code(), Code::FailedPrecondition | Code::DeadlineExceeded | Code::Cancelled);
    assert!(told, "{status}");
    // A page that stays incomplete longer than its caller waits.
    let mut request = Request::new(tokio_stream::iter(vec![header(ns, 0, 1), piece(0, 0, BYTES)]));
    request.set_timeout(std::time::Duration::from_millis(200));
    let status = agent.client.clone().put(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    assert_still_serves(&agent, ns).await;
}

#[tokio::test]
async fn a_bad_namespace_is_named() {
    let (_cluster, agent, ns) = agent().await;
    let mut client = agent.client.clone();
    let open = |namespace: Option<Namespace>| {
        let namespace = namespace.map(|namespace| common::Namespace::from(&namespace));
        let mut client = client.clone();
        async move { client.open_namespace(wire::OpenNamespaceRequest { namespace }).await.unwrap_err() }
    };
    assert_refused(&open(None).await, Code::InvalidArgument, "namespace");
    let none = Namespace::simple("m", 0, vec![1]);
    assert_refused(&open(Some(none)).await, Code::InvalidArgument, "namespace.page_tokens");
    let large = Namespace::simple("m", 1, vec![64 << 20]);
    assert_refused(&open(Some(large)).await, Code::InvalidArgument, "namespace.shard_bytes");
    let watching = client.watch_local(wire::WatchLocalRequest { namespace_id: ns }).await.unwrap_err();
    assert_eq!(watching.code(), Code::Unimplemented);
    assert_still_serves(&agent, ns).await;
}
