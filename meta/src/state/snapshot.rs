//! A snapshot: the whole state in pieces of about 1 MiB, each with the format's version and a kind.
//!
//! ```text
//! piece   version u8 · kind u8 · fields
//! head    settings, revision, tick, feature level, digest of the whole state
//! then the pieces of agents, room, pages, page files: see pieces.rs of each owner
//! end
//! ```
//! In this order. The digest is checked against what was restored.

use std::fmt;

use bytes::Bytes;
use foreword_proto::Revision;

use super::State;
use super::codec::record;
use super::command::ClusterSettings;
use super::pieces::{PieceKind, piece};

/// Version of the snapshot format. It also stands for what the format takes as given: the number of buckets.
pub const SNAPSHOT_VERSION: u8 = 1;

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
pub struct Chunks(Box<dyn Iterator<Item = Bytes> + Send>);

impl Chunks {
    pub(super) fn new(state: State) -> Self {
        let digest = state.digest();
        let State { settings, revision, tick_ms, feature_level, pages, room, agents, hf3fs, term: _ } = state;
        let head = Head { settings, revision, tick_ms, feature_level, digest };
        let pieces = std::iter::once(piece(PieceKind::Head, head))
            .chain(agents.into_pieces())
            .chain(room.into_pieces())
            .chain(pages.into_pieces())
            .chain(hf3fs.into_pieces())
            .chain(std::iter::once(piece(PieceKind::End, ())));
        Self(Box::new(pieces))
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
        self.0.next()
    }
}
