//! Pages of L1 on their way to engines: each takes room once, however many engines take it at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::arena::{Frame, FrameId};
use crate::fair_semaphore::FairPermit;
use crate::memory::Room;
use crate::plan::fair_shares::Asker;

/// A part of the arena that L1's readers may hold.
pub(super) struct Pins {
    room: Room,
    held: Arc<Mutex<BTreeMap<FrameId, Weak<Pin>>>>,
}

/// A page's room, as long as anybody reads it.
#[derive(Debug)]
pub(super) struct Pin {
    frame: FrameId,
    held: Arc<Mutex<BTreeMap<FrameId, Weak<Pin>>>>,
    _room: FairPermit,
}

impl Pins {
    pub(super) fn new(bytes: u64) -> Self {
        Self { room: Room::new(bytes), held: Arc::default() }
    }

    /// A pin of this frame if it has one, or if there is room now.
    pub(super) fn pin(&self, asker: Asker, frame: &Frame) -> Option<Arc<Pin>> {
        let present = self.held.lock().get(&frame.id()).and_then(Weak::upgrade);
        present.or_else(|| Some(self.pin_in(frame, self.room.take_now(asker, frame.len() as u64)?)))
    }

    /// A pin of this frame in room that was waited for.
    pub(super) fn pin_in(&self, frame: &Frame, room: FairPermit) -> Arc<Pin> {
        let pin = Arc::new(Pin { frame: frame.id(), held: self.held.clone(), _room: room });
        self.held.lock().insert(frame.id(), Arc::downgrade(&pin));
        pin
    }

    /// There is this namespace: some room is kept for it.
    pub(super) fn enter(&self, asker: Asker) {
        self.room.enter(asker);
    }

    /// Ends one [`Self::enter`].
    pub(super) fn leave(&self, asker: Asker) {
        self.room.leave(asker);
    }

    /// Room for a page, in its turn. None: not before the deadline.
    pub(super) async fn room(&self, asker: Asker, bytes: u64, deadline: Instant) -> Option<FairPermit> {
        self.room.take(asker, bytes, deadline).await
    }

    /// Units of room taken now.
    pub(super) fn used(&self) -> u64 {
        self.room.used()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        // Another pin of the frame may stand there by now.
        if held.get(&self.frame).is_some_and(|pin| pin.strong_count() == 0) {
            held.remove(&self.frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaSettings, HeapRegions};

    const PAGE: u64 = 4096;
    const ONE: Asker = Asker { tenant: 1, namespace: 1 };

    #[test]
    fn a_frame_takes_room_once_and_until_its_last_reader_leaves() {
        let arena = Arena::new(ArenaSettings::new(4 * PAGE), Arc::new(HeapRegions)).unwrap();
        let (one, other) = (arena.allocate(1, PAGE).unwrap().freeze(), arena.allocate(1, PAGE).unwrap().freeze());
        let pins = Pins::new(PAGE);
        let first = pins.pin(ONE, &one).unwrap();
        let second = pins.pin(ONE, &one).unwrap();
        assert_eq!(pins.used(), 1);
        assert!(pins.pin(ONE, &other).is_none());
        drop(first);
        assert_eq!(pins.used(), 1);
        drop(second);
        assert_eq!((pins.used(), pins.held.lock().len()), (0, 0));
        assert!(pins.pin(ONE, &other).is_some());
    }
}
