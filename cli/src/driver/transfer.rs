//! One shard's pages through an agent's public API: what a rank of an engine does.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use foreword_proto::limits::PIECES_BYTES_MAX;
use foreword_proto::wire::node as n;
use foreword_proto::workload::page;
use foreword_proto::{PageKey, Tier};
use futures::stream;
use tonic::Status;

use crate::clients::Agent;

/// Pieces of one message at most: tiny pieces cost more than their bytes.
const PIECES_PER_MESSAGE_MAX: usize = 2048;

/// What came of one page's shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// Every byte arrived and is right.
    Right(Tier),
    /// Said to be a hit, but its bytes are not the page's.
    Wrong,
    /// A miss, or nothing was said.
    Miss,
}

/// What one client asks of its agent.
#[derive(Debug, Clone)]
pub struct ShardGet {
    pub namespace_id: u32,
    pub shard: u32,
    pub shard_bytes: usize,
    pub min_revision: u64,
    pub bypass_cache: bool,
    pub every_key: bool,
}

/// Gets one shard of these pages and verifies every byte. One answer a key, in order.
///
/// Errors: the call itself failed; what came before it is lost with it.
pub async fn get(agent: &mut Agent, ask: &ShardGet, keys: &[PageKey]) -> Result<Vec<Got>, Status> {
    let request = n::GetRequest {
        namespace_id: ask.namespace_id,
        keys: foreword_proto::key::page_keys_to_wire(keys),
        shards: vec![ask.shard],
        bypass_cache: ask.bypass_cache,
        every_key: ask.every_key,
        min_revision: ask.min_revision,
    };
    let mut answers = agent.get(request).await?.into_inner();
    let mut got = vec![Got::Miss; keys.len()];
    let mut gather = Gather { ask, keys, parts: HashMap::new() };
    while let Some(message) = answers.message().await? {
        for piece in message.pieces {
            gather.add(piece);
        }
        for end in message.ends {
            if let Some(slot) = got.get_mut(end.index as usize) {
                *slot = gather.end(&end);
            }
        }
    }
    Ok(got)
}

/// A shard as far as it has come.
enum Part {
    /// One piece that is all of it: verified in place, without a copy.
    Whole(Bytes),
    Pieces {
        bytes: BytesMut,
        filled: usize,
    },
    /// A piece outside the shard, or of another one.
    Broken,
}

struct Gather<'a> {
    ask: &'a ShardGet,
    keys: &'a [PageKey],
    parts: HashMap<u32, Part>,
}

impl Gather<'_> {
    fn add(&mut self, piece: n::Piece) {
        let (start, end) = (piece.offset as usize, piece.offset as usize + piece.data.len());
        if piece.shard != self.ask.shard || end > self.ask.shard_bytes {
            self.parts.insert(piece.index, Part::Broken);
            return;
        }
        if piece.data.len() == self.ask.shard_bytes {
            self.parts.insert(piece.index, Part::Whole(piece.data));
            return;
        }
        let empty = || Part::Pieces { bytes: BytesMut::zeroed(self.ask.shard_bytes), filled: 0 };
        if let Part::Pieces { bytes, filled } = self.parts.entry(piece.index).or_insert_with(empty) {
            bytes[start..end].copy_from_slice(&piece.data);
            *filled += piece.data.len();
        }
    }

    fn end(&mut self, end: &n::PageEnd) -> Got {
        let part = self.parts.remove(&end.index);
        if !end.hit {
            return Got::Miss;
        }
        let tier = match end.tier() {
            n::Tier::L1 => Tier::L1,
            n::Tier::L2 => Tier::L2,
            n::Tier::L3 => Tier::L3,
            // A hit from nowhere: the contract's sum of tiers would not hold.
            n::Tier::Unspecified => return Got::Wrong,
        };
        let key = &self.keys[end.index as usize];
        let right = match part {
            Some(Part::Whole(bytes)) => page::verify(&bytes, key, self.ask.shard).is_ok(),
            Some(Part::Pieces { bytes, filled }) => {
                filled == bytes.len() && page::verify(&bytes, key, self.ask.shard).is_ok()
            }
            Some(Part::Broken) | None => false,
        };
        if right { Got::Right(tier) } else { Got::Wrong }
    }
}

/// What one client puts through its agent.
#[derive(Debug, Clone)]
pub struct ShardPut {
    pub namespace_id: u32,
    pub shard: u32,
    pub shard_bytes: usize,
    pub parent: Option<PageKey>,
    /// The writer's nonce, inside each page.
    pub nonce: u64,
}

/// Puts one shard of new pages and waits until each is published or refused. One outcome a key, in order.
pub async fn put(agent: &mut Agent, ask: ShardPut, keys: Arc<[PageKey]>) -> Result<Vec<n::PagePut>, Status> {
    let header = n::PutHeader {
        namespace_id: ask.namespace_id,
        shard: ask.shard,
        keys: foreword_proto::key::page_keys_to_wire(&keys),
        parent: ask.parent.map(|key| Bytes::copy_from_slice(&key.0)).unwrap_or_default(),
        wait_published: true,
    };
    let asked = keys.len();
    let header = n::PutRequest { kind: Some(n::put_request::Kind::Header(header)) };
    let stream = stream::iter(std::iter::once(header).chain(messages(ask, keys)));
    let answer = agent.put(stream).await?.into_inner();
    if answer.pages.len() != asked {
        let count = answer.pages.len();
        return Err(Status::internal(format!("pages: expected {asked} outcomes, got {count}")));
    }
    Ok(answer.pages)
}

/// The messages of a put; pages are filled when their message's turn comes.
fn messages(ask: ShardPut, keys: Arc<[PageKey]>) -> impl Iterator<Item = n::PutRequest> {
    let pages = (PIECES_BYTES_MAX / ask.shard_bytes).clamp(1, PIECES_PER_MESSAGE_MAX);
    (0..keys.len()).step_by(pages).flat_map(move |first| {
        let batch = &keys[first..(first + pages).min(keys.len())];
        let mut bytes = BytesMut::zeroed(batch.len() * ask.shard_bytes);
        for (key, shard) in batch.iter().zip(bytes.chunks_exact_mut(ask.shard_bytes)) {
            page::fill(shard, key, ask.shard, ask.nonce);
        }
        batch_messages(&ask, first, batch.len(), &bytes.freeze())
    })
}

/// One message for a batch of whole shards, or several for one shard that does not fit a message.
fn batch_messages(ask: &ShardPut, first: usize, pages: usize, bytes: &Bytes) -> Vec<n::PutRequest> {
    let piece = |index: usize, start: usize, end: usize, offset: usize| n::Piece {
        index: index as u32,
        shard: ask.shard,
        offset: offset as u64,
        data: bytes.slice(start..end),
    };
    let message = |pieces| n::PutRequest { kind: Some(n::put_request::Kind::Pieces(n::Pieces { pieces })) };
    if ask.shard_bytes <= PIECES_BYTES_MAX {
        let start = |page: usize| page * ask.shard_bytes;
        return vec![message((0..pages).map(|at| piece(first + at, start(at), start(at + 1), 0)).collect())];
    }
    let starts = (0..bytes.len()).step_by(PIECES_BYTES_MAX);
    starts.map(|at| message(vec![piece(first, at, (at + PIECES_BYTES_MAX).min(bytes.len()), at)])).collect()
}
