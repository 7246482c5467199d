//! Agents against the fake group, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use foreword_node::arena::HeapRegions;
use foreword_node::store::{ClusterMark, Faults, MemoryL3, MemoryStore, NoFaults};
use foreword_node::{Deps, Handle, L3Location, NodeConfig, serve};
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::limits::NODE_MESSAGE_BYTES_MAX;
use foreword_proto::wire::common;
use foreword_proto::wire::node as wire;
use foreword_proto::{EntryKey, Namespace, PageKey};
use foreword_seams::{Endpoint, OsEntropy, Telemetry, TokioNet, on_a_thread, rpc};
use tonic::transport::Channel;
use tonic::{Request, Status};
use wire::node_client::NodeClient;

use crate::fake_meta::{CHUNK_BYTES, CLUSTER, FakeMeta, Settings};

/// Longer than anything here takes; reached only by a hang.
pub const SOON: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub meta: FakeMeta,
    pub endpoint: Endpoint,
    pub l3: MemoryL3,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub async fn with(settings: Settings) -> Self {
        let (meta, endpoint) = FakeMeta::start(settings).await;
        let l3 = MemoryL3::default();
        l3.init(&ClusterMark::new(CLUSTER, CHUNK_BYTES, "memory"));
        Self { meta, endpoint, l3 }
    }

    pub fn config(&self, node: &str) -> NodeConfig {
        let mut config = NodeConfig::new(node, vec![self.endpoint.clone()], L3Location::Memory);
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.arena_bytes = 64 << 20;
        config.heat_report_ms = 20;
        config
    }

    pub fn deps(&self, faults: Arc<dyn Faults>) -> Deps {
        let l3 = self.l3.clone();
        Deps {
            net: Arc::new(TokioNet),
            entropy: Arc::new(OsEntropy),
            store: Arc::new(move |_, cluster, chunk_bytes| {
                Ok(Arc::new(MemoryStore::with_faults(l3.clone(), cluster, chunk_bytes, faults.clone())))
            }),
            files: None,
            kept: None,
            regions: Arc::new(HeapRegions),
            segment_maker: on_a_thread("test-arena"),
            telemetry: Telemetry::new(),
        }
    }

    pub async fn agent(&self, node: &str) -> TestAgent {
        self.agent_with(self.config(node), Arc::new(NoFaults)).await
    }

    /// An agent, and its store once it has one.
    pub async fn agent_and_store(&self, node: &str) -> (TestAgent, impl Fn() -> Arc<MemoryStore> + use<>) {
        let made = Arc::new(std::sync::OnceLock::new());
        let (l3, keep) = (self.l3.clone(), made.clone());
        let mut deps = self.deps(Arc::new(NoFaults));
        deps.store = Arc::new(move |_, cluster, chunk_bytes| {
            let store = Arc::new(MemoryStore::new(l3.clone(), cluster, chunk_bytes));
            Ok(keep.get_or_init(|| store).clone())
        });
        let handle = serve(self.config(node), deps).await.unwrap();
        let client = client(handle.endpoint());
        (TestAgent { handle, client }, move || made.get().expect("an agent that serves has its store").clone())
    }

    pub async fn agent_with(&self, config: NodeConfig, faults: Arc<dyn Faults>) -> TestAgent {
        let handle = serve(config, self.deps(faults)).await.unwrap();
        let client = client(handle.endpoint());
        TestAgent { handle, client }
    }
}

pub fn client(endpoint: &Endpoint) -> NodeClient<Channel> {
    NodeClient::new(rpc::channel(Arc::new(TokioNet), endpoint)).max_decoding_message_size(NODE_MESSAGE_BYTES_MAX)
}

pub struct TestAgent {
    pub handle: Handle,
    pub client: NodeClient<Channel>,
}

/// A page as a get gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub hit: bool,
    pub tier: i32,
    pub reason: String,
    pub bytes: Vec<Vec<u8>>,
}

impl TestAgent {
    pub async fn open(&self, namespace: &Namespace) -> u32 {
        let namespace = Some(common::Namespace::from(namespace));
        let request = wire::OpenNamespaceRequest { namespace };
        self.client.clone().open_namespace(request).await.unwrap().into_inner().namespace_id
    }

    /// Puts one shard of some pages, in pieces of at most `piece_bytes`.
    pub async fn put_shard(
        &self,
        namespace: u32,
        shard: u32,
        keys: &[PageKey],
        pages: &[Vec<u8>],
        wait_published: bool,
    ) -> Result<Vec<wire::PagePut>, Status> {
        let header = wire::PutHeader {
            namespace_id: namespace,
            shard,
            keys: page_keys_to_wire(keys),
            parent: Default::default(),
            wait_published,
        };
        let mut messages = vec![wire::PutRequest { kind: Some(wire::put_request::Kind::Header(header)) }];
        for (index, page) in pages.iter().enumerate() {
            messages.extend(pieces_of(index, shard, page));
        }
        let answer = self.client.clone().put(tokio_stream::iter(messages)).await?;
        Ok(answer.into_inner().pages)
    }

    /// Puts whole pages, all shards at once, and waits until they are published.
    pub async fn put(&self, namespace: u32, keys: &[PageKey], shards: usize, bytes: usize) -> Vec<wire::PagePut> {
        let puts = (0..shards as u32).map(|shard| async move {
            let pages: Vec<Vec<u8>> = keys.iter().map(|key| page_bytes(key, shard, bytes)).collect();
            self.put_shard(namespace, shard, keys, &pages, true).await.unwrap()
        });
        let mut answers = futures::future::join_all(puts).await;
        let first = answers.remove(0);
        for other in answers {
            assert_eq!(other.len(), first.len());
        }
        first
    }

    pub async fn lookup(&self, namespace: u32, keys: &[PageKey], min_revision: u64) -> wire::LookupResponse {
        let freshness = Some(common::Freshness { min_revision, linearizable: false });
        let keys = page_keys_to_wire(keys);
        let request = wire::LookupRequest { namespace_id: namespace, keys, tokens: None, freshness };
        self.client.clone().lookup(request).await.unwrap().into_inner()
    }

    pub async fn get(&self, namespace: u32, keys: &[PageKey], change: impl FnOnce(&mut wire::GetRequest)) -> Vec<Got> {
        let mut request = wire::GetRequest {
            namespace_id: namespace,
            keys: page_keys_to_wire(keys),
            every_key: true,
            ..Default::default()
        };
        change(&mut request);
        let mut stream = self.client.clone().get(Request::new(request)).await.unwrap().into_inner();
        let mut got: Vec<Got> = Vec::new();
        let mut bytes: Vec<Vec<u8>> = Vec::new();
        let mut index = 0;
        while let Some(message) = stream.message().await.unwrap() {
            let mut pieces = message.pieces.into_iter().peekable();
            for end in message.ends {
                while let Some(piece) = pieces.next_if(|piece| piece.index == end.index) {
                    add_piece(&mut bytes, &piece);
                }
                assert_eq!(end.index, index, "pages come in the order of their keys");
                index += 1;
                let bytes = std::mem::take(&mut bytes);
                got.push(Got { hit: end.hit, tier: end.tier, reason: end.reason, bytes });
            }
            // A page that goes on in the next message.
            for piece in pieces {
                add_piece(&mut bytes, &piece);
            }
        }
        got
    }

    pub fn counters(&self) -> foreword_proto::status::AgentCounters {
        use foreword_node::api::EngineApi;
        self.handle.api().stats().counters
    }
}

fn add_piece(bytes: &mut Vec<Vec<u8>>, piece: &wire::Piece) {
    if bytes.len() <= piece.shard as usize {
        bytes.resize(piece.shard as usize + 1, Vec::new());
    }
    let shard = &mut bytes[piece.shard as usize];
    assert_eq!(shard.len() as u64, piece.offset);
    shard.extend_from_slice(&piece.data);
}

pub fn pieces_of(index: usize, shard: u32, page: &[u8]) -> Vec<wire::PutRequest> {
    const PIECE: usize = 100_000;
    let piece = |(i, data): (usize, &[u8])| {
        let data = data.to_vec().into();
        let piece = wire::Piece { index: index as u32, shard, offset: (i * PIECE) as u64, data };
        wire::PutRequest { kind: Some(wire::put_request::Kind::Pieces(wire::Pieces { pieces: vec![piece] })) }
    };
    page.chunks(PIECE).enumerate().map(piece).collect()
}

pub fn key(number: u64) -> PageKey {
    PageKey::opaque(&number.to_le_bytes())
}

pub fn keys(range: std::ops::Range<u64>) -> Vec<PageKey> {
    range.map(key).collect()
}

/// What a page of this key holds.
pub fn page_bytes(key: &PageKey, shard: u32, bytes: usize) -> Vec<u8> {
    let mut hash = blake3::Hasher::new();
    hash.update(&key.0);
    hash.update(&shard.to_le_bytes());
    let mut out = vec![0; bytes];
    hash.finalize_xof().fill(&mut out);
    out
}

pub fn expected(key: &PageKey, shards: usize, bytes: usize) -> Vec<Vec<u8>> {
    (0..shards as u32).map(|shard| page_bytes(key, shard, bytes)).collect()
}

pub fn entry(key: &PageKey) -> EntryKey {
    key.entry()
}

/// Waits until something is so; a hang fails the test.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}
