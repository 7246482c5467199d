//! Segments of the agent's arena, mapped read-only as they are first needed, and unmapped when they have left the
//! arena.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::keeper::Line;
use super::{Deadline, clock};
use crate::wire::Mapping;
use crate::wire::handshake::Message;

const GENERATION_BYTES: u64 = 8;

/// What this process knows of the agent's segments.
#[derive(Default)]
pub(super) struct Segments {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Default)]
struct Known {
    mapped: BTreeMap<u32, Arc<MappedSegment>>,
    /// Asked for, and not answered.
    asked: BTreeMap<u32, u32>,
    ended: bool,
}

/// A segment: frames of one size, one after the other, and their generations behind them.
pub(super) struct MappedSegment {
    mapping: Mapping,
    frame_bytes: u64,
    frames: u32,
}

impl MappedSegment {
    fn new(descriptor: &OwnedFd, region_bytes: u64, frame_bytes: u64, frames: u32) -> Option<Self> {
        let frames_bytes = frame_bytes.checked_mul(u64::from(frames))?;
        let needed = frames_bytes.checked_add(u64::from(frames) * GENERATION_BYTES)?;
        if needed > region_bytes || !frame_bytes.is_multiple_of(GENERATION_BYTES) {
            return None;
        }
        let mapping = Mapping::of_sent(descriptor, usize::try_from(region_bytes).ok()?).ok()?;
        Some(Self { mapping, frame_bytes, frames })
    }

    /// The address of some bytes of a frame. None: they do not lie within it.
    pub(super) fn bytes(&self, frame: u32, offset: u64, bytes: u64) -> Option<NonNull<u8>> {
        let within = frame < self.frames && offset.checked_add(bytes)? <= self.frame_bytes;
        within.then(|| self.mapping.at(u64::from(frame) * self.frame_bytes + offset, bytes)).flatten()
    }

    /// The frame's generation now. None: there is no such frame.
    pub(super) fn generation(&self, frame: u32) -> Option<u64> {
        let at = u64::from(self.frames) * self.frame_bytes + u64::from(frame) * GENERATION_BYTES;
        let cell = (frame < self.frames).then(|| self.mapping.at(at, GENERATION_BYTES)).flatten()?;
        // SAFETY: within the mapping (at()), 8-aligned (new() checked the frames' size), and touched as an atomic only.
        Some(unsafe { cell.cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire))
    }
}

impl Segments {
    /// The segment, mapped. None: it is gone, or does not come before the deadline.
    pub(super) fn get(&self, segment: u32, line: &Line, deadline: Deadline) -> Option<Arc<MappedSegment>> {
        let mut known = self.known.lock();
        if let Some(mapped) = known.mapped.get(&segment) {
            return Some(mapped.clone());
        }
        let waiters = known.asked.entry(segment).or_default();
        *waiters += 1;
        if *waiters == 1 {
            // The keeper takes the lock to answer; it is not waited for under it.
            parking_lot::MutexGuard::unlocked(&mut known, || line.send(Message::Ask { segment }));
        }
        loop {
            if let Some(mapped) = known.mapped.get(&segment).cloned() {
                return Some(mapped);
            }
            let left = deadline.left().filter(|_| !known.ended && known.asked.contains_key(&segment))?;
            self.changed.wait_until(&mut known, clock::now() + left);
        }
    }

    /// The agent sent it. False: what it sent cannot be mapped.
    pub(super) fn came(&self, segment: u32, descriptor: OwnedFd, bytes: u64, frame_bytes: u64, frames: u32) -> bool {
        let mapped = MappedSegment::new(&descriptor, bytes, frame_bytes, frames);
        let came = mapped.is_some();
        let mut known = self.known.lock();
        known.asked.remove(&segment);
        if let Some(mapped) = mapped {
            known.mapped.insert(segment, Arc::new(mapped));
        }
        self.changed.notify_all();
        came
    }

    /// The agent has no such segment.
    pub(super) fn is_gone(&self, segment: u32) {
        self.known.lock().asked.remove(&segment);
        self.changed.notify_all();
    }

    /// It has left the arena: unmapped when the last copy from it ends.
    pub(super) fn retire(&self, segment: u32) {
        let mapped = self.known.lock().mapped.remove(&segment);
        drop(mapped);
    }

    /// The session is over.
    pub(super) fn end(&self) {
        let mut known = self.known.lock();
        known.ended = true;
        let mapped = std::mem::take(&mut known.mapped);
        self.changed.notify_all();
        drop(known);
        drop(mapped);
    }

    pub(super) fn mapped(&self) -> usize {
        self.known.lock().mapped.len()
    }
}
