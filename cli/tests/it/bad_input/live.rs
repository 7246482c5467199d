//! A small running cluster, and the valid requests that must succeed after a bad one.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use foreword_cli::clients;
use foreword_cli::cluster::{Cluster, L3Spec, Spec};
use foreword_proto::bad_input::field_of;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::limits::{META_MESSAGE_BYTES_MAX, PIECES_BYTES_MAX};
use foreword_proto::wire::common;
use foreword_proto::wire::meta as m;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_proto::wire::node as n;
use foreword_proto::workload::page;
use foreword_proto::{Namespace, PageKey};
use foreword_seams::{Endpoint, TokioNet, rpc};
use tokio::sync::SemaphorePermit;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// Shards of the namespace that [`Live`] works in, and bytes of each.
pub(super) const SHARD_BYTES: [u64; 2] = [3000, 5000];

/// A running cluster with one namespace open on its first agent.
pub(crate) struct Live {
    pub(crate) cluster: Cluster,
    pub(super) agent: clients::Agent,
    pub(super) namespace: Namespace,
    pub(super) namespace_id: u32,
    pages: u32,
    // Last: given back when the processes have ended.
    _permit: SemaphorePermit<'static>,
}

/// A cluster for tests: small, and slots rest only shortly.
pub(crate) fn spec(replicas: usize, agents: usize) -> Spec {
    Spec {
        binary: env!("CARGO_BIN_EXE_foreword").into(),
        dir: None,
        keep: false,
        replicas,
        agents,
        l3: L3Spec::Posix,
        l3_bytes: 64 << 20,
        slab_bytes: 8 << 20,
        chunk_bytes: 4096,
        arena_bytes: 16 << 20,
        lease: "5s".parse().unwrap(),
        read_rest: "100ms".parse().unwrap(),
        write_rest: "100ms".parse().unwrap(),
        config: String::new(),
        generated: None,
    }
}

impl Live {
    /// Starts a cluster and opens the namespace.
    pub(crate) async fn start(spec: Spec) -> Self {
        let permit = crate::CLUSTERS.acquire().await.unwrap();
        let cluster = Cluster::start(spec, |_| {}).await.unwrap_or_else(|error| panic!("{error:#}"));
        let agent = clients::agent(&cluster.agent_endpoints()[0]);
        let namespace = Namespace::simple("bad-input", 16, SHARD_BYTES.to_vec());
        let mut live = Self { cluster, agent, namespace, namespace_id: 0, pages: 0, _permit: permit };
        live.namespace_id = open(&mut live.agent, &live.namespace).await.unwrap();
        live
    }

    /// The endpoint of a replica.
    pub(super) fn meta_endpoint(&self, id: u64) -> Endpoint {
        self.cluster.meta_endpoints()[id as usize - 1].clone()
    }

    /// A client of one replica.
    pub(super) fn meta(&self, id: u64) -> MetaClient<Channel> {
        meta(&self.meta_endpoint(id))
    }

    /// A key that no call has had yet.
    pub(crate) fn fresh_key(&mut self) -> PageKey {
        self.pages += 1;
        PageKey::opaque(&self.pages.to_le_bytes())
    }

    /// A valid put, lookup and get of a new page.
    pub(super) async fn works(&mut self, after: &str) -> PageKey {
        let key = self.fresh_key();
        self.publish(&key).await.unwrap_or_else(|error| panic!("after {after}: {error}"));
        let keys = page_keys_to_wire(&[key]);
        let request = n::LookupRequest { namespace_id: self.namespace_id, keys, ..Default::default() };
        let found = self.agent.lookup(request).await.unwrap_or_else(|error| panic!("after {after}: {error}"));
        assert_eq!(found.into_inner().pages, 1, "after {after}");
        self.readable(&key, false).await;
        key
    }

    /// Puts both shards of a page; answers with the revision at which it was published.
    pub(crate) async fn publish(&self, key: &PageKey) -> Result<u64, Status> {
        let shard = |shard| put(self.agent.clone(), self.namespace_id, shard, *key, shard_bytes(key, shard));
        let (first, second) = tokio::join!(shard(0), shard(1));
        let (first, second) = (first?, second?);
        assert_eq!((first.outcome(), second.outcome()), (n::PutOutcome::Published, n::PutOutcome::Published));
        Ok(first.revision)
    }

    /// Gets a page and checks every byte.
    pub(crate) async fn readable(&mut self, key: &PageKey, bypass_cache: bool) {
        let request = n::GetRequest {
            namespace_id: self.namespace_id,
            keys: page_keys_to_wire(&[*key]),
            bypass_cache,
            ..Default::default()
        };
        let mut messages = self.agent.get(request).await.unwrap().into_inner();
        let mut shards = SHARD_BYTES.map(|bytes| vec![0; bytes as usize]);
        let mut ends = Vec::new();
        while let Some(message) = messages.message().await.unwrap() {
            for piece in message.pieces {
                let at = piece.offset as usize;
                shards[piece.shard as usize][at..at + piece.data.len()].copy_from_slice(&piece.data);
            }
            ends.extend(message.ends);
        }
        assert!(ends.len() == 1 && ends[0].hit, "{key}: {ends:?}");
        for (shard, bytes) in shards.iter().enumerate() {
            page::verify(bytes, key, shard as u32).unwrap();
        }
    }

    /// A call that must be refused with this code and field; the next valid calls succeed.
    pub(super) async fn refuses<T: Debug>(
        &mut self,
        what: &str,
        (code, field): (Code, &str),
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Status {
        let error = call.await.expect_err(what);
        assert_eq!((error.code(), field_of(&error)), (code, Some(field)), "{what}: {error:?}");
        self.works(what).await;
        error
    }

    /// What the agent says of itself.
    pub(super) async fn stats(&mut self) -> foreword_proto::status::AgentStatus {
        let json = self.agent.stats(n::StatsRequest {}).await.unwrap().into_inner().json;
        serde_json::from_str(&json).unwrap()
    }
}

/// What [`Live::publish`] puts.
pub(super) fn shard_bytes(key: &PageKey, shard: u32) -> Bytes {
    let mut bytes = vec![0; SHARD_BYTES[shard as usize] as usize];
    page::fill(&mut bytes, key, shard, 7);
    bytes.into()
}

/// A client of one replica, which does not itself refuse what is too large.
pub(super) fn meta(endpoint: &Endpoint) -> MetaClient<Channel> {
    MetaClient::new(rpc::channel(Arc::new(TokioNet), endpoint)).max_decoding_message_size(META_MESSAGE_BYTES_MAX)
}

/// Opens a namespace on an agent.
pub(super) async fn open(agent: &mut clients::Agent, namespace: &Namespace) -> Result<u32, Status> {
    open_message(agent, namespace.into()).await
}

/// The same with a message that may be no namespace.
pub(super) async fn open_message(agent: &mut clients::Agent, namespace: common::Namespace) -> Result<u32, Status> {
    let request = n::OpenNamespaceRequest { namespace: Some(namespace) };
    Ok(agent.open_namespace(request).await?.into_inner().namespace_id)
}

/// The first message of a put of one page.
pub(super) fn header(namespace_id: u32, shard: u32, key: PageKey) -> n::PutRequest {
    let keys = page_keys_to_wire(&[key]);
    let header = n::PutHeader { namespace_id, shard, keys, parent: Bytes::new(), wait_published: true };
    n::PutRequest { kind: Some(n::put_request::Kind::Header(header)) }
}

/// A further message of a put: one piece.
pub(super) fn piece(index: u32, shard: u32, offset: u64, data: Bytes) -> n::PutRequest {
    let pieces = vec![n::Piece { index, shard, offset, data }];
    n::PutRequest { kind: Some(n::put_request::Kind::Pieces(n::Pieces { pieces })) }
}

/// Puts one shard of one page.
pub(super) async fn put(
    mut agent: clients::Agent,
    namespace_id: u32,
    shard: u32,
    key: PageKey,
    bytes: Bytes,
) -> Result<n::PagePut, Status> {
    let mut messages = vec![header(namespace_id, shard, key)];
    for start in (0..bytes.len()).step_by(PIECES_BYTES_MAX) {
        let end = (start + PIECES_BYTES_MAX).min(bytes.len());
        messages.push(piece(0, shard, start as u64, bytes.slice(start..end)));
    }
    let answer = agent.put(tokio_stream::iter(messages)).await?.into_inner();
    Ok(answer.pages.into_iter().next().unwrap())
}

/// A meta lookup of keys in the wire's form.
pub(super) fn meta_lookup(namespace_id: u32, keys: impl Into<Bytes>) -> m::LookupRequest {
    m::LookupRequest { namespace_id, keys: keys.into(), ..Default::default() }
}
