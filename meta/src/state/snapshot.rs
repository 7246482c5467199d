//! A snapshot: the whole state in pieces of about 1 MiB, each with the format's version and a kind.
//!
//! ```text
//! piece       version u8 · kind u8 · fields
//! head        settings, revision, tick, counters, digest of the whole state
//! namespaces  count, then each: namespace, epoch, table, pages
//! classes     count, then each: slot_bytes, last_granted; count, then each slab: id, slot_bytes, slots
//! sessions    count, then each: id, node, incarnation, endpoint, opened, suspicions, limited, window
//! slots       slab, count, then each slot that was ever granted: slot, generation, kind, word
//! waiting     rests, suspicions, garbage
//! entries     shards, count, then each: table, key, slot, a checksum a shard
//! page files, pages: see hf3fs/pieces.rs; none where there is no page file
//! end
//! ```
//! In this order. The digest is checked against what was restored.

use bytes::{BufMut, Bytes, BytesMut};

use super::State;
use super::codec::put_namespace;
use super::hf3fs::Cursor;
use super::index::BUCKETS;
use super::sessions::Session;
use foreword_proto::{NamespaceId, SessionId, SlabId, Slot};

/// Version of the snapshot format. It also stands for what the format takes as given: the number of buckets.
pub const SNAPSHOT_VERSION: u8 = 1;
/// A piece ends with the item that reaches this size.
pub(super) const PIECE_BYTES: usize = 1 << 20;

pub(super) mod kind {
    pub(in crate::state) const HEAD: u8 = 1;
    pub(in crate::state) const NAMESPACES: u8 = 2;
    pub(in crate::state) const CLASSES: u8 = 3;
    pub(in crate::state) const SESSIONS: u8 = 4;
    pub(in crate::state) const SLOTS: u8 = 5;
    pub(in crate::state) const WAITING: u8 = 6;
    pub(in crate::state) const ENTRIES: u8 = 7;
    pub(in crate::state) const END: u8 = 8;
    pub(in crate::state) const PAGE_FILES: u8 = 9;
    pub(in crate::state) const PAGES: u8 = 10;
}

/// Bytes of one slot's record.
pub(super) const SLOT_BYTES: usize = 17;

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum Next {
    Head,
    Namespaces(NamespaceId),
    Classes,
    Sessions(SessionId),
    Slots { slab: SlabId, from: Slot },
    Waiting,
    Entries { shards: usize, bucket: usize },
    PageFiles(usize),
    Pages(Cursor),
    End,
    Nothing,
}

/// The pieces of a snapshot, in order.
#[derive(Debug)]
pub struct Chunks {
    state: State,
    next: Next,
}

impl Chunks {
    pub(super) fn new(state: State) -> Self {
        Self { state, next: Next::Head }
    }

    fn head(&self) -> BytesMut {
        let state = &self.state;
        let mut out = piece(kind::HEAD);
        out.put_u32_le(state.settings.chunk_bytes);
        for number in [
            state.settings.slab_bytes,
            state.settings.l3_bytes,
            state.settings.read_rest_ms,
            state.settings.write_rest_ms,
            state.settings.lease_ms,
            state.revision,
            state.tick_ms,
            state.slots.slots_reused,
            state.sessions.next,
            state.digest(),
        ] {
            out.put_u64_le(number);
        }
        for number in [state.feature_level, state.next_table, state.slots.next_slab] {
            out.put_u32_le(number);
        }
        out
    }

    fn namespaces(&self, from: NamespaceId) -> (BytesMut, Next) {
        let mut out = piece(kind::NAMESPACES);
        let count_at = reserve_count(&mut out);
        let mut count = 0;
        for info in self.state.namespaces().skip(from as usize) {
            put_namespace(&mut out, &info.namespace);
            out.put_u32_le(info.epoch);
            out.put_u32_le(info.table);
            out.put_u64_le(info.pages);
            count += 1;
            if out.len() >= PIECE_BYTES {
                break;
            }
        }
        set_count(&mut out, count_at, count);
        let seen = from + count;
        let more = (seen as usize) < self.state.namespaces.len();
        (out, if more { Next::Namespaces(seen) } else { Next::Classes })
    }

    fn classes(&self) -> BytesMut {
        let mut out = piece(kind::CLASSES);
        out.put_u32_le(self.state.slots.classes.len() as u32);
        for (slot_bytes, class) in &self.state.slots.classes {
            out.put_u64_le(*slot_bytes);
            out.put_u32_le(class.last_granted);
        }
        out.put_u32_le(self.state.slots.slabs.len() as u32);
        for (id, slab) in &self.state.slots.slabs {
            out.put_u32_le(*id);
            out.put_u64_le(slab.slot_bytes);
            out.put_u32_le(slab.slots);
        }
        out
    }

    fn sessions(&self, from: SessionId) -> (BytesMut, Next) {
        let mut out = piece(kind::SESSIONS);
        let count_at = reserve_count(&mut out);
        let mut count = 0;
        let mut next = Next::Slots { slab: 0, from: 0 };
        for (id, session) in self.state.sessions.open.range(from..) {
            if out.len() >= PIECE_BYTES {
                next = Next::Sessions(*id);
                break;
            }
            put_session(&mut out, *id, session);
            count += 1;
        }
        set_count(&mut out, count_at, count);
        (out, next)
    }

    /// The slots of one slab, or a part of them. None when no slab is left.
    fn slots(&mut self, slab: SlabId, from: Slot) -> Option<(BytesMut, Next)> {
        let (slab, table) = self.state.slots.slabs.range(slab..).next().map(|(id, table)| (*id, table))?;
        let mut out = piece(kind::SLOTS);
        out.put_u32_le(slab);
        let count_at = reserve_count(&mut out);
        let mut count = 0;
        let mut left = None;
        for (slot, generation, used) in table.iter_from(from) {
            if out.len() >= PIECE_BYTES {
                left = Some(slot);
                break;
            }
            out.put_u32_le(slot);
            out.put_u32_le(generation);
            out.put_u8(used.kind());
            out.put_u64_le(used.word());
            count += 1;
        }
        set_count(&mut out, count_at, count);
        if left.is_none() {
            self.state.slots.slabs.remove(&slab);
        }
        Some((out, Next::Slots { slab, from: left.unwrap_or(0) }))
    }

    fn waiting(&self) -> BytesMut {
        let mut out = piece(kind::WAITING);
        for queue in [&self.state.rests.read, &self.state.rests.write] {
            out.put_u32_le(queue.len() as u32);
            for rest in queue {
                out.put_u64_le(rest.due_ms);
                out.put_u32_le(rest.slab);
                out.put_u32_le(rest.slot);
            }
        }
        out.put_u32_le(self.state.suspicions.len() as u32);
        for ((namespace, key), suspicion) in self.state.suspicions.iter() {
            out.put_u32_le(namespace);
            out.put_slice(&key.0);
            out.put_u64_le(suspicion.session);
            out.put_u64_le(suspicion.since_ms);
        }
        out.put_u32_le(self.state.garbage.len() as u32);
        for garbage in &self.state.garbage {
            out.put_u32_le(garbage.table);
            out.put_u32_le(garbage.shards as u32);
            out.put_u32_le(garbage.bucket as u32);
            out.put_u64_le(garbage.entries);
        }
        out
    }

    /// Entries of one number of shards, as many whole buckets as fit. None when no group is left.
    fn entries(&mut self, shards: usize, from: usize) -> Option<(BytesMut, Next)> {
        let shards = self.state.index.groups().find(|group| *group >= shards)?;
        let mut out = piece(kind::ENTRIES);
        out.put_u32_le(shards as u32);
        let count_at = reserve_count(&mut out);
        let mut count = 0;
        let mut bucket = from;
        while bucket < BUCKETS && out.len() < PIECE_BYTES {
            for (entry, location) in self.state.index.bucket(shards, bucket) {
                out.put_u32_le(entry.table);
                out.put_slice(&entry.key.0);
                location.put(&mut out);
                count += 1;
            }
            self.state.index.release_bucket(shards, bucket);
            bucket += 1;
        }
        set_count(&mut out, count_at, count);
        let done = bucket == BUCKETS;
        let next = Next::Entries { shards: shards + usize::from(done), bucket: if done { 0 } else { bucket } };
        Some((out, next))
    }
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let (out, next) = match self.next {
                Next::Head => (Some(self.head()), Next::Namespaces(0)),
                Next::Namespaces(from) => some_piece(self.namespaces(from)),
                Next::Classes => (Some(self.classes()), Next::Sessions(0)),
                Next::Sessions(from) => some_piece(self.sessions(from)),
                Next::Slots { slab, from } => self.slots(slab, from).map_or((None, Next::Waiting), some_piece),
                Next::Waiting => (Some(self.waiting()), Next::Entries { shards: 0, bucket: 0 }),
                Next::Entries { shards, bucket } => {
                    self.entries(shards, bucket).map_or((None, Next::PageFiles(0)), some_piece)
                }
                Next::PageFiles(from) => match self.state.hf3fs.heads_piece(from) {
                    Some((out, from)) => (Some(out), Next::PageFiles(from)),
                    None => (None, Next::Pages(Cursor::default())),
                },
                Next::Pages(at) => match self.state.hf3fs.pages_piece(at) {
                    Some((out, at)) => (Some(out), Next::Pages(at)),
                    None => (None, Next::End),
                },
                Next::End => (Some(piece(kind::END)), Next::Nothing),
                Next::Nothing => return None,
            };
            self.next = next;
            if let Some(out) = out {
                return Some(out.freeze());
            }
        }
    }
}

fn some_piece((out, next): (BytesMut, Next)) -> (Option<BytesMut>, Next) {
    (Some(out), next)
}

/// A piece of a kind, without its fields.
pub(super) fn piece(kind: u8) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(SNAPSHOT_VERSION);
    out.put_u8(kind);
    out
}

/// Leaves room for a count that is known later.
pub(super) fn reserve_count(out: &mut BytesMut) -> usize {
    out.put_u32_le(0);
    out.len() - 4
}

/// Sets a count where room was left for it.
pub(super) fn set_count(out: &mut BytesMut, at: usize, count: u32) {
    out[at..at + 4].copy_from_slice(&count.to_le_bytes());
}

fn put_text(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn put_session(out: &mut BytesMut, id: SessionId, session: &Session) {
    out.put_u64_le(id);
    put_text(out, session.node.as_bytes());
    out.put_u64_le(session.incarnation);
    put_text(out, session.endpoint.as_bytes());
    out.put_u64_le(session.opened_ms);
    out.put_u32_le(session.suspicions);
    out.put_u8(session.suspect_limited.into());
    out.put_u64_le(session.window.highest);
    out.put_u32_le(session.window.outcomes.len() as u32);
    for (sequence, outcome) in &session.window.outcomes {
        out.put_u64_le(*sequence);
        put_text(out, outcome);
    }
}
