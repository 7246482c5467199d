//! What the pieces of a snapshot are made of, and why each of them fits a frame of its file.
//!
//! A piece of many records ends with the record that reaches [`SNAPSHOT_PIECE_BYTES`]. So it is bounded whatever the
//! number of records, if one record is; [`PieceKind::record_bytes_max`] says how large that may be.

use bytes::BytesMut;
use foreword_proto::limits::{
    HF3FS_DEPLOYMENT_BYTES_MAX, HF3FS_FILES_MAX, HF3FS_POOL_BYTES_MAX, NAMESPACE_TEXT_BYTES_MAX, PAGES_PER_PUBLISH_MAX,
    SHARDS_MAX, SLOTS_PER_GRANT_MAX, SNAPSHOT_FRAME_BYTES_MAX, SNAPSHOT_PIECE_BYTES,
};

use super::codec::{Encode, Sink};

/// Numbers and keys of fixed size, of any record but an entry.
const FIXED_BYTES_MAX: usize = 256;
/// Texts of a namespace, its salt included.
const NAMESPACE_TEXTS: usize = 11;
const PAGE_FILE_BYTES_MAX: usize = FIXED_BYTES_MAX + HF3FS_DEPLOYMENT_BYTES_MAX + HF3FS_POOL_BYTES_MAX;
/// Of a grant, and of a publish of pages that all exist.
const GRANTED_BYTES_MAX: usize = 12 * SLOTS_PER_GRANT_MAX as usize;
const PUBLISHED_BYTES_MAX: usize = PAGES_PER_PUBLISH_MAX * (1 + 12 + 8 * SHARDS_MAX);

/// Kinds of pieces. The number of one that is gone is never given out again: 3 and 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum PieceKind {
    Head = 1,
    Namespaces = 2,
    Sessions = 4,
    Slots = 5,
    Entries = 7,
    End = 8,
    PageFiles = 9,
    Pages = 10,
    Agents = 11,
    Suspicions = 12,
    Room = 13,
    Classes = 14,
    Slabs = 15,
    Rests = 16,
    Index = 17,
    Garbage = 18,
    Members = 19,
    PageFileNumbers = 20,
    Outcomes = 21,
}

impl PieceKind {
    const ALL: [Self; 19] = [
        Self::Head,
        Self::Namespaces,
        Self::Sessions,
        Self::Slots,
        Self::Entries,
        Self::End,
        Self::PageFiles,
        Self::Pages,
        Self::Agents,
        Self::Suspicions,
        Self::Room,
        Self::Classes,
        Self::Slabs,
        Self::Rests,
        Self::Index,
        Self::Garbage,
        Self::Members,
        Self::PageFileNumbers,
        Self::Outcomes,
    ];

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Bytes of its largest record, or more.
    const fn record_bytes_max(self) -> usize {
        match self {
            Self::Head
            | Self::Agents
            | Self::Room
            | Self::Index
            | Self::End
            | Self::Members
            | Self::Suspicions
            | Self::Classes
            | Self::Slabs
            | Self::Slots
            | Self::Rests
            | Self::Garbage
            | Self::Pages => FIXED_BYTES_MAX,
            Self::Namespaces => FIXED_BYTES_MAX + NAMESPACE_TEXTS * NAMESPACE_TEXT_BYTES_MAX + 8 * SHARDS_MAX,
            Self::Sessions => FIXED_BYTES_MAX + 2 * NAMESPACE_TEXT_BYTES_MAX,
            Self::Outcomes => FIXED_BYTES_MAX + larger(GRANTED_BYTES_MAX, PUBLISHED_BYTES_MAX),
            Self::Entries => FIXED_BYTES_MAX + 8 * SHARDS_MAX,
            Self::PageFiles => PAGE_FILE_BYTES_MAX,
            Self::PageFileNumbers => FIXED_BYTES_MAX + HF3FS_FILES_MAX * PAGE_FILE_BYTES_MAX,
        }
    }
}

const fn larger(one: usize, other: usize) -> usize {
    if one > other { one } else { other }
}

const _: () = {
    let mut at = 0;
    while at < PieceKind::ALL.len() {
        let record = PieceKind::ALL[at].record_bytes_max();
        assert!(SNAPSHOT_PIECE_BYTES + FIXED_BYTES_MAX + record <= SNAPSHOT_FRAME_BYTES_MAX);
        at += 1;
    }
};

/// Stands where [`super::Chunks`] puts the version.
const NO_VERSION: u8 = 0;

/// A piece of a single record.
pub(super) fn piece(kind: PieceKind, record: impl Encode) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put(&[NO_VERSION, kind as u8]);
    record.encode(&mut out);
    debug_assert!(out.len() <= 2 + kind.record_bytes_max(), "{kind:?}: {} bytes", out.len());
    out
}

/// Records in pieces of [`SNAPSHOT_PIECE_BYTES`] and at most one record more, each with `head`, a count and as many
/// records as fit. None for no record at all.
pub(super) fn pieces<R: Encode>(
    kind: PieceKind,
    head: impl Encode,
    records: impl Iterator<Item = R>,
) -> impl Iterator<Item = BytesMut> {
    let mut records = records.peekable();
    std::iter::from_fn(move || {
        records.peek()?;
        let mut out = BytesMut::with_capacity(4096);
        out.put(&[NO_VERSION, kind as u8]);
        head.encode(&mut out);
        let count_at = out.len();
        let mut count = 0u32;
        count.encode(&mut out);
        while out.len() < SNAPSHOT_PIECE_BYTES
            && let Some(record) = records.next()
        {
            let before = out.len();
            record.encode(&mut out);
            debug_assert!(out.len() - before <= kind.record_bytes_max(), "{kind:?}: {} bytes", out.len() - before);
            count += 1;
        }
        out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
        Some(out)
    })
}
