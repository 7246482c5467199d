//! A put's pages as messages.

use bytes::BytesMut;
use foreword_proto::limits::PIECES_BYTES_MAX;
use foreword_proto::wire::node as wire;

use super::Shards;

/// Pieces of one message at most: tiny pieces cost more than their bytes.
const PIECES_PER_MESSAGE_MAX: usize = 2048;

/// The messages with the bytes of some pages of a call, each copied from its place when its turn comes.
pub(super) struct Messages<'a> {
    shards: Shards<'a>,
    /// Which pages of the call; the first key of what is sent is page `begins` of it.
    pages: &'a [usize],
    begins: usize,
    /// The next byte: of which of the pages, and where in it.
    at: (usize, usize),
}

impl<'a> Messages<'a> {
    pub(super) fn new(shards: Shards<'a>, pages: &'a [usize], begins: usize) -> Self {
        Self { shards, pages, begins, at: (0, 0) }
    }
}

impl Iterator for Messages<'_> {
    type Item = wire::PutRequest;

    fn next(&mut self) -> Option<wire::PutRequest> {
        let whole = self.shards.shard_bytes;
        let left = (self.pages.len() - self.at.0) * whole - self.at.1;
        let mut bytes = BytesMut::with_capacity(left.min(PIECES_BYTES_MAX));
        let mut runs = Vec::new();
        while self.at.0 < self.pages.len() && bytes.len() < PIECES_BYTES_MAX && runs.len() < PIECES_PER_MESSAGE_MAX {
            let (page, offset) = (self.pages[self.at.0], self.at.1);
            let len = (whole - offset).min(PIECES_BYTES_MAX - bytes.len());
            self.shards.places.append(self.shards.first + page, offset, len, &mut bytes);
            runs.push((page - self.begins, offset, len));
            self.at = if offset + len == whole { (self.at.0 + 1, 0) } else { (self.at.0, offset + len) };
        }
        if runs.is_empty() {
            return None;
        }
        let (bytes, shard) = (bytes.freeze(), self.shards.shard);
        let mut start = 0;
        let pieces = runs.into_iter().map(|(index, offset, len)| {
            start += len;
            wire::Piece { index: index as u32, shard, offset: offset as u64, data: bytes.slice(start - len..start) }
        });
        let pieces = wire::Pieces { pieces: pieces.collect() };
        Some(wire::PutRequest { kind: Some(wire::put_request::Kind::Pieces(pieces)) })
    }
}
