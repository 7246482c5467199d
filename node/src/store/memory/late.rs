//! Writes that have left their store: they land when the device's time has come, whether or not anyone still waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use foreword_proto::SlabId;
use parking_lot::Mutex;

use super::slab::Slab;
use super::{Io, Shared, Transfer};

/// How a late write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateWrite {
    /// Time until it lands, by the device's clock.
    pub after: Duration,
    /// At most so many bytes land; the result claims all.
    pub bytes_max: u64,
    /// This bit (modulo the number of those that land) arrives flipped.
    pub flip: Option<u64>,
    /// Given back when it lands.
    pub tag: u64,
}

impl LateWrite {
    /// One that lands whole.
    pub fn whole(after: Duration) -> Self {
        Self { after, bytes_max: u64::MAX, flip: None, tag: 0 }
    }
}

/// A late write that has landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landed {
    pub slab: SlabId,
    pub offset: u64,
    /// Bytes that landed.
    pub bytes: u64,
    /// Its order among the writes submitted to the device.
    pub order: u64,
    /// The order of the write at the same offset that it replaced. Above `order`: the slot was written anew in the
    /// meantime.
    pub over: Option<u64>,
    /// Whether its store got the completion; false: the store is gone, or in a later epoch.
    pub answered: bool,
    /// What its submitter gave along.
    pub tag: u64,
}

/// A write on its way.
pub(super) struct Late {
    slab: SlabId,
    file: Arc<Mutex<Slab>>,
    offset: u64,
    len: u64,
    bytes: Vec<u8>,
    order: u64,
    after: Duration,
    tag: u64,
    store: Weak<Shared>,
}

impl Late {
    /// Copies what the write moves: its frame may be gone when it lands.
    pub(super) fn new(io: &Io, file: Arc<Mutex<Slab>>, order: u64, late: LateWrite, store: Weak<Shared>) -> Self {
        let mut bytes = match &io.transfer {
            Transfer::Write(frame) => frame.bytes()[..io.len.min(late.bytes_max) as usize].to_vec(),
            Transfer::Read(_) => Vec::new(),
        };
        if let Some(bit) = late.flip.filter(|_| !bytes.is_empty()) {
            let bit = bit % (bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        let LateWrite { after, tag, .. } = late;
        Self { slab: io.slab, file, offset: io.offset, len: io.len, bytes, order, after, tag, store }
    }

    pub(super) fn land(self) -> Landed {
        let over = {
            let mut file = self.file.lock();
            file.write(self.offset, &self.bytes);
            file.written(self.offset, self.order)
        };
        let answered = self.store.upgrade().is_some_and(|store| store.landed(self.order, Ok(self.len)));
        let bytes = self.bytes.len() as u64;
        Landed { slab: self.slab, offset: self.offset, bytes, order: self.order, over, answered, tag: self.tag }
    }
}

/// Late writes by the time they are due, then by their order.
#[derive(Default)]
pub(super) struct LateQueue {
    now: Duration,
    writes: BTreeMap<(Duration, u64), Late>,
}

impl LateQueue {
    pub(super) fn push(&mut self, late: Late) {
        self.writes.insert((self.now + late.after, late.order), late);
    }

    pub(super) fn due(&mut self, now: Duration) -> Vec<Late> {
        self.now = self.now.max(now);
        let later = self.writes.split_off(&(self.now, u64::MAX));
        std::mem::replace(&mut self.writes, later).into_values().collect()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.writes.first_key_value().map(|((due, _), _)| *due)
    }
}
