//! Clients that vanish in the middle of a put or a get: what they held is free again.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use foreword_cli::clients;
use foreword_cli::cluster::Spec;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::node as n;
use foreword_proto::workload::page;
use foreword_proto::{Namespace, PageKey};
use foreword_seams::{Endpoint, Net, TokioNet};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::live::{Live, header, open, piece, put, shard_bytes, spec};
use super::run::eventually;

const PAGE_BYTES: usize = 256 << 10;
/// The arena's room for puts is half of it, for gets a quarter: fewer pages than clients vanish here.
const ARENA_BYTES: u64 = 8 << 20;
const CLIENTS: usize = 40;
/// Together more than HTTP/2 windows and socket buffers hold: the agent is in the middle of the answer.
const KEYS_OF_A_GET: usize = 80;

/// A connection to an agent that can be cut like a cable.
struct Cable {
    address: SocketAddr,
    carrying: Arc<Mutex<JoinSet<()>>>,
}

impl Cable {
    async fn to(agent: &Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let carrying = Arc::new(Mutex::new(JoinSet::new()));
        let (agent, carried) = (agent.clone(), carrying.clone());
        let accepting = async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TokioNet.connect(&agent).await.unwrap();
                carried.lock().spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        };
        carrying.lock().spawn(accepting);
        Self { address, carrying }
    }

    fn client(&self) -> clients::Agent {
        clients::agent(&Endpoint::Tcp(self.address.to_string()))
    }

    /// Both ends see the connection break, and no new one is made.
    fn cut(self) {
        self.carrying.lock().abort_all();
    }
}

fn page_of(key: &PageKey) -> Bytes {
    let mut bytes = vec![0; PAGE_BYTES];
    page::fill(&mut bytes, key, 0, 1);
    bytes.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_held_that_vanishes_is_free_again() {
    // Only the broken connection gives a page up here, not the deadline for its other shards.
    let config = "[node]\ngather_deadline_ms = \"10m\"\n".to_owned();
    let mut live = Live::start(Spec { arena_bytes: ARENA_BYTES, config, ..spec(1, 1) }).await;
    let id = open(&mut live.agent, &Namespace::simple("vanishing", 16, vec![PAGE_BYTES as u64])).await.unwrap();
    half_a_put(&mut live, id).await;
    half_a_get(&mut live, id).await;
    live.cluster.check().unwrap();
}

async fn half_a_put(live: &mut Live, id: u32) {
    let endpoint = live.cluster.agent_endpoints()[0].clone();
    let before = live.stats().await;
    let keys: Vec<PageKey> =
        (0..CLIENTS as u32).map(|at| PageKey::opaque(&[&b"half"[..], &at.to_le_bytes()].concat())).collect();
    for (at, key) in keys.iter().enumerate() {
        let cable = Cable::to(&endpoint).await;
        let (messages, stream) = mpsc::channel(4);
        let mut client = cable.client();
        let putting = tokio::spawn(async move { client.put(ReceiverStream::new(stream)).await });
        messages.send(header(id, 0, *key)).await.unwrap();
        messages.send(piece(0, 0, 0, page_of(key).slice(..PAGE_BYTES / 2))).await.unwrap();
        let taken = before.counters.put_bytes + ((at + 1) * PAGE_BYTES / 2) as u64;
        eventually("half of the page is in the arena", async || live.stats().await.counters.put_bytes == taken).await;
        cable.cut();
        assert!(putting.await.unwrap().is_err(), "the client of a cut connection");
        drop(messages);
    }
    eventually("each page is given up and its frame free", async || {
        let now = live.stats().await;
        now.counters.puts_aborted == before.counters.puts_aborted + CLIENTS as u64
            && now.arena.frame_bytes_used == before.arena.frame_bytes_used
    })
    .await;
    assert_eq!(live.stats().await.arena.pinned_pages, 0);
    // The same page, whole.
    let put = put(live.agent.clone(), id, 0, keys[0], page_of(&keys[0])).await.unwrap();
    assert_eq!(put.outcome(), n::PutOutcome::Published);
}

/// A get of one page many times over.
fn long_get(id: u32, key: &PageKey) -> n::GetRequest {
    n::GetRequest { namespace_id: id, keys: page_keys_to_wire(&[*key; KEYS_OF_A_GET]), ..Default::default() }
}

async fn half_a_get(live: &mut Live, id: u32) {
    let endpoint = live.cluster.agent_endpoints()[0].clone();
    let key = PageKey::opaque(b"read by many");
    put(live.agent.clone(), id, 0, key, page_of(&key)).await.unwrap();
    for _ in 0..CLIENTS {
        let cable = Cable::to(&endpoint).await;
        let mut messages = cable.client().get(long_get(id, &key)).await.unwrap().into_inner();
        assert!(!messages.message().await.unwrap().unwrap().pieces.is_empty());
        cable.cut();
        while let Ok(message) = messages.message().await {
            assert!(message.is_some(), "the answer of a cut connection ended in good order");
        }
    }
    let mut hits = 0;
    let mut messages = live.agent.get(long_get(id, &key)).await.unwrap().into_inner();
    while let Some(message) = messages.message().await.unwrap() {
        hits += message.ends.iter().filter(|end| end.hit).count();
    }
    assert_eq!(hits, KEYS_OF_A_GET);
    // All that is used is what L1 holds: pages of this size only.
    eventually("no reader holds a frame", async || {
        let arena = live.stats().await.arena;
        arena.frame_bytes_used == arena.pages * PAGE_BYTES as u64 && arena.pinned_pages == 0
    })
    .await;
    live.works("readers that vanished").await;
}

/// One shard whole, the other cut: the deadline for all shards gives the page up, and a later put of both succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_other_shard_never_comes_is_given_up() {
    let config = "[node]\ngather_deadline_ms = \"2s\"\n".to_owned();
    let mut live = Live::start(Spec { config, ..spec(1, 1) }).await;
    let endpoint = live.cluster.agent_endpoints()[0].clone();
    let before = live.stats().await.counters;
    let key = live.fresh_key();
    let id = live.namespace_id;
    let whole = tokio::spawn(put(live.agent.clone(), id, 0, key, shard_bytes(&key, 0)));
    let cable = Cable::to(&endpoint).await;
    let (messages, stream) = mpsc::channel(4);
    let mut client = cable.client();
    let putting = tokio::spawn(async move { client.put(ReceiverStream::new(stream)).await });
    messages.send(header(id, 1, key)).await.unwrap();
    let half = shard_bytes(&key, 1).slice(..2000);
    messages.send(piece(0, 1, 0, half)).await.unwrap();
    let copied = before.put_bytes + 3000 + 2000;
    eventually("one shard and a half are here", async || live.stats().await.counters.put_bytes == copied).await;
    cable.cut();
    assert!(putting.await.unwrap().is_err());
    let refused = whole.await.unwrap().unwrap();
    assert_eq!((refused.outcome(), refused.reason.as_str()), (n::PutOutcome::Refused, "incomplete"));
    live.publish(&key).await.unwrap();
    live.readable(&key, true).await;
}
