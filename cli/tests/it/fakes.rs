//! Fake servers, in process, on unix sockets: what a driver must be able to see through.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use foreword_proto::key::page_keys_from_wire;
use foreword_proto::limits::{KEYS_MAX, NODE_MESSAGE_BYTES_MAX};
use foreword_proto::records::NamespaceEvent;
use foreword_proto::wire::meta::meta_server::{Meta, MetaServer};
use foreword_proto::wire::meta::{self as m, watch_response::Kind};
use foreword_proto::wire::node::node_server::{Node, NodeServer};
use foreword_proto::wire::node::{self as n, put_request};
use foreword_proto::{EntryKey, PageKey, RetireReason, SlotRef};
use foreword_seams::{Endpoint, Net, TokioNet, rpc};
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;

/// What a fake agent does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Every lookup says 0.
    LooksUpNothing,
    /// The last byte of every second page is flipped.
    FlipsAByte,
    /// Lookups promise everything that was put, gets deliver nothing.
    PromisesOnly,
    /// Page data stops short, and the page is called a hit.
    CutsShort,
}

/// Pages that all fake agents of a test share: key and shard to bytes.
#[derive(Default)]
pub(crate) struct Pages {
    shards: Mutex<HashMap<(PageKey, u32), Bytes>>,
    revision: AtomicU64,
}

/// A fake agent.
pub(crate) struct FakeAgent {
    pub pages: Arc<Pages>,
    pub fault: Fault,
}

/// Serves a fake agent in `dir`.
pub(crate) async fn serve_agent(dir: &Path, name: &str, agent: FakeAgent) -> Endpoint {
    let endpoint = Endpoint::Unix(dir.join(name));
    let (incoming, endpoint) = TokioNet.listen(&endpoint).await.unwrap();
    let service = NodeServer::new(agent).max_decoding_message_size(NODE_MESSAGE_BYTES_MAX);
    tokio::spawn(rpc::server().add_service(service).serve_with_incoming(incoming));
    endpoint
}

fn keys(bytes: &[u8]) -> Result<Vec<PageKey>, Status> {
    Ok(page_keys_from_wire("keys", bytes, KEYS_MAX)?)
}

#[tonic::async_trait]
impl Node for FakeAgent {
    type GetStream = BoxStream<'static, Result<n::GetResponse, Status>>;
    type WatchLocalStream = BoxStream<'static, Result<n::WatchLocalResponse, Status>>;

    async fn open_namespace(&self, _: Request<n::OpenNamespaceRequest>) -> Answer<n::OpenNamespaceResponse> {
        Ok(Response::new(n::OpenNamespaceResponse { namespace_id: 1, epoch: 1, ..Default::default() }))
    }

    async fn close_namespace(&self, _: Request<n::CloseNamespaceRequest>) -> Answer<n::CloseNamespaceResponse> {
        Ok(Response::new(n::CloseNamespaceResponse {}))
    }

    async fn lookup(&self, request: Request<n::LookupRequest>) -> Answer<n::LookupResponse> {
        let shards = self.pages.shards.lock();
        let there = keys(&request.get_ref().keys)?.iter().take_while(|key| shards.contains_key(&(**key, 0))).count();
        let pages = if self.fault == Fault::LooksUpNothing { 0 } else { there as u32 };
        let revision = self.pages.revision.load(Ordering::Relaxed);
        Ok(Response::new(n::LookupResponse { pages, revision, ..Default::default() }))
    }

    async fn get(&self, request: Request<n::GetRequest>) -> Answer<Self::GetStream> {
        let request = request.into_inner();
        let mut answer = n::GetResponse::default();
        for (index, key) in keys(&request.keys)?.into_iter().enumerate() {
            let index = index as u32;
            let found = self.pages.shards.lock().get(&(key, request.shards[0])).cloned();
            let found = found.filter(|_| self.fault != Fault::PromisesOnly);
            let hit = found.is_some();
            if let Some(mut data) = found {
                if self.fault == Fault::FlipsAByte && index % 2 == 1 {
                    let mut bytes = BytesMut::from(&data[..]);
                    *bytes.last_mut().unwrap() ^= 1;
                    data = bytes.freeze();
                }
                if self.fault == Fault::CutsShort {
                    data.truncate(data.len() - 1);
                }
                // In two pieces, the later first: a driver must not count on their order.
                let tail = data.split_off(data.len() / 2);
                let offset = data.len() as u64;
                answer.pieces.push(n::Piece { index, shard: request.shards[0], offset, data: tail });
                answer.pieces.push(n::Piece { index, shard: request.shards[0], offset: 0, data });
            }
            answer.ends.push(n::PageEnd { index, hit, tier: n::Tier::L3 as i32, ..Default::default() });
            if !hit && !request.every_key {
                break;
            }
        }
        Ok(Response::new(stream::iter([Ok(answer)]).boxed()))
    }

    async fn wanted(&self, request: Request<n::WantedRequest>) -> Answer<n::WantedResponse> {
        let pages = keys(&request.get_ref().keys)?.iter().map(|_| n::PagePut::default()).collect();
        Ok(Response::new(n::WantedResponse { pages }))
    }

    async fn clear(&self, _: Request<n::ClearRequest>) -> Answer<n::ClearResponse> {
        Err(Status::permission_denied("clear_tenants"))
    }

    async fn put(&self, request: Request<Streaming<n::PutRequest>>) -> Answer<n::PutResponse> {
        let mut messages = request.into_inner();
        let mut header = None;
        let mut shards: BTreeMap<u32, BytesMut> = BTreeMap::new();
        while let Some(message) = messages.message().await? {
            match message.kind {
                Some(put_request::Kind::Header(first)) => header = Some(first),
                Some(put_request::Kind::Pieces(pieces)) => {
                    for piece in pieces.pieces {
                        let shard = shards.entry(piece.index).or_default();
                        assert_eq!(shard.len() as u64, piece.offset, "the driver puts pieces in order");
                        shard.extend_from_slice(&piece.data);
                    }
                }
                None => {}
            }
        }
        let header = header.ok_or_else(|| Status::invalid_argument("header"))?;
        let mut pages = Vec::new();
        for (index, key) in keys(&header.keys)?.into_iter().enumerate() {
            let bytes = shards.remove(&(index as u32)).ok_or_else(|| Status::invalid_argument("pieces"))?;
            self.pages.shards.lock().insert((key, header.shard), bytes.freeze());
            let revision = self.pages.revision.fetch_add(1, Ordering::Relaxed) + 1;
            let outcome = n::PutOutcome::Published as i32;
            pages.push(n::PagePut { outcome, revision, reason: String::new() });
        }
        Ok(Response::new(n::PutResponse { pages }))
    }

    async fn locate(&self, _: Request<n::LocateRequest>) -> Answer<n::LocateResponse> {
        Err(Status::unimplemented("fake"))
    }
    async fn prefetch(&self, _: Request<n::PrefetchRequest>) -> Answer<n::PrefetchResponse> {
        Err(Status::unimplemented("fake"))
    }
    async fn release(&self, _: Request<n::ReleaseRequest>) -> Answer<n::ReleaseResponse> {
        Err(Status::unimplemented("fake"))
    }
    async fn stats(&self, _: Request<n::StatsRequest>) -> Answer<n::StatsResponse> {
        Err(Status::unimplemented("fake"))
    }
    async fn watch_local(&self, _: Request<n::WatchLocalRequest>) -> Answer<Self::WatchLocalStream> {
        Err(Status::unimplemented("fake"))
    }
}

/// A fake replica: it finds every key but `absent`, and its watch stream has `retired`.
#[derive(Default)]
pub(crate) struct FakeMeta {
    pub absent: BTreeSet<EntryKey>,
    /// Keys with the revision of their retire.
    pub retired: Vec<(EntryKey, u64)>,
}

/// Serves a fake replica in `dir`.
pub(crate) async fn serve_meta(dir: &Path, name: &str, meta: FakeMeta) -> Endpoint {
    let endpoint = Endpoint::Unix(dir.join(name));
    let (incoming, endpoint) = TokioNet.listen(&endpoint).await.unwrap();
    tokio::spawn(rpc::server().add_service(MetaServer::new(meta)).serve_with_incoming(incoming));
    endpoint
}

macro_rules! not_here {
    ($($call:ident: $request:ident -> $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl Meta for FakeMeta {
            type WatchStream = BoxStream<'static, Result<m::WatchResponse, Status>>;

            async fn lookup(&self, request: Request<m::LookupRequest>) -> Answer<m::LookupResponse> {
                Ok(Response::new(self.answer(request.get_ref())?))
            }

            async fn watch(&self, _: Request<Streaming<m::WatchRequest>>) -> Answer<Self::WatchStream> {
                Ok(Response::new(self.events()))
            }

            $(async fn $call(&self, _: Request<m::$request>) -> Answer<m::$response> {
                Err(Status::unimplemented("fake"))
            })*
        }
    };
}

not_here! {
    hello: HelloRequest -> HelloResponse,
    register_namespace: RegisterNamespaceRequest -> RegisterNamespaceResponse,
    open_session: OpenSessionRequest -> OpenSessionResponse,
    renew_session: RenewSessionRequest -> RenewSessionResponse,
    close_session: CloseSessionRequest -> CloseSessionResponse,
    grant: GrantRequest -> GrantResponse,
    publish: PublishRequest -> PublishResponse,
    abort: AbortRequest -> AbortResponse,
    suspect: SuspectRequest -> SuspectResponse,
    report_heat: ReportHeatRequest -> ReportHeatResponse,
    clear: ClearRequest -> ClearResponse,
    delete: DeleteRequest -> DeleteResponse,
}

impl FakeMeta {
    fn answer(&self, request: &m::LookupRequest) -> Result<m::LookupResponse, Status> {
        assert!(request.every_key && request.freshness.is_some_and(|freshness| freshness.linearizable));
        let present = keys(&request.keys)?.iter().map(|key| u8::from(!self.absent.contains(&key.entry()))).collect();
        Ok(m::LookupResponse { revision: 1, present: Vec::into(present), ..Default::default() })
    }

    fn events(&self) -> BoxStream<'static, Result<m::WatchResponse, Status>> {
        let entries = self.retired.iter().map(|(key, revision)| {
            let mut events = BytesMut::new();
            let slot = SlotRef { slab: 1, slot: 0, generation: 1 };
            NamespaceEvent::Retired { key: *key, slot, reason: RetireReason::Evicted }.put(&mut events);
            m::EntryEvents { revision: *revision, events: events.freeze() }
        });
        let revision = self.retired.iter().map(|(_, revision)| *revision).max().unwrap_or(0);
        let kinds = [
            Kind::Begin(m::ResyncBegin { revision: 0, epoch: 1, entries: 0, deleted_at: 0 }),
            Kind::End(m::ResyncEnd { revision: 0 }),
            Kind::Events(m::Events { revision, entries: entries.collect() }),
        ];
        let said = stream::iter(kinds.map(|kind| Ok(m::WatchResponse { namespace_id: 1, kind: Some(kind) })));
        said.chain(stream::pending()).boxed()
    }
}
