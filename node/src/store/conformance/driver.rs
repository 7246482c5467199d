//! Submits I/Os to one store and accounts for each of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foreword_proto::SlabId;
use futures::FutureExt;

use super::pattern;
use crate::arena::{Arena, Frame, FrameId, FrameMut};
use crate::store::{Completion, Io, OpId, SharedStore, StoreError, Transfer};

/// What a read's frame holds before: a byte that the store did not move shows.
pub(super) const POISON: u64 = u64::MAX;

pub(super) type Checked<T> = Result<T, String>;

pub(super) struct Driver {
    pub(super) store: SharedStore,
    arena: Arena,
    patience: Duration,
    next_op: AtomicU64,
    /// What is under way: its frame, and whether it is a write.
    pending: parking_lot::Mutex<BTreeMap<OpId, (FrameId, bool)>>,
}

impl Driver {
    pub(super) fn new(store: SharedStore, arena: Arena, patience: Duration) -> Self {
        Self { store, arena, patience, next_op: AtomicU64::new(1), pending: parking_lot::Mutex::default() }
    }

    pub(super) fn frame(&self, bytes: u64, stamp: u64) -> Checked<FrameMut> {
        let mut frame = self.arena.allocate(0, bytes).map_err(|error| format!("{error}: frames do not come back"))?;
        pattern::fill(frame.bytes_mut(), stamp);
        Ok(frame)
    }

    /// A write of the pattern of `stamp`.
    pub(super) fn write(&self, slab: SlabId, offset: u64, len: u64, stamp: u64) -> Checked<Io> {
        Ok(self.write_frame(slab, offset, len, self.frame(len, stamp)?.freeze()))
    }

    pub(super) fn write_frame(&self, slab: SlabId, offset: u64, len: u64, frame: Frame) -> Io {
        Io { op: self.op(), slab, offset, len, transfer: Transfer::Write(frame), begin_by: None }
    }

    /// A read of `len` bytes into a poisoned frame of `frame_bytes`.
    pub(super) fn read(&self, slab: SlabId, offset: u64, len: u64, frame_bytes: u64) -> Checked<Io> {
        let frame = self.frame(frame_bytes, POISON)?;
        Ok(Io { op: self.op(), slab, offset, len, transfer: Transfer::Read(frame), begin_by: None })
    }

    pub(super) fn submit(&self, batch: Vec<Io>) {
        {
            let mut pending = self.pending.lock();
            for io in &batch {
                pending.insert(io.op, what(&io.transfer));
            }
        }
        self.store.submit(batch);
    }

    /// I/Os without a completion yet.
    pub(super) fn pending(&self) -> usize {
        self.pending.lock().len()
    }

    /// Waits for some completions, checking that each belongs to an I/O under way and brings its frame.
    pub(super) async fn some(&self) -> Checked<Vec<Completion>> {
        // A future that is dropped must not take completions with it.
        let done = match self.store.complete().now_or_never() {
            Some(done) => done,
            None => tokio::time::timeout(self.patience, self.store.complete())
                .await
                .map_err(|_| format!("{} I/Os got no completion within {:?}", self.pending(), self.patience))?,
        };
        if done.is_empty() {
            return Err("complete() gave no completion".into());
        }
        let mut pending = self.pending.lock();
        for completion in &done {
            let op = completion.op;
            let expected = pending.remove(&op).ok_or(format!("I/O {op} completed twice, or was never submitted"))?;
            let got = what(&completion.transfer);
            if got != expected {
                return Err(format!("I/O {op} had (frame, write) {expected:?} and came back with {got:?}"));
            }
        }
        Ok(done)
    }

    /// Submits a batch and waits for all that is under way; completions in order of their I/Os.
    pub(super) async fn all(&self, batch: Vec<Io>) -> Checked<Vec<Completion>> {
        self.submit(batch);
        let mut done = Vec::new();
        while self.pending() > 0 {
            done.extend(self.some().await?);
        }
        done.sort_by_key(|completion| completion.op);
        match self.store.complete().now_or_never() {
            Some(more) => Err(format!("{} completions too many: {more:?}", more.len())),
            None => Ok(done),
        }
    }

    pub(super) async fn one(&self, io: Io) -> Checked<Completion> {
        self.all(vec![io]).await?.pop().ok_or("no completion".into())
    }

    pub(super) async fn open(&self, slab: SlabId, bytes: u64) -> Checked<()> {
        self.store.open_slab(slab, bytes).await.map_err(|error| format!("open_slab({slab}, {bytes}): {error}"))
    }

    /// Writes a page and expects success.
    pub(super) async fn put(&self, slab: SlabId, offset: u64, len: u64, stamp: u64) -> Checked<()> {
        moved(&self.one(self.write(slab, offset, len, stamp)?).await?, len)
    }

    /// Reads a page and expects the pattern of `stamp`.
    pub(super) async fn expect(&self, slab: SlabId, offset: u64, len: u64, stamp: u64) -> Checked<()> {
        holds(&self.one(self.read(slab, offset, len, len)?).await?, len, stamp)
    }

    fn op(&self) -> OpId {
        self.next_op.fetch_add(1, Ordering::Relaxed)
    }
}

fn what(transfer: &Transfer) -> (FrameId, bool) {
    match transfer {
        Transfer::Read(frame) => (frame.id(), false),
        Transfer::Write(frame) => (frame.id(), true),
    }
}

/// The I/O succeeded and moved so many bytes.
pub(super) fn moved(completion: &Completion, len: u64) -> Checked<()> {
    match &completion.result {
        Ok(bytes) if *bytes == len => Ok(()),
        other => Err(format!("I/O {} of {len} bytes gave {other:?}", completion.op)),
    }
}

/// The frame's first `len` bytes are the pattern of `stamp`, and all of them were moved.
pub(super) fn holds(completion: &Completion, len: u64, stamp: u64) -> Checked<()> {
    moved(completion, len)?;
    match pattern::first_difference(&bytes_of(completion)[..len as usize], stamp) {
        Some(at) => Err(format!("I/O {}: wrong bytes from {at} on, for stamp {stamp}", completion.op)),
        None => Ok(()),
    }
}

pub(super) fn bytes_of(completion: &Completion) -> &[u8] {
    match &completion.transfer {
        Transfer::Read(frame) => frame.bytes(),
        Transfer::Write(frame) => frame.bytes(),
    }
}

/// The I/O failed because its slab is not open.
pub(super) fn no_slab(completion: &Completion, slab: SlabId) -> Checked<()> {
    match &completion.result {
        Err(StoreError::NoSlab(named)) if *named == slab => Ok(()),
        other => Err(format!("an I/O of slab {slab}, which is not open, gave {other:?}")),
    }
}
