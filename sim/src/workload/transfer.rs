//! Page bytes to and from an agent: what an engine's ranks send, and the check of every byte that comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foreword_proto::PageKey;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::node as wire;
use foreword_proto::workload::page;
use futures::StreamExt;
use futures::stream::{self, Stream};

use crate::history::GotPage;

/// What a writer leaves in each page: its namespace's place in the load, itself, and a count. A page of another namespace that
/// has the same key is told from the right one by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce {
    pub space: u16,
    pub client: u16,
    pub put: u32,
}

impl Nonce {
    /// As 64 bits.
    pub fn word(self) -> u64 {
        u64::from(self.space) << 48 | u64::from(self.client) << 32 | u64::from(self.put)
    }

    /// From 64 bits.
    pub fn from_word(word: u64) -> Self {
        Self { space: (word >> 48) as u16, client: (word >> 32) as u16, put: word as u32 }
    }
}

/// Puts together what a get gives, and verifies it.
pub(super) struct Gather<'a> {
    pub(super) keys: &'a [PageKey],
    pub(super) shard_bytes: &'a [u64],
    pub(super) space: u16,
    parts: BTreeMap<(u32, u32), BytesMut>,
    /// The first piece of a page that is not where it belongs.
    misplaced: BTreeMap<u32, String>,
    pub(super) pages: Vec<GotPage>,
}

impl<'a> Gather<'a> {
    pub(super) fn new(keys: &'a [PageKey], shard_bytes: &'a [u64], space: u16) -> Self {
        Self { keys, shard_bytes, space, parts: BTreeMap::new(), misplaced: BTreeMap::new(), pages: Vec::new() }
    }

    /// One message of the stream. Err: it names a page that was not asked for, or not in turn.
    pub(super) fn add(&mut self, message: wire::GetResponse) -> Result<(), String> {
        for piece in &message.pieces {
            self.piece(piece);
        }
        message.ends.iter().try_for_each(|end| self.end(end))
    }

    fn piece(&mut self, piece: &wire::Piece) {
        let part = self.parts.entry((piece.index, piece.shard)).or_default();
        let room = self.shard_bytes.get(piece.shard as usize).copied().unwrap_or(0);
        let fits = part.len() as u64 == piece.offset && piece.offset + piece.data.len() as u64 <= room;
        if fits {
            part.extend_from_slice(&piece.data);
        } else {
            let wrong = || format!("shard {} byte {}: a piece of {}", piece.shard, piece.offset, piece.data.len());
            self.misplaced.entry(piece.index).or_insert_with(wrong);
        }
    }

    fn end(&mut self, end: &wire::PageEnd) -> Result<(), String> {
        let Some(key) = self.keys.get(end.index as usize).filter(|_| end.index as usize == self.pages.len()) else {
            return Err(format!("page {} is not the next one, {}", end.index, self.pages.len()));
        };
        let shards = if end.hit { self.verified(end.index, key) } else { Ok(Vec::new()) };
        self.parts.retain(|(index, _), _| *index != end.index);
        self.pages.push(GotPage {
            key: *key,
            hit: end.hit,
            tier: if end.hit { end.tier as u8 } else { 0 },
            revision: end.revision,
            reason: end.reason.clone(),
            shards,
        });
        Ok(())
    }

    fn verified(&self, index: u32, key: &PageKey) -> Result<Vec<u64>, String> {
        if let Some(wrong) = self.misplaced.get(&index) {
            return Err(wrong.clone());
        }
        let shards = self.shard_bytes.iter().enumerate();
        let nonces = shards.map(|(shard, expected)| {
            let bytes = self.parts.get(&(index, shard as u32)).map_or(&[][..], |part| part);
            if bytes.len() as u64 != *expected {
                return Err(format!("shard {shard} byte {}: {expected} bytes were expected", bytes.len()));
            }
            let nonce = page::verify(bytes, key, shard as u32)
                .map_err(|mismatch| format!("shard {shard} byte {}", mismatch.offset))?;
            match Nonce::from_word(nonce).space {
                space if space == self.space => Ok(nonce),
                other => Err(format!("shard {shard} byte 6: written in namespace {other} of the load")),
            }
        });
        nonces.collect()
    }
}

/// One shard of some pages, and how it is sent.
#[derive(Debug, Clone)]
pub(super) struct ShardPut {
    pub(super) namespace: u32,
    pub(super) shard: u32,
    pub(super) shard_bytes: usize,
    pub(super) keys: Vec<PageKey>,
    pub(super) parent: Option<PageKey>,
    pub(super) nonce: Nonce,
    pub(super) wait_published: bool,
    /// Bytes of one message.
    pub(super) piece_bytes: usize,
    /// Before the first message, and before each further one.
    pub(super) starts_after: Duration,
    pub(super) pause: Duration,
}

impl ShardPut {
    /// The messages of the call, as a rank sends them.
    pub(super) fn messages(self) -> impl Stream<Item = wire::PutRequest> + Send + 'static {
        let header = wire::PutHeader {
            namespace_id: self.namespace,
            shard: self.shard,
            keys: page_keys_to_wire(&self.keys),
            parent: self.parent.map(|key| Bytes::copy_from_slice(&key.0)).unwrap_or_default(),
            wait_published: self.wait_published,
        };
        let (first, pause) = (self.starts_after, self.pause);
        let header = (first, wire::PutRequest { kind: Some(wire::put_request::Kind::Header(header)) });
        let pieces = self.pieces().into_iter().map(move |piece| {
            let pieces = wire::Pieces { pieces: vec![piece] };
            (pause, wire::PutRequest { kind: Some(wire::put_request::Kind::Pieces(pieces)) })
        });
        stream::iter(std::iter::once(header).chain(pieces)).then(|(wait, message)| async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            message
        })
    }

    fn pieces(&self) -> Vec<wire::Piece> {
        let mut pieces = Vec::new();
        for (index, key) in self.keys.iter().enumerate() {
            let mut page = BytesMut::zeroed(self.shard_bytes);
            page::fill(&mut page, key, self.shard, self.nonce.word());
            let page = page.freeze();
            for offset in (0..self.shard_bytes).step_by(self.piece_bytes.max(1)) {
                let data = page.slice(offset..(offset + self.piece_bytes.max(1)).min(self.shard_bytes));
                pieces.push(wire::Piece { index: index as u32, shard: self.shard, offset: offset as u64, data });
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(key: &PageKey, space: u16, change: impl FnOnce(&mut Vec<u8>)) -> wire::GetResponse {
        let mut bytes = vec![0; 4096];
        page::fill(&mut bytes, key, 0, Nonce { space, client: 1, put: 2 }.word());
        change(&mut bytes);
        let pieces = vec![wire::Piece { index: 0, shard: 0, offset: 0, data: bytes.into() }];
        let end = wire::PageEnd { index: 0, hit: true, tier: 3, reason: String::new(), revision: 9 };
        wire::GetResponse { pieces, ends: vec![end] }
    }

    fn gathered(space: u16, change: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u64>, String> {
        let key = PageKey::opaque(b"gathered");
        let keys = [key];
        let mut gather = Gather::new(&keys, &[4096], 3);
        gather.add(answer(&key, space, change)).unwrap();
        gather.pages.remove(0).shards
    }

    #[test]
    fn right_bytes_pass_and_a_flipped_one_is_named() {
        assert_eq!(gathered(3, |_| {}), Ok(vec![Nonce { space: 3, client: 1, put: 2 }.word()]));
        assert_eq!(gathered(3, |bytes| bytes[77] ^= 1), Err("shard 0 byte 77".to_owned()));
    }

    #[test]
    fn a_page_of_another_namespace_or_length_does_not_pass() {
        assert!(gathered(4, |_| {}).unwrap_err().contains("namespace 4"));
        assert!(gathered(3, |bytes| bytes.truncate(4095)).unwrap_err().contains("byte 4095"));
    }
}
