//! A snapshot: the whole state in pieces of about 1 MiB, each with a kind and the format version of the state's feature
//! level.
//!
//! ```text
//! piece   version u8 · kind u8 · fields
//! head    settings, revision, tick, feature level, digest of the whole state, what the version has at its end
//! then the pieces of members, agents, room, pages, page files: see members.rs, and pieces.rs of each other owner
//! end
//! ```
//! In this order. The digest is checked against what was restored.

use std::fmt;

use bytes::{Bytes, BytesMut};
use foreword_proto::Revision;
use foreword_proto::versions::trailer;

use super::State;
use super::codec::record;
use super::command::ClusterSettings;
use super::pieces::{PieceKind, piece};

/// What is of no owner, and the digest.
pub(super) struct Head {
    pub(super) settings: ClusterSettings,
    pub(super) revision: Revision,
    pub(super) tick_ms: u64,
    pub(super) feature_level: u32,
    pub(super) digest: u64,
}

record!(Head { settings, revision, tick_ms, feature_level, digest });

/// The pieces of a snapshot, in order.
pub struct Chunks {
    version: u32,
    pieces: Box<dyn Iterator<Item = BytesMut> + Send>,
}

impl Chunks {
    pub(super) fn new(state: State) -> Self {
        let digest = state.digest();
        let State { settings, revision, tick_ms, feature_level, pages, room, agents, hf3fs, members, term: _ } = state;
        let mut head = piece(PieceKind::Head, Head { settings, revision, tick_ms, feature_level, digest });
        head.extend_from_slice(trailer(feature_level));
        let pieces = std::iter::once(head)
            .chain(members.into_pieces())
            .chain(agents.into_pieces())
            .chain(room.into_pieces())
            .chain(pages.into_pieces())
            .chain(hf3fs.into_pieces())
            .chain(std::iter::once(piece(PieceKind::End, ())));
        Self { version: feature_level, pieces: Box::new(pieces) }
    }
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chunks")
    }
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut piece = self.pieces.next()?;
        piece[0] = self.version as u8;
        Some(piece.freeze())
    }
}
