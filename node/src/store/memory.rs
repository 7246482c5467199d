//! L3 in memory, shared by the agents of one process: for tests and for the simulator, with faults on demand.
//!
//! No threads and no clock but tokio's: an I/O is done when it is submitted, or when its delay is over.

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

use slab::Slab;

use super::completions::Completions;
use super::{ClusterMark, Completion, IOS_QUEUED_MAX, Io, OpId, PageStore, StoreError, Transfer};

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
    /// Done and answered only after this time: a late writer.
    Delay(Duration),
    /// Never answered in this epoch; the store keeps the frame. `done`: whether the bytes were moved.
    Drop {
        done: bool,
    },
    /// All bytes are moved, but this bit (modulo their number) arrives flipped.
    FlipBit(u64),
}

/// Decides about each I/O of one store.
pub trait Faults: Send + Sync {
    fn on(&self, io: &IoView) -> Decision;
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
pub struct MemoryL3(Arc<Mutex<BTreeMap<ClusterId, Directory>>>);

struct Directory {
    mark: ClusterMark,
    slabs: BTreeMap<SlabId, Arc<Mutex<Slab>>>,
}

impl MemoryL3 {
    /// Makes a cluster's directory. False: it exists already, and stays as it is.
    pub fn init(&self, mark: &ClusterMark) -> bool {
        let mut directories = self.0.lock();
        if directories.contains_key(&mark.cluster_id) {
            return false;
        }
        directories.insert(mark.cluster_id, Directory { mark: mark.clone(), slabs: BTreeMap::new() });
        true
    }

    fn mark(&self, cluster_id: ClusterId) -> Option<ClusterMark> {
        self.0.lock().get(&cluster_id).map(|directory| directory.mark.clone())
    }

    fn open(&self, cluster_id: ClusterId, slab: SlabId, bytes: u64) -> Result<Arc<Mutex<Slab>>, StoreError> {
        let mut directories = self.0.lock();
        let directory = directories.get_mut(&cluster_id).ok_or(StoreError::Errno(libc::ENOENT))?;
        let slab = directory.slabs.entry(slab).or_default().clone();
        {
            let mut slab = slab.lock();
            slab.bytes = slab.bytes.max(bytes);
        }
        Ok(slab)
    }

    fn remove(&self, cluster_id: ClusterId, slab: SlabId) {
        if let Some(directory) = self.0.lock().get_mut(&cluster_id) {
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
    state: Mutex<State>,
    epoch: AtomicU64,
    completions: Completions,
}

#[derive(Default)]
struct State {
    open: BTreeMap<SlabId, Arc<Mutex<Slab>>>,
    /// By the time they are due, then by their order.
    delayed: BTreeMap<(Instant, u64), Io>,
    delayed_ever: u64,
    /// Never answered; their frames are not free in this epoch.
    lost: Vec<Io>,
}

impl MemoryStore {
    /// A store of this cluster without faults.
    pub fn new(l3: MemoryL3, cluster_id: ClusterId, chunk_bytes: u32) -> Self {
        Self::with_faults(l3, cluster_id, chunk_bytes, Arc::new(NoFaults))
    }

    /// A store whose I/Os fail as `faults` decides.
    pub fn with_faults(l3: MemoryL3, cluster_id: ClusterId, chunk_bytes: u32, faults: Arc<dyn Faults>) -> Self {
        Self {
            l3,
            cluster_id,
            chunk_bytes,
            faults,
            state: Mutex::default(),
            epoch: AtomicU64::new(0),
            completions: Completions::default(),
        }
    }

    /// What a restart of an L3 daemon does: I/Os without an answer never get one, slabs must be opened again.
    pub fn restart(&self) {
        let before = std::mem::take(&mut *self.state.lock());
        self.epoch.fetch_add(1, Ordering::AcqRel);
        drop(before);
    }

    /// Number of I/Os that were never answered in this epoch.
    pub fn lost(&self) -> usize {
        self.state.lock().lost.len()
    }

    fn start(&self, io: Io) {
        let write = matches!(io.transfer, Transfer::Write(_));
        let view = IoView { op: io.op, slab: io.slab, offset: io.offset, len: io.len, write };
        let mut state = self.state.lock();
        match self.faults.on(&view) {
            Decision::Delay(_) | Decision::Drop { .. } if state.lost.len() + state.delayed.len() >= IOS_QUEUED_MAX => {
                self.completions.push(io.done(Err(StoreError::Errno(libc::EAGAIN))));
            }
            Decision::Delay(delay) => {
                state.delayed_ever += 1;
                let order = state.delayed_ever;
                state.delayed.insert((Instant::now() + delay, order), io);
            }
            Decision::Drop { done } => {
                let io = if done { keep(state.perform(io, &Decision::Proceed), view) } else { io };
                state.lost.push(io);
            }
            decision => self.completions.push(state.perform(io, &decision)),
        }
    }

    /// Performs what is due; says when the next is.
    fn advance(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state.lock();
        while let Some(first) = state.delayed.first_entry() {
            if first.key().0 > now {
                return Some(first.key().0);
            }
            let io = first.remove();
            self.completions.push(state.perform(io, &Decision::Proceed));
        }
        None
    }
}

/// An I/O whose answer is withheld.
fn keep(completion: Completion, view: IoView) -> Io {
    Io { op: view.op, slab: view.slab, offset: view.offset, len: view.len, transfer: completion.transfer }
}

impl State {
    fn perform(&self, mut io: Io, decision: &Decision) -> Completion {
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
            Transfer::Write(frame) => slab.write(io.offset, &frame.bytes()[..moved_max]),
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
        let mut state = self.state.lock();
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

    fn submit(&self, batch: Vec<Io>) {
        batch.iter().for_each(Io::check);
        for io in batch {
            self.start(io);
        }
        // A waiter that sleeps until something later is due looks again.
        self.completions.wake();
    }

    fn complete(&self) -> BoxFuture<'_, Vec<Completion>> {
        Box::pin(async move {
            loop {
                let woken = self.completions.woken();
                let next_due = self.advance();
                let done = self.completions.take();
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
        self.state.lock().open.remove(&slab);
        self.l3.remove(self.cluster_id, slab);
        futures::future::ready(Ok(())).boxed()
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}
