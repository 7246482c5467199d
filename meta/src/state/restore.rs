//! Building a state from the pieces of a snapshot. Nothing in the input is trusted; the recorded digest decides at the end.

use std::sync::Arc;

use bytes::Bytes;
use foreword_proto::limits::{ENTRY_KEY_BYTES, SHARDS_MAX};
use foreword_proto::{EntryKey, SlotRef};

use super::codec::take_namespace;
use super::command::ClusterSettings;
use super::index::LocationRef;
use super::input::{DecodeError, Input};
use super::namespaces::NamespaceInfo;
use super::rests::Rest;
use super::sessions::Session;
use super::slab::{Slab, SlotUse};
use super::snapshot::{SLOT_BYTES, SNAPSHOT_VERSION, kind};
use super::suspicions::Suspicion;
use super::{Garbage, State, digest};

const WHAT: &str = "snapshot";

/// Why a snapshot is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It has no head or no end.
    #[error("snapshot: pieces are missing ({missing})")]
    Incomplete { missing: &'static str },
    /// What was restored is not what was written.
    #[error("snapshot: it records digest {recorded:016x}, what it holds has {restored:016x}")]
    Digest { recorded: u64, restored: u64 },
}

/// Takes the pieces of a snapshot in order.
#[derive(Debug, Default)]
pub struct Restorer {
    state: Option<State>,
    recorded: u64,
    ended: bool,
}

impl Restorer {
    /// A restorer without any piece yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece. After an error the restorer is of no more use.
    pub fn push(&mut self, mut piece: Bytes) -> Result<(), RestoreError> {
        let mut input = Input::new(&mut piece, WHAT);
        input.version(SNAPSHOT_VERSION)?;
        let found = input.u8()?;
        if found == kind::HEAD {
            let (state, recorded) = take_head(&mut input)?;
            (self.state, self.recorded) = (Some(state), recorded);
            return Ok(input.end()?);
        }
        let state = self.state.as_mut().ok_or(RestoreError::Incomplete { missing: "the head" })?;
        match found {
            kind::NAMESPACES => take_namespaces(state, &mut input)?,
            kind::CLASSES => take_classes(state, &mut input)?,
            kind::SESSIONS => take_sessions(state, &mut input)?,
            kind::SLOTS => take_slots(state, &mut input)?,
            kind::WAITING => take_waiting(state, &mut input)?,
            kind::ENTRIES => take_entries(state, &mut input)?,
            kind::PAGE_FILES => state.hf3fs.take_heads(&mut input)?,
            kind::PAGES => state.hf3fs.take_pages(state.tick_ms, &mut input)?,
            kind::END => self.ended = true,
            found => {
                let known = SNAPSHOT_VERSION.into();
                return Err(DecodeError::Kind { what: WHAT, found: found.into(), known }.into());
            }
        }
        Ok(input.end()?)
    }

    /// The state, if all pieces came and it has the recorded digest.
    pub fn finish(self) -> Result<State, RestoreError> {
        let state = self.state.ok_or(RestoreError::Incomplete { missing: "the head" })?;
        if !self.ended {
            return Err(RestoreError::Incomplete { missing: "the end" });
        }
        // The sums in it were built up from what was restored, piece by piece.
        let restored = state.digest();
        if restored != self.recorded {
            return Err(RestoreError::Digest { recorded: self.recorded, restored });
        }
        Ok(state)
    }
}

impl State {
    /// Restores a state from all pieces of a snapshot.
    pub fn restore<E: From<RestoreError>>(pieces: impl Iterator<Item = Result<Bytes, E>>) -> Result<Self, E> {
        let mut restorer = Restorer::new();
        for piece in pieces {
            restorer.push(piece?)?;
        }
        Ok(restorer.finish()?)
    }
}

fn take_head(input: &mut Input<'_>) -> Result<(State, u64), DecodeError> {
    let settings = ClusterSettings {
        chunk_bytes: input.u32()?,
        slab_bytes: input.u64()?,
        l3_bytes: input.u64()?,
        read_rest_ms: input.u64()?,
        write_rest_ms: input.u64()?,
        lease_ms: input.u64()?,
    };
    if settings.chunk_bytes == 0 {
        return Err(input.invalid("chunk_bytes is 0"));
    }
    let mut state = State::new(settings);
    state.revision = input.u64()?;
    state.tick_ms = input.u64()?;
    state.slots.slots_reused = input.u64()?;
    state.sessions.next = input.u64()?;
    let recorded = input.u64()?;
    state.feature_level = input.u32()?;
    state.next_table = input.u32()?;
    state.slots.next_slab = input.u32()?;
    Ok((state, recorded))
}

fn take_namespaces(state: &mut State, input: &mut Input<'_>) -> Result<(), DecodeError> {
    for _ in 0..input.count(16)? {
        let namespace = take_namespace(input)?;
        namespace.validate().map_err(|error| input.invalid(error.to_string()))?;
        let (epoch, table, pages) = (input.u32()?, input.u32()?, input.u64()?);
        let id = state.namespaces.next_id();
        let mut info = NamespaceInfo::new(id, namespace, state.settings.chunk_bytes, epoch, table);
        info.pages = pages;
        state.namespaces.add(info);
    }
    Ok(())
}

fn take_classes(state: &mut State, input: &mut Input<'_>) -> Result<(), DecodeError> {
    for _ in 0..input.count(12)? {
        let slot_bytes = input.u64()?;
        state.slots.classes.entry(slot_bytes).or_default().last_granted = input.u32()?;
    }
    for _ in 0..input.count(16)? {
        let (id, slot_bytes, slots) = (input.u32()?, input.u64()?, input.u32()?);
        let bytes = slot_bytes.checked_mul(slots.into()).and_then(|bytes| bytes.checked_add(state.slots.file_bytes));
        let Some(file_bytes) = bytes.filter(|_| slot_bytes > 0) else {
            return Err(input.invalid(format!("slab {id} has {slots} slots of {slot_bytes} bytes")));
        };
        state.slots.file_bytes = file_bytes;
        state.slots.classes.entry(slot_bytes).or_default().slabs.push(id);
        state.slots.slabs.insert(id, Slab::new(slot_bytes, slots));
    }
    Ok(())
}

fn take_sessions(state: &mut State, input: &mut Input<'_>) -> Result<(), DecodeError> {
    for _ in 0..input.count(40)? {
        let id = input.u64()?;
        let (node, incarnation, endpoint) = (input.text()?, input.u64()?, input.text()?);
        let mut session = Session::new(node, incarnation, endpoint, input.u64()?);
        session.suspicions = input.u32()?;
        session.suspect_limited = input.u8()? != 0;
        session.window.highest = input.u64()?;
        for _ in 0..input.count(12)? {
            let sequence = input.u64()?;
            // A copy: a slice would keep the whole piece alive.
            session.window.outcomes.insert(sequence, Bytes::copy_from_slice(&input.bytes()?));
        }
        state.sessions.open.insert(id, Arc::new(session));
    }
    Ok(())
}

fn take_slots(state: &mut State, input: &mut Input<'_>) -> Result<(), DecodeError> {
    let slab = input.u32()?;
    let slots = state.slots.slabs.get(&slab).map(|table| table.slots);
    let slots = slots.ok_or_else(|| input.invalid(format!("slots of slab {slab}, which is not there")))?;
    for _ in 0..input.count(SLOT_BYTES)? {
        let (slot, generation) = (input.u32()?, input.u32()?);
        let (kind, word) = (input.u8()?, input.u64()?);
        let used = SlotUse::from_parts(kind, word).filter(|_| slot < slots && generation > 0);
        let used = used.ok_or_else(|| input.invalid(format!("slot {slot} of slab {slab}")))?;
        if let SlotUse::Granted(session) = used {
            let holder = state.sessions.get_mut(session);
            let holder =
                holder.ok_or_else(|| input.invalid(format!("slot {slot} of slab {slab}: no session {session}")))?;
            holder.granted.insert((slab, slot));
        }
        state.slots.set(SlotRef { slab, slot, generation }, used);
    }
    Ok(())
}

fn take_waiting(state: &mut State, input: &mut Input<'_>) -> Result<(), DecodeError> {
    for queue in [&mut state.rests.read, &mut state.rests.write] {
        for _ in 0..input.count(16)? {
            queue.push_back(Rest { due_ms: input.u64()?, slab: input.u32()?, slot: input.u32()? });
        }
    }
    for _ in 0..input.count(ENTRY_KEY_BYTES + 20)? {
        let page = (input.u32()?, EntryKey(input.array::<ENTRY_KEY_BYTES>()?));
        state.suspicions.add(page, Suspicion { session: input.u64()?, since_ms: input.u64()? });
    }
    for _ in 0..input.count(20)? {
        state.garbage.push_back(Garbage {
            table: input.u32()?,
            shards: input.u32()? as usize,
            bucket: input.u32()? as usize,
            entries: input.u64()?,
        });
    }
    Ok(())
}

fn take_entries(state: &mut State, input: &mut Input<'_>) -> Result<(), DecodeError> {
    let shards = input.u32()? as usize;
    if shards == 0 || shards > SHARDS_MAX {
        return Err(input.invalid(format!("entries with {shards} shards")));
    }
    let mut checksums = vec![0; shards];
    for _ in 0..input.count(4 + ENTRY_KEY_BYTES + 12 + 8 * shards)? {
        let table = input.u32()?;
        let key = EntryKey(input.array::<ENTRY_KEY_BYTES>()?);
        let slot = SlotRef { slab: input.u32()?, slot: input.u32()?, generation: input.u32()? };
        for checksum in &mut checksums {
            *checksum = input.u64()?;
        }
        let full = |_| input.invalid("a bucket with too many entries");
        state.index.insert(table, key, slot, &checksums).map_err(full)?;
        let location = LocationRef { slot, checksum: checksums[0], further: &checksums[1..] };
        state.entries_digest = state.entries_digest.wrapping_add(digest::of_entry(table, &key, &location));
    }
    Ok(())
}
