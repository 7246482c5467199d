//! Pages cut into the messages of a get stream: many small pages a message, a large page over several.

use std::mem;

use bytes::Bytes;
use foreword_proto::limits::PIECES_BYTES_MAX;
use foreword_proto::namespace::Geometry;
use foreword_proto::wire::node as wire;

use crate::api::{PageAnswer, PageBytes};

/// Pages' ends of one message: misses take no bytes and must not grow a message without end.
const ENDS_MAX: usize = 1024;

/// Lets a message refer to a frame's bytes: the frame and its room are free when the message has been sent.
struct Owned(PageBytes);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.0.frame.bytes()
    }
}

/// Fills messages up to [`PIECES_BYTES_MAX`] bytes of pages.
#[derive(Default)]
pub(super) struct Packer {
    message: wire::GetResponse,
    bytes: usize,
}

impl Packer {
    /// Adds a page's answer; gives the messages that are full by that.
    pub(super) fn add(&mut self, geometry: &Geometry, shards: &[u32], answer: PageAnswer) -> Vec<wire::GetResponse> {
        let mut full = Vec::new();
        let index = answer.index as u32;
        let mut end = wire::PageEnd { index, revision: answer.revision, ..Default::default() };
        match answer.page {
            Ok((page, tier)) => {
                end.hit = true;
                end.set_tier(tier.into());
                let bytes = Bytes::from_owner(Owned(page));
                for shard in shards {
                    let range = geometry.shard_range(*shard as usize);
                    self.add_shard(index, *shard, bytes.slice(range), &mut full);
                }
            }
            Err(miss) => end.reason = miss.word().to_owned(),
        }
        self.message.ends.push(end);
        if self.message.ends.len() >= ENDS_MAX {
            full.extend(self.flush());
        }
        full
    }

    fn add_shard(&mut self, index: u32, shard: u32, bytes: Bytes, full: &mut Vec<wire::GetResponse>) {
        let mut offset = 0;
        while offset < bytes.len() {
            if self.bytes == PIECES_BYTES_MAX {
                full.extend(self.flush());
            }
            let len = (bytes.len() - offset).min(PIECES_BYTES_MAX - self.bytes);
            let data = bytes.slice(offset..offset + len);
            self.message.pieces.push(wire::Piece { index, shard, offset: offset as u64, data });
            self.bytes += len;
            offset += len;
        }
    }

    /// The message so far, if there is anything in it.
    pub(super) fn flush(&mut self) -> Option<wire::GetResponse> {
        self.bytes = 0;
        let message = mem::take(&mut self.message);
        (!message.pieces.is_empty() || !message.ends.is_empty()).then_some(message)
    }
}
