//! Gets: the agent says which frame holds a page, and this side copies it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::segments::MappedSegment;
use super::slots::Slot;
use super::{CallError, Deadline, Get, Got, PageMemory, Session, copy};
use crate::wire::ops::{MissCode, Op, PageRecord, flags, set_taken};

/// Of more bytes than this, several threads copy.
const SHARED_COPY_BYTES_OVER: usize = 8 << 20;
/// Threads that copy for one call.
const COPIERS_MAX: usize = 4;
/// After so many bytes the agent is told what was taken: it may be waiting for its pins.
const TELL_BYTES: usize = 32 << 20;

impl Session {
    /// Copies one shard of pages into the caller's memory, in the order of the keys. What was not copied is a miss, and
    /// so is everything after the first miss unless `every_key` is set.
    ///
    /// Errors: no page was copied; the memory of some may have been written to.
    pub fn get(&self, get: &Get<'_>, pages: &dyn PageMemory, wait: Duration) -> Result<Vec<Got>, CallError> {
        let deadline = Deadline::after(wait);
        let mut got = Vec::with_capacity(get.keys.len());
        for part in super::lookup::parts(get.keys) {
            let first = got.len();
            let copied = match self.get_part(get, part, first, pages, deadline) {
                Ok(copied) => copied,
                // What came before is there.
                Err(_) if first > 0 => break,
                Err(error) => return Err(error),
            };
            let ended = !get.every_key && copied.iter().any(Result::is_err);
            got.extend(copied);
            if ended {
                break;
            }
        }
        got.resize(get.keys.len(), Err(MissCode::Absent));
        Ok(got)
    }

    fn get_part(
        &self,
        get: &Get<'_>,
        keys: &[[u8; 32]],
        first: usize,
        pages: &dyn PageMemory,
        deadline: Deadline,
    ) -> Result<Vec<Got>, CallError> {
        self.check()?;
        let mut slot = self.slots.claim(&self.line, deadline)?;
        let left = deadline.left().ok_or(CallError::Deadline)?;
        let head = slot.shared().head();
        head.namespace.store(get.namespace, Ordering::Relaxed);
        head.shard.store(get.shard, Ordering::Relaxed);
        let every_key = if get.every_key { flags::EVERY_KEY } else { 0 };
        let bypass = if get.bypass_cache { flags::BYPASS_CACHE } else { 0 };
        head.flags.store(every_key | bypass, Ordering::Relaxed);
        head.min_revision.store(get.min_revision, Ordering::Relaxed);
        slot.shared().set_keys(keys);
        slot.submit(Op::Get, None, left);
        let copying = Copying {
            session: self,
            slot: &slot,
            pages,
            first,
            keys: keys.len(),
            every_key: get.every_key,
            deadline,
            next: AtomicUsize::new(0),
            since_told: AtomicUsize::new(0),
            got: Mutex::new(vec![Err(MissCode::Deadline); keys.len()]),
            failed: Mutex::new(None),
        };
        copying.run();
        let got = copying.got.into_inner();
        match copying.failed.into_inner() {
            Some(error) if got.iter().all(Result::is_err) && error != CallError::Deadline => Err(error),
            _ => Ok(got),
        }
    }
}

/// One get under way: some threads take one page after the other.
struct Copying<'a> {
    session: &'a Session,
    slot: &'a Slot<'a>,
    pages: &'a dyn PageMemory,
    /// The first page in the caller's memory.
    first: usize,
    keys: usize,
    every_key: bool,
    deadline: Deadline,
    next: AtomicUsize,
    /// Bytes copied since the agent was told.
    since_told: AtomicUsize,
    got: Mutex<Vec<Got>>,
    /// Why the answers ended before their time.
    failed: Mutex<Option<CallError>>,
}

impl Copying<'_> {
    fn run(&self) {
        let page_bytes: usize = (0..self.pages.parts()).map(|part| self.pages.part(self.first, part).1).sum();
        let copiers = match self.keys.saturating_mul(page_bytes) {
            bytes if bytes <= SHARED_COPY_BYTES_OVER => 1,
            _ => std::thread::available_parallelism().map_or(1, usize::from).min(COPIERS_MAX).min(self.keys),
        };
        // They end within this call, so nobody touches the caller's memory after it.
        std::thread::scope(|scope| {
            for _ in 1..copiers {
                // Without another thread this one does it all.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || self.copy_some());
            }
            self.copy_some();
        });
    }

    fn copy_some(&self) {
        let mut segments = BTreeMap::new();
        let (mut answered, mut done) = (0, false);
        loop {
            let page = self.next.fetch_add(1, Ordering::Relaxed);
            if page >= self.keys {
                return;
            }
            if self.deadline.left().is_none() {
                return self.fail(CallError::Deadline);
            }
            while page >= answered as usize && !done {
                // The agent may be waiting for the pins of what is copied.
                if answered > 0 && self.since_told.swap(0, Ordering::Relaxed) > 0 {
                    self.slot.took_some();
                }
                match self.slot.wait(answered, &self.session.line, self.deadline) {
                    Ok(progress) => (answered, done) = progress,
                    Err(error) => return self.fail(error),
                }
            }
            if page >= answered as usize {
                // The answers end here: at a miss, or with an error.
                if let Err(error) = self.slot.outcome() {
                    self.fail(error);
                } else if !self.every_key {
                    self.got.lock()[page..].fill(Err(MissCode::Absent));
                }
                return;
            }
            let copied = self.copy(page, &mut segments);
            self.got.lock()[page] = copied;
        }
    }

    fn fail(&self, error: CallError) {
        self.failed.lock().get_or_insert(error);
    }

    fn copy(&self, page: usize, segments: &mut BTreeMap<u32, Arc<MappedSegment>>) -> Got {
        let record = self.slot.shared().record(page);
        let (tier, segment, index, generation) = match PageRecord::load(record) {
            Some(PageRecord::Page { tier, segment, index, generation }) => (tier, segment, index, generation),
            Some(PageRecord::Miss(code)) => return Err(code),
            None => return Err(MissCode::Gone),
        };
        let mapped = match segments.entry(segment) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let mapped = self.session.segments.get(segment, &self.session.line, self.deadline);
                new.insert(mapped.ok_or(MissCode::Gone)?)
            }
        };
        let copied = self.copy_frame(page, mapped, index, generation);
        set_taken(record);
        let bytes = copied.ok_or(MissCode::Gone)?;
        if self.since_told.fetch_add(bytes, Ordering::Relaxed) + bytes >= TELL_BYTES {
            self.since_told.store(0, Ordering::Relaxed);
            self.slot.took_some();
        }
        Ok(u8::try_from(tier).unwrap_or(u8::MAX))
    }

    /// Copies the shard out of a frame. None: the frame is not as the agent said, or was used anew meanwhile.
    fn copy_frame(&self, page: usize, segment: &MappedSegment, index: u32, generation: u64) -> Option<usize> {
        let head = self.slot.shared().head();
        let (mut offset, shard_bytes) =
            (head.shard_offset.load(Ordering::Relaxed), head.shard_bytes.load(Ordering::Relaxed));
        let (parts, page) = (self.pages.parts(), self.first + page);
        let wanted: usize = (0..parts).map(|part| self.pages.part(page, part).1).sum();
        if wanted as u64 != shard_bytes {
            return None;
        }
        for part in 0..parts {
            let (to, bytes) = self.pages.part(page, part);
            let from = segment.bytes(index, offset, bytes as u64)?;
            // SAFETY: `from` lies within the mapped segment, which this call holds; `to` is the caller's, by the
            // promise of PageMemory.
            unsafe { copy::copy_out(from, to, bytes) };
            offset += bytes as u64;
        }
        copy::copied();
        (segment.generation(index)? == generation).then_some(wanted)
    }
}
