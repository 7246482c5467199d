//! Puts together what a get gives, and verifies it.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use foreword_proto::wire::node as wire;
use foreword_proto::workload::page;
use foreword_proto::{PageKey, Revision};

/// One page of a get's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GotPage {
    pub hit: bool,
    pub tier: wire::Tier,
    pub revision: Revision,
    /// Of a miss.
    pub reason: String,
    /// Of a hit, the writer's nonce in each shard that was asked for; or what is wrong with the page's bytes.
    pub shards: Result<Vec<u64>, String>,
}

/// The answer of one get, as it comes.
pub struct Gather<'a> {
    keys: &'a [PageKey],
    /// The shards that were asked for, by number, and their bytes.
    shards: Vec<(u32, u64)>,
    parts: BTreeMap<(u32, u32), Part>,
    /// The first piece of a page that is not where it belongs.
    misplaced: BTreeMap<u32, String>,
    pages: Vec<GotPage>,
}

/// A shard as far as it has come: its pieces by their offsets, in whatever order they came, none over another.
#[derive(Default)]
struct Part(BTreeMap<u64, Bytes>);

impl Part {
    /// False: the piece lies over another one.
    fn add(&mut self, offset: u64, piece: Bytes) -> bool {
        let end = offset + piece.len() as u64;
        let before = self.0.range(..end).next_back().map_or(0, |(start, bytes)| start + bytes.len() as u64);
        if before > offset {
            return false;
        }
        self.0.insert(offset, piece);
        true
    }

    /// All bytes up to the first that is missing; a single piece is not copied.
    fn bytes(&self) -> Bytes {
        if let (1, Some(whole)) = (self.0.len(), self.0.get(&0)) {
            return whole.clone();
        }
        let mut bytes = BytesMut::new();
        for (offset, piece) in &self.0 {
            if *offset != bytes.len() as u64 {
                break;
            }
            bytes.extend_from_slice(piece);
        }
        bytes.freeze()
    }
}

impl<'a> Gather<'a> {
    /// Of a get of these keys. `shards`: number and bytes of each that was asked for.
    pub fn new(keys: &'a [PageKey], shards: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let shards = shards.into_iter().collect();
        Self { keys, shards, parts: BTreeMap::new(), misplaced: BTreeMap::new(), pages: Vec::new() }
    }

    /// One message of the stream.
    ///
    /// Errors: it names a page that was not asked for, or not in turn.
    pub fn add(&mut self, message: wire::GetResponse) -> Result<(), String> {
        for piece in message.pieces {
            self.piece(piece);
        }
        message.ends.into_iter().try_for_each(|end| self.end(end))
    }

    /// The pages of which the agent said how they ended: the leading ones, in order.
    pub fn pages(self) -> Vec<GotPage> {
        self.pages
    }

    fn piece(&mut self, piece: wire::Piece) {
        let place = (piece.index, piece.shard);
        let room = self.shards.iter().find(|(shard, _)| *shard == piece.shard).map_or(0, |(_, bytes)| *bytes);
        let fits = piece.offset.checked_add(piece.data.len() as u64).is_some_and(|end| end <= room);
        let (offset, len) = (piece.offset, piece.data.len());
        if !fits || !self.parts.entry(place).or_default().add(offset, piece.data) {
            let wrong = || format!("shard {} byte {offset}: a piece of {len}", piece.shard);
            self.misplaced.entry(piece.index).or_insert_with(wrong);
        }
    }

    fn end(&mut self, end: wire::PageEnd) -> Result<(), String> {
        let next = self.pages.len();
        let Some(key) = self.keys.get(next).filter(|_| end.index as usize == next) else {
            return Err(format!("page {} is not the next one, {next}", end.index));
        };
        let tier = end.tier();
        let shards = if end.hit { self.verified(end.index, key) } else { Ok(Vec::new()) };
        let gone: Vec<(u32, u32)> =
            self.parts.range((end.index, 0)..=(end.index, u32::MAX)).map(|(at, _)| *at).collect();
        gone.iter().for_each(|place| _ = self.parts.remove(place));
        self.pages.push(GotPage { hit: end.hit, tier, revision: end.revision, reason: end.reason, shards });
        Ok(())
    }

    fn verified(&self, index: u32, key: &PageKey) -> Result<Vec<u64>, String> {
        if let Some(wrong) = self.misplaced.get(&index) {
            return Err(wrong.clone());
        }
        let nonces = self.shards.iter().map(|(shard, expected)| {
            let bytes = self.parts.get(&(index, *shard)).map(Part::bytes).unwrap_or_default();
            if bytes.len() as u64 != *expected {
                return Err(format!("shard {shard} byte {}: {expected} bytes were expected", bytes.len()));
            }
            page::verify(&bytes, key, *shard).map_err(|mismatch| format!("shard {shard} byte {}", mismatch.offset))
        });
        nonces.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 0x0003_0001_0000_0002;

    fn piece(index: u32, offset: u64, data: &[u8]) -> wire::Piece {
        wire::Piece { index, shard: 0, offset, data: Bytes::copy_from_slice(data) }
    }

    fn end(index: u32, hit: bool) -> wire::PageEnd {
        wire::PageEnd { index, hit, tier: 3, reason: String::new(), revision: 9 }
    }

    fn page_of(key: &PageKey) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        page::fill(&mut bytes, key, 0, NONCE);
        bytes
    }

    /// What comes of one page that arrives in these pieces.
    fn gathered(pieces: impl Fn(&mut Vec<u8>) -> Vec<wire::Piece>) -> Result<Vec<u64>, String> {
        let keys = [PageKey::opaque(b"gathered")];
        let mut gather = Gather::new(&keys, [(0, 4096)]);
        let pieces = pieces(&mut page_of(&keys[0]));
        gather.add(wire::GetResponse { pieces, ends: vec![end(0, true)] }).unwrap();
        gather.pages().remove(0).shards
    }

    #[test]
    fn right_bytes_pass_in_any_number_of_pieces() {
        assert_eq!(gathered(|bytes| vec![piece(0, 0, bytes)]), Ok(vec![NONCE]));
        let halves = gathered(|bytes| vec![piece(0, 0, &bytes[..1000]), piece(0, 1000, &bytes[1000..])]);
        assert_eq!(halves, Ok(vec![NONCE]));
        let turned = gathered(|bytes| vec![piece(0, 1000, &bytes[1000..]), piece(0, 0, &bytes[..1000])]);
        assert_eq!(turned, Ok(vec![NONCE]), "nobody promises their order");
    }

    #[test]
    fn a_flipped_a_missing_and_a_misplaced_byte_are_named() {
        let flipped = gathered(|bytes| {
            bytes[77] ^= 1;
            vec![piece(0, 0, bytes)]
        });
        assert_eq!(flipped, Err("shard 0 byte 77".to_owned()));
        assert!(gathered(|bytes| vec![piece(0, 0, &bytes[..4095])]).unwrap_err().contains("byte 4095"));
        assert!(gathered(|bytes| vec![piece(0, 8, &bytes[8..])]).unwrap_err().contains("byte 0"));
        assert!(gathered(|bytes| vec![piece(0, 8, bytes)]).unwrap_err().contains("a piece of 4096"));
        let twice = gathered(|bytes| vec![piece(0, 0, &bytes[..3000]), piece(0, 1000, &bytes[1000..])]);
        assert!(twice.unwrap_err().contains("byte 1000: a piece of 3096"));
        assert!(gathered(|_| Vec::new()).unwrap_err().contains("byte 0"));
    }

    #[test]
    fn pages_end_in_the_order_in_which_they_were_asked_for() {
        let keys = [PageKey::opaque(b"a"), PageKey::opaque(b"b")];
        let mut gather = Gather::new(&keys, [(0, 4096)]);
        let ends = |ends| wire::GetResponse { pieces: Vec::new(), ends };
        assert!(gather.add(ends(vec![end(1, false)])).is_err());
        gather.add(ends(vec![end(0, false), end(1, false)])).unwrap();
        assert!(gather.add(ends(vec![end(2, false)])).is_err());
        assert_eq!(gather.pages().len(), 2);
    }
}
