//! The messages of a put.

use bytes::{Bytes, BytesMut};
use foreword_proto::PageKey;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::limits::PIECES_BYTES_MAX;
use foreword_proto::wire::node as wire;
use foreword_proto::workload::page;

/// Pieces of one message at most: tiny pieces cost more than their bytes.
const PIECES_PER_MESSAGE_MAX: usize = 2048;

/// One shard of new pages, and how it is sent.
#[derive(Debug, Clone)]
pub struct ShardPut {
    pub namespace_id: u32,
    pub shard: u32,
    pub shard_bytes: usize,
    pub parent: Option<PageKey>,
    /// The writer's nonce, inside each page.
    pub nonce: u64,
    /// Wait until each page is published or refused.
    pub wait_published: bool,
    /// Bytes of a piece, at least 1, and whether each piece has a message of its own.
    pub piece_bytes: usize,
    pub apart: bool,
}

impl ShardPut {
    /// Whole shards, as many in a message as fit, published when the put is answered.
    pub fn whole(namespace_id: u32, (shard, shard_bytes): (u32, usize), parent: Option<PageKey>, nonce: u64) -> Self {
        let (wait_published, piece_bytes, apart) = (true, shard_bytes.min(PIECES_BYTES_MAX), false);
        Self { namespace_id, shard, shard_bytes, parent, nonce, wait_published, piece_bytes, apart }
    }

    fn header(&self, keys: &[PageKey]) -> wire::PutRequest {
        let header = wire::PutHeader {
            namespace_id: self.namespace_id,
            shard: self.shard,
            keys: page_keys_to_wire(keys),
            parent: self.parent.map(|key| Bytes::copy_from_slice(&key.0)).unwrap_or_default(),
            wait_published: self.wait_published,
        };
        wire::PutRequest { kind: Some(wire::put_request::Kind::Header(header)) }
    }

    /// The pieces of these pages, the first of which is page `first` of the call.
    fn pieces(&self, first: usize, keys: &[PageKey]) -> Vec<wire::Piece> {
        let mut bytes = BytesMut::zeroed(keys.len() * self.shard_bytes);
        for (key, shard) in keys.iter().zip(bytes.chunks_exact_mut(self.shard_bytes)) {
            page::fill(shard, key, self.shard, self.nonce);
        }
        let bytes = bytes.freeze();
        let pieces = (0..keys.len()).flat_map(|page| {
            let bytes = &bytes;
            (0..self.shard_bytes).step_by(self.piece_bytes).map(move |offset| {
                let end = (offset + self.piece_bytes).min(self.shard_bytes);
                let data = bytes.slice(page * self.shard_bytes + offset..page * self.shard_bytes + end);
                wire::Piece { index: (first + page) as u32, shard: self.shard, offset: offset as u64, data }
            })
        });
        pieces.collect()
    }
}

/// The messages of a put of these pages; pages are filled when their message's turn comes.
pub fn messages(put: ShardPut, keys: impl AsRef<[PageKey]>) -> impl Iterator<Item = wire::PutRequest> {
    let pages = (PIECES_BYTES_MAX / put.shard_bytes).clamp(1, PIECES_PER_MESSAGE_MAX);
    let pieces_per_message = if put.apart || put.shard_bytes > PIECES_BYTES_MAX { 1 } else { PIECES_PER_MESSAGE_MAX };
    let header = put.header(keys.as_ref());
    let pieces = (0..keys.as_ref().len()).step_by(pages).flat_map(move |first| {
        let keys = keys.as_ref();
        let pieces = put.pieces(first, &keys[first..(first + pages).min(keys.len())]);
        let message = |pieces: &[wire::Piece]| {
            let pieces = wire::Pieces { pieces: pieces.to_vec() };
            wire::PutRequest { kind: Some(wire::put_request::Kind::Pieces(pieces)) }
        };
        pieces.chunks(pieces_per_message).map(message).collect::<Vec<_>>()
    });
    std::iter::once(header).chain(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Gather;

    fn sent(put: ShardPut, keys: &[PageKey]) -> Vec<Vec<wire::Piece>> {
        let pieces = messages(put, keys).filter_map(|message| match message.kind? {
            wire::put_request::Kind::Header(_) => None,
            wire::put_request::Kind::Pieces(pieces) => Some(pieces.pieces),
        });
        pieces.collect()
    }

    /// Whether what was put is what a get would find right.
    fn comes_back(put: &ShardPut, keys: &[PageKey], sent: Vec<Vec<wire::Piece>>) {
        let mut gather = Gather::new(keys, [(put.shard, put.shard_bytes as u64)]);
        for pieces in sent {
            gather.add(wire::GetResponse { pieces, ends: Vec::new() }).unwrap();
        }
        for index in 0..keys.len() as u32 {
            let end = wire::PageEnd { index, hit: true, tier: 1, ..wire::PageEnd::default() };
            gather.add(wire::GetResponse { pieces: Vec::new(), ends: vec![end] }).unwrap();
        }
        assert!(gather.pages().iter().all(|page| page.shards == Ok(vec![put.nonce])));
    }

    #[test]
    fn what_is_put_is_what_a_get_finds_right() {
        let keys: Vec<PageKey> = (0..300u64).map(|number| PageKey::opaque(&number.to_le_bytes())).collect();
        let small = ShardPut::whole(1, (2, 4096), None, 7);
        let messages = sent(small.clone(), &keys);
        assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [256, 44], "1 MiB a message");
        comes_back(&small, &keys, messages);

        let large = ShardPut::whole(1, (0, 5 << 19), None, 7);
        let messages = sent(large.clone(), &keys[..2]);
        assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [1; 6], "two of 2.5 MiB");
        comes_back(&large, &keys[..2], messages);

        let apart = ShardPut { piece_bytes: 1000, apart: true, ..small };
        let messages = sent(apart.clone(), &keys[..2]);
        assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [1; 10]);
        comes_back(&apart, &keys[..2], messages);
    }
}
