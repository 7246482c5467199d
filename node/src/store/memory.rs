//! L3 in memory, shared by the agents of one process: for tests and for the simulator, with faults on demand.
//!
//! No threads and no clock but tokio's: an I/O is done when it is submitted, or when its delay is over. Late writes
//! alone have the device's own time, which its owner moves ([`MemoryL3::advance`]): they land whatever became of the
//! store that submitted them.

mod late;
mod slab;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foreword_proto::{ClusterId, SlabId};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

pub use late::{Landed, LateWrite};
use late::{Late, LateQueue};
use slab::Slab;

use crate::arena::Quarantined;

use super::completions::Completions;
use super::{ClusterMark, Completion, IOS_QUEUED_MAX, Io, OpId, PageStore, StoreError, Transfer};

/// Nothing waits in memory, but for the faults of a test: as many as a device might take.
const READS_AT_ONCE: usize = 64;

/// What an I/O is, to a fault that decides about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoView {
    pub op: OpId,
    pub slab: SlabId,
    pub offset: u64,
    pub len: u64,
    pub write: bool,
}

/// What becomes of an I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Proceed,
    /// Nothing is moved.
    Errno(i32),
    /// At most so many bytes are moved, and the result says so.
    Short(u64),
    /// At most so many bytes are moved, and the result claims all.
    Tear(u64),
    /// Done and answered only after this time, by the submitter's clock; never, when the store is gone by then.
    Delay(Duration),
    /// A write that is on its way whatever becomes of its store. A read is delayed by as much.
    Late(LateWrite),
    /// Never answered in this epoch; the frame is quarantined. `done`: whether the bytes were moved.
    Drop {
        done: bool,
    },
    /// All bytes are moved, but this bit (modulo their number) arrives flipped.
    FlipBit(u64),
}

/// Decides about each I/O of one store.
pub trait Faults: Send + Sync {
    fn on(&self, io: &IoView) -> Decision;

    /// The errno that opening or removing a slab fails with.
    fn on_slab(&self, _: SlabId) -> Option<i32> {
        None
    }
}

/// Every I/O proceeds.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn on(&self, _: &IoView) -> Decision {
        Decision::Proceed
    }
}

/// The L3 that stores share; clones are the same one. It lives as long as any of them.
#[derive(Clone, Default)]
pub struct MemoryL3(Arc<Device>);

#[derive(Default)]
struct Device {
    directories: Mutex<BTreeMap<ClusterId, Directory>>,
    late: Mutex<LateQueue>,
    /// Writes submitted so far: the order of each.
    writes: AtomicU64,
}

struct Directory {
    mark: ClusterMark,
    slabs: BTreeMap<SlabId, Arc<Mutex<Slab>>>,
}

impl MemoryL3 {
    /// Makes a cluster's directory. False: it exists already, and stays as it is.
    pub fn init(&self, mark: &ClusterMark) -> bool {
        let mut directories = self.0.directories.lock();
        if directories.contains_key(&mark.cluster_id) {
            return false;
        }
        directories.insert(mark.cluster_id, Directory { mark: mark.clone(), slabs: BTreeMap::new() });
        true
    }

    /// Moves the device's time on to `now` (since any beginning) and lands the late writes that are due by then, in the
    /// order of their due times. A store that still waits for one gets its completion.
    pub fn advance(&self, now: Duration) -> Vec<Landed> {
        let due = self.0.late.lock().due(now);
        due.into_iter().map(Late::land).collect()
    }

    /// When the next late write is due, in the device's time.
    pub fn next_due(&self) -> Option<Duration> {
        self.0.late.lock().next_due()
    }

    /// Puts bytes into a slab, as if they had been written before any store was there.
    ///
    /// Errors: ENOENT without the cluster's directory.
    pub fn put(&self, cluster_id: ClusterId, slab: SlabId, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.open(cluster_id, slab, 0)?.lock().write(offset, bytes);
        Ok(())
    }

    fn mark(&self, cluster_id: ClusterId) -> Option<ClusterMark> {
        self.0.directories.lock().get(&cluster_id).map(|directory| directory.mark.clone())
    }

    fn open(&self, cluster_id: ClusterId, slab: SlabId, bytes: u64) -> Result<Arc<Mutex<Slab>>, StoreError> {
        let mut directories = self.0.directories.lock();
        let directory = directories.get_mut(&cluster_id).ok_or(StoreError::Errno(libc::ENOENT))?;
        let slab = directory.slabs.entry(slab).or_default().clone();
        {
            let mut slab = slab.lock();
            slab.bytes = slab.bytes.max(bytes);
        }
        Ok(slab)
    }

    fn remove(&self, cluster_id: ClusterId, slab: SlabId) {
        if let Some(directory) = self.0.directories.lock().get_mut(&cluster_id) {
            directory.slabs.remove(&slab);
        }
    }
}

/// One agent's way to a [`MemoryL3`].
pub struct MemoryStore {
    l3: MemoryL3,
    cluster_id: ClusterId,
    chunk_bytes: u32,
    faults: Arc<dyn Faults>,
    epoch: AtomicU64,
    shared: Arc<Shared>,
}

/// What late writes find of their store when they land.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    completions: Completions,
}

impl Shared {
    /// The late write of this order is done. False: nobody waits for it any more.
    fn landed(&self, order: u64, result: Result<u64, StoreError>) -> bool {
        let io = self.state.lock().late.remove(&order);
        let waited = io.is_some();
        if let Some(io) = io {
            self.completions.push(io.done(result));
        }
        waited
    }
}

#[derive(Default)]
struct State {
    open: BTreeMap<SlabId, Arc<Mutex<Slab>>>,
    /// By the time they are due; each with its order if it is a write.
    delayed: BTreeMap<(Instant, u64), (Io, u64)>,
    delayed_ever: u64,
    /// Writes that the device has yet to land, by their order.
    late: BTreeMap<u64, Io>,
    /// Never answered in this epoch.
    lost: Vec<Quarantined>,
}

impl MemoryStore {
    /// A store of this cluster without faults.
    pub fn new(l3: MemoryL3, cluster_id: ClusterId, chunk_bytes: u32) -> Self {
        Self::with_faults(l3, cluster_id, chunk_bytes, Arc::new(NoFaults))
    }

    /// A store whose I/Os fail as `faults` decides.
    pub fn with_faults(l3: MemoryL3, cluster_id: ClusterId, chunk_bytes: u32, faults: Arc<dyn Faults>) -> Self {
        Self { l3, cluster_id, chunk_bytes, faults, epoch: AtomicU64::new(0), shared: Arc::default() }
    }

    /// What a restart of an L3 daemon does: I/Os without an answer never get one, slabs must be opened again.
    pub fn restart(&self) {
        let before = std::mem::take(&mut *self.shared.state.lock());
        self.epoch.fetch_add(1, Ordering::AcqRel);
        // Nothing lands any more: their frames are free.
        before.lost.into_iter().for_each(Quarantined::completed);
    }

    /// Number of I/Os that were never answered in this epoch.
    pub fn lost(&self) -> usize {
        self.shared.state.lock().lost.len()
    }

    fn start(&self, io: Io) {
        let write = matches!(io.transfer, Transfer::Write(_));
        let view = IoView { op: io.op, slab: io.slab, offset: io.offset, len: io.len, write };
        let mut state = self.shared.state.lock();
        let decision = match self.faults.on(&view) {
            Decision::Late(late) if !write => Decision::Delay(late.after),
            decision => decision,
        };
        let order = if write { self.l3.0.writes.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        match decision {
            Decision::Delay(_) | Decision::Drop { .. } | Decision::Late(_) if state.waiting() >= IOS_QUEUED_MAX => {
                self.shared.completions.push(io.done(Err(StoreError::Errno(libc::EAGAIN))));
            }
            Decision::Delay(delay) => {
                state.delayed_ever += 1;
                let delayed = state.delayed_ever;
                state.delayed.insert((Instant::now() + delay, delayed), (io, order));
            }
            Decision::Late(late) => self.start_late(&mut state, io, order, late),
            Decision::Drop { done } => {
                let io = if done { keep(state.perform(io, order, &Decision::Proceed), view) } else { io };
                // Nobody waits for the frame of a retired segment any more.
                state.lost.retain(|lost| !lost.segment_is_retired());
                state.lost.push(io.transfer.quarantine());
            }
            decision => self.shared.completions.push(state.perform(io, order, &decision)),
        }
    }

    /// Hands a write's bytes to the device.
    fn start_late(&self, state: &mut State, io: Io, order: u64, late: LateWrite) {
        let Some(slab) = state.open.get(&io.slab) else {
            let error = StoreError::NoSlab(io.slab);
            return self.shared.completions.push(io.done(Err(error)));
        };
        let store = Arc::downgrade(&self.shared);
        self.l3.0.late.lock().push(Late::new(&io, slab.clone(), order, late, store));
        state.late.insert(order, io);
    }

    /// Performs what is due; says when the next is.
    fn advance(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        while let Some(first) = state.delayed.first_entry() {
            if first.key().0 > now {
                return Some(first.key().0);
            }
            let (io, order) = first.remove();
            self.shared.completions.push(state.perform(io, order, &Decision::Proceed));
        }
        None
    }
}

/// An I/O whose answer is withheld.
fn keep(completion: Completion, view: IoView) -> Io {
    let IoView { op, slab, offset, len, .. } = view;
    Io { op, slab, offset, len, transfer: completion.transfer, begin_by: None }
}

impl State {
    /// I/Os without an answer.
    fn waiting(&self) -> usize {
        self.lost.len() + self.delayed.len() + self.late.len()
    }

    /// `order`: the write's, among all writes of the device.
    fn perform(&self, mut io: Io, order: u64, decision: &Decision) -> Completion {
        if let Decision::Errno(errno) = decision {
            return io.done(Err(StoreError::Errno(*errno)));
        }
        let Some(slab) = self.open.get(&io.slab) else {
            let error = StoreError::NoSlab(io.slab);
            return io.done(Err(error));
        };
        let mut slab = slab.lock();
        let moved_max = match decision {
            Decision::Short(bytes) | Decision::Tear(bytes) => io.len.min(*bytes),
            _ => io.len,
        } as usize;
        let mut moved = match &mut io.transfer {
            Transfer::Read(frame) => slab.read(io.offset, &mut frame.bytes_mut()[..moved_max]),
            Transfer::Write(frame) => {
                slab.written(io.offset, order);
                slab.write(io.offset, &frame.bytes()[..moved_max])
            }
        };
        match decision {
            Decision::FlipBit(bit) if moved > 0 => flip_bit(&mut slab, &mut io, bit % (moved * 8)),
            Decision::Tear(_) => moved = io.len,
            _ => {}
        }
        drop(slab);
        io.done(Ok(moved))
    }
}

fn flip_bit(slab: &mut Slab, io: &mut Io, bit: u64) {
    let (byte, mask) = (bit / 8, 1 << (bit % 8));
    match &mut io.transfer {
        Transfer::Read(frame) => frame.bytes_mut()[byte as usize] ^= mask,
        Transfer::Write(_) => {
            let mut one = [0];
            slab.read(io.offset + byte, &mut one);
            slab.write(io.offset + byte, &[one[0] ^ mask]);
        }
    }
}

impl PageStore for MemoryStore {
    fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    fn cluster_mark(&self) -> BoxFuture<'static, Result<Option<ClusterMark>, StoreError>> {
        futures::future::ready(Ok(self.l3.mark(self.cluster_id))).boxed()
    }

    fn open_slab(&self, slab: SlabId, bytes: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        if let Some(errno) = self.faults.on_slab(slab) {
            return futures::future::ready(Err(StoreError::Errno(errno))).boxed();
        }
        let mut state = self.shared.state.lock();
        let known = state.open.get(&slab).cloned();
        let opened = match known {
            Some(known) => {
                let mut known = known.lock();
                known.bytes = known.bytes.max(bytes);
                Ok(())
            }
            None => self.l3.open(self.cluster_id, slab, bytes).map(|bytes| drop(state.open.insert(slab, bytes))),
        };
        futures::future::ready(opened).boxed()
    }

    fn open_to_read(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>> {
        self.open_slab(slab, 0)
    }

    fn reads_at_once(&self) -> usize {
        READS_AT_ONCE
    }

    fn submit(&self, batch: Vec<Io>) {
        batch.iter().for_each(Io::check);
        for io in batch {
            self.start(io);
        }
        // A waiter that sleeps until something later is due looks again.
        self.shared.completions.wake();
    }

    fn complete(&self) -> BoxFuture<'_, Vec<Completion>> {
        Box::pin(async move {
            loop {
                let woken = self.shared.completions.woken();
                let next_due = self.advance();
                let done = self.shared.completions.take();
                if !done.is_empty() {
                    return done;
                }
                match next_due {
                    Some(due) => drop(tokio::time::timeout_at(due, woken).await),
                    None => woken.await,
                }
            }
        })
    }

    fn remove_slab(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>> {
        if let Some(errno) = self.faults.on_slab(slab) {
            return futures::future::ready(Err(StoreError::Errno(errno))).boxed();
        }
        self.shared.state.lock().open.remove(&slab);
        self.l3.remove(self.cluster_id, slab);
        futures::future::ready(Ok(())).boxed()
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}
