//! What the pieces of a snapshot are made of.

use bytes::BytesMut;

use super::codec::{Encode, Sink};

/// A piece ends with the item that reaches this size.
const PIECE_BYTES: usize = 1 << 20;

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
}

impl PieceKind {
    const ALL: [Self; 18] = [
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
    ];

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Stands where [`super::Chunks`] puts the version.
const NO_VERSION: u8 = 0;

/// A piece of a single record.
pub(super) fn piece(kind: PieceKind, record: impl Encode) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put(&[NO_VERSION, kind as u8]);
    record.encode(&mut out);
    out
}

/// Records in pieces of about 1 MiB, each with `head`, a count and as many records as fit. None for no record at all.
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
        while out.len() < PIECE_BYTES
            && let Some(record) = records.next()
        {
            record.encode(&mut out);
            count += 1;
        }
        out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
        Some(out)
    })
}
