//! The gRPC service: parses, asks the API, and answers.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::bad_input::status_for;
use foreword_proto::chain::asked_keys;
use foreword_proto::key::page_keys_from_wire;
use foreword_proto::limits::{KEYS_MAX, SHARDS_MAX};
use foreword_proto::wire::{namespace_from_wire, node as wire};
use foreword_proto::{BadInput, PageKey, PutOutcome};
use foreword_seams::deadline::deadline_of;
use futures::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use wire::node_server::Node;

use super::admission::overloaded;
use super::convert::{opened_to_wire, page_put_to_wire, parent_from_wire};
use super::pieces::Packer;
use crate::api::{Cleared, EngineApi, GetAsk, LookupAsk, Opened, PutAsk};

/// Times for calls whose caller names none, and for those who name more.
const OPEN_WAIT: Duration = Duration::from_secs(20);
const LOOKUP_WAIT: Duration = Duration::from_secs(20);
const GET_WAIT: Duration = Duration::from_secs(60);
const CLEAR_WAIT: Duration = Duration::from_secs(20);
/// Messages of one get stream ahead of its reader.
const GET_MESSAGES_AHEAD: usize = 2;
/// A reader that takes no message for this long is given up: its pages hold the arena.
const READER_STALLED: Duration = Duration::from_secs(10);

/// [`EngineApi`] as the service of wire/node.proto.
#[derive(Clone)]
pub struct NodeService {
    api: Arc<dyn EngineApi>,
    streams: Arc<Semaphore>,
    streams_max: usize,
}

impl NodeService {
    /// Serves this API, with so many get streams at once.
    pub fn new(api: Arc<dyn EngineApi>, streams_max: usize) -> Self {
        Self { api, streams: Arc::new(Semaphore::new(streams_max)), streams_max }
    }

    fn keys(
        &self,
        opened: &Opened,
        keys: &[u8],
        tokens: Option<&foreword_proto::wire::common::Tokens>,
    ) -> Result<Vec<PageKey>, BadInput> {
        asked_keys(keys, tokens, opened.page_tokens)
    }

    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.streams.clone().try_acquire_owned().map_err(|_| overloaded(self.streams_max))
    }
}

/// A get's messages.
type GetStream = ReceiverStream<Result<wire::GetResponse, Status>>;
/// No messages: the call is not served yet.
type NoStream = ReceiverStream<Result<wire::WatchLocalResponse, Status>>;

#[tonic::async_trait]
impl Node for NodeService {
    async fn open_namespace(
        &self,
        request: Request<wire::OpenNamespaceRequest>,
    ) -> Result<Response<wire::OpenNamespaceResponse>, Status> {
        let deadline = deadline_of(request.metadata(), OPEN_WAIT);
        let namespace = namespace_from_wire(request.into_inner().namespace)?;
        let opened = self.api.open_namespace(namespace, deadline).await?;
        Ok(Response::new(opened_to_wire(&opened)))
    }

    async fn close_namespace(
        &self,
        request: Request<wire::CloseNamespaceRequest>,
    ) -> Result<Response<wire::CloseNamespaceResponse>, Status> {
        self.api.close_namespace(request.into_inner().namespace_id)?;
        Ok(Response::new(wire::CloseNamespaceResponse {}))
    }

    async fn lookup(&self, request: Request<wire::LookupRequest>) -> Result<Response<wire::LookupResponse>, Status> {
        let deadline = deadline_of(request.metadata(), LOOKUP_WAIT);
        let message = request.into_inner();
        let opened = self.api.namespace(message.namespace_id)?;
        let keys = self.keys(&opened, &message.keys, message.tokens.as_ref())?;
        let freshness = message.freshness.unwrap_or_default();
        let ask = LookupAsk {
            namespace: message.namespace_id,
            keys,
            min_revision: freshness.min_revision,
            linearizable: freshness.linearizable,
            deadline,
        };
        let found = self.api.lookup(ask).await?;
        Ok(Response::new(wire::LookupResponse {
            pages: found.pages,
            revision: found.revision,
            l1_pages: found.l1_pages,
            l3_pages: found.l3_pages,
        }))
    }

    async fn locate(&self, request: Request<wire::LocateRequest>) -> Result<Response<wire::LocateResponse>, Status> {
        let deadline = deadline_of(request.metadata(), LOOKUP_WAIT);
        let message = request.into_inner();
        let opened = self.api.namespace(message.namespace_id)?;
        let keys = self.keys(&opened, &message.keys, message.tokens.as_ref())?;
        let (namespace, freshness) = (message.namespace_id, message.freshness.unwrap_or_default());
        let (min_revision, linearizable) = (freshness.min_revision, freshness.linearizable);
        let located = self.api.locate(LookupAsk { namespace, keys, min_revision, linearizable, deadline }).await?;
        Ok(Response::new(wire::LocateResponse { revision: located.revision, tiers: located.tiers.into() }))
    }

    type GetStream = GetStream;

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<GetStream>, Status> {
        let deadline = deadline_of(request.metadata(), GET_WAIT);
        let message = request.into_inner();
        let opened = self.api.namespace(message.namespace_id)?;
        let keys = page_keys_from_wire("keys", &message.keys, KEYS_MAX)?;
        let shards = asked_shards(message.shards, opened.geometry.shards())?;
        let permit = self.stream_permit()?;
        let answers = self.api.get(GetAsk {
            namespace: message.namespace_id,
            keys,
            bypass_cache: message.bypass_cache,
            every_key: message.every_key,
            min_revision: message.min_revision,
            deadline,
        })?;
        let (sender, messages) = mpsc::channel(GET_MESSAGES_AHEAD);
        tokio::spawn(async move {
            // The reader left or stalled: nothing more to do for it.
            let _ = send_pages(answers, &opened, &shards, &sender).await;
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn wanted(&self, request: Request<wire::WantedRequest>) -> Result<Response<wire::WantedResponse>, Status> {
        let message = request.into_inner();
        let keys = page_keys_from_wire("keys", &message.keys, KEYS_MAX)?;
        let known = self.api.wanted(message.namespace_id, message.shard, &keys)?;
        let page = |known: &Option<PutOutcome>| known.as_ref().map(page_put_to_wire).unwrap_or_default();
        Ok(Response::new(wire::WantedResponse { pages: known.iter().map(page).collect() }))
    }

    async fn put(&self, request: Request<Streaming<wire::PutRequest>>) -> Result<Response<wire::PutResponse>, Status> {
        let mut messages = request.into_inner();
        let header = match messages.message().await?.and_then(|message| message.kind) {
            Some(wire::put_request::Kind::Header(header)) => header,
            _ => return Err(BadInput::new("header", "a header as the first message").into()),
        };
        let ask = PutAsk {
            namespace: header.namespace_id,
            shard: header.shard,
            keys: page_keys_from_wire("keys", &header.keys, KEYS_MAX)?,
            parent: parent_from_wire(&header.parent)?,
            wait_published: header.wait_published,
        };
        let mut call = self.api.put(ask)?;
        while let Some(message) = messages.message().await? {
            let Some(wire::put_request::Kind::Pieces(pieces)) = message.kind else {
                return Err(BadInput::new("header", "one header only, then pieces").into());
            };
            for piece in pieces.pieces {
                // 0 is also "not said": the header has named the shard.
                if piece.shard != 0 && piece.shard != header.shard {
                    let expected = format!("pieces of shard {}, got one of {}", header.shard, piece.shard);
                    return Err(BadInput::new("pieces", expected).into());
                }
                call.piece(piece.index as usize, piece.offset, &piece.data).await?;
            }
        }
        let outcomes = call.finish().await?;
        Ok(Response::new(wire::PutResponse { pages: outcomes.iter().map(page_put_to_wire).collect() }))
    }

    async fn prefetch(
        &self,
        request: Request<wire::PrefetchRequest>,
    ) -> Result<Response<wire::PrefetchResponse>, Status> {
        let message = request.into_inner();
        let keys = page_keys_from_wire("keys", &message.keys, KEYS_MAX)?;
        let started = self.api.prefetch(message.namespace_id, &keys)?;
        Ok(Response::new(wire::PrefetchResponse { started }))
    }

    async fn release(&self, request: Request<wire::ReleaseRequest>) -> Result<Response<wire::ReleaseResponse>, Status> {
        let message = request.into_inner();
        let keys = page_keys_from_wire("keys", &message.keys, KEYS_MAX)?;
        self.api.release(message.namespace_id, &keys)?;
        Ok(Response::new(wire::ReleaseResponse {}))
    }

    async fn clear(&self, request: Request<wire::ClearRequest>) -> Result<Response<wire::ClearResponse>, Status> {
        let deadline = deadline_of(request.metadata(), CLEAR_WAIT);
        let Cleared { epoch, revision } = self.api.clear(request.into_inner().namespace_id, deadline).await?;
        Ok(Response::new(wire::ClearResponse { epoch, revision }))
    }

    async fn stats(&self, _: Request<wire::StatsRequest>) -> Result<Response<wire::StatsResponse>, Status> {
        let json = serde_json::to_string(&self.api.stats()).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(wire::StatsResponse { json }))
    }

    type WatchLocalStream = NoStream;

    async fn watch_local(&self, _: Request<wire::WatchLocalRequest>) -> Result<Response<NoStream>, Status> {
        Err(status_for(Code::Unimplemented, "watch_local", "watch_local: comes with a later release"))
    }
}

/// The shards asked for, in the order asked; none named: all.
fn asked_shards(shards: Vec<u32>, count: usize) -> Result<Vec<u32>, BadInput> {
    if shards.is_empty() {
        return Ok((0..count as u32).collect());
    }
    if shards.len() > SHARDS_MAX {
        return Err(BadInput::new("shards", format!("at most {SHARDS_MAX}, got {}", shards.len())));
    }
    match shards.iter().find(|shard| **shard as usize >= count) {
        Some(shard) => Err(BadInput::new("shards", format!("shards below {count}, got {shard}"))),
        None => Ok(shards),
    }
}

/// Sends pages as they come: what is ready at once shares a message. None: the reader left or stalled.
async fn send_pages(
    mut answers: futures::stream::BoxStream<'static, crate::api::PageAnswer>,
    opened: &Opened,
    shards: &[u32],
    sender: &mpsc::Sender<Result<wire::GetResponse, Status>>,
) -> Option<()> {
    let mut packer = Packer::default();
    loop {
        let answer = match answers.next().now_or_never() {
            Some(answer) => answer,
            None => {
                if let Some(message) = packer.flush() {
                    send(sender, message).await?;
                }
                tokio::select! {
                    answer = answers.next() => answer,
                    () = sender.closed() => return None,
                }
            }
        };
        let Some(answer) = answer else { break };
        for message in packer.add(&opened.geometry, shards, answer) {
            send(sender, message).await?;
        }
    }
    if let Some(message) = packer.flush() {
        send(sender, message).await?;
    }
    Some(())
}

async fn send(sender: &mpsc::Sender<Result<wire::GetResponse, Status>>, message: wire::GetResponse) -> Option<()> {
    tokio::time::timeout(READER_STALLED, sender.send(Ok(message))).await.ok()?.ok()
}
