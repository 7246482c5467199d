//! The ways to the pages of one slab file: raw reads and writes, and an agent's L3.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use foreword_node::arena::{Arena, ArenaSettings, Frame, FrameMut, MemfdRegions, RegionProvider};
use foreword_node::counters::Counters;
use foreword_node::l3::{L3, PageShape, Written};
use foreword_node::store::{
    ClientKind, PosixStore, SharedStore, UsrbioMount, UsrbioRegions, UsrbioSettings, UsrbioStore,
};
use foreword_proto::checksum::shard_checksum;
use foreword_proto::{ClusterId, EntryKey, SlotRef};
use foreword_seams::{Entropy, SeededEntropy, Telemetry};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::standin::StandIn;
use crate::{CHUNK_BYTES, IN_FLIGHT, SET_BYTES};

const DEADLINE: Duration = Duration::from_secs(60);
const KEY: EntryKey = EntryKey([7; 16]);
pub(crate) const CLUSTER: ClusterId = ClusterId([5; 16]);
pub(crate) const SLAB: u32 = 1;
const POSIX_THREADS: usize = 8;

/// I/Os that are still to be begun, counted down by whoever begins one.
struct Left(AtomicU64);

impl Left {
    fn new(bytes_moved: u64, page_bytes: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(bytes_moved / page_bytes)))
    }

    fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// Plain reads and writes of the slab file by as many threads as are in flight.
pub(crate) struct Raw {
    file: Arc<File>,
    bytes: u64,
    /// One for each thread, each with the page that is in all slots: of the memory that the rings use too.
    buffers: Vec<Arc<Mutex<FrameMut>>>,
}

impl Raw {
    pub(crate) fn open(path: &Path, usrbio: &Stored, direct: bool) -> anyhow::Result<Self> {
        let flags = if direct { rustix::fs::OFlags::DIRECT.bits() as i32 } else { 0 };
        let file = Arc::new(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?);
        let buffer = || anyhow::Ok(Arc::new(Mutex::new(usrbio.worker.page()?)));
        let buffers = (0..IN_FLIGHT).map(|_| buffer()).collect::<anyhow::Result<_>>()?;
        Ok(Self { file, bytes: usrbio.worker.shape.frame_bytes, buffers })
    }

    pub(crate) async fn run(&self, write: bool, bytes_moved: u64) -> anyhow::Result<Vec<Duration>> {
        let left = Left::new(bytes_moved, self.bytes);
        let threads: Vec<_> = self
            .buffers
            .iter()
            .zip(0u64..)
            .map(|(buffer, seed)| {
                let (file, left, buffer) = (self.file.clone(), left.clone(), buffer.clone());
                tokio::task::spawn_blocking(move || raw_thread(&file, &left, buffer.lock().bytes_mut(), write, seed))
            })
            .collect();
        let mut took = Vec::new();
        for thread in threads {
            took.extend(thread.await??);
        }
        Ok(took)
    }
}

fn raw_thread(file: &File, left: &Left, page: &mut [u8], write: bool, seed: u64) -> anyhow::Result<Vec<Duration>> {
    let entropy = SeededEntropy::new(seed);
    let bytes = page.len() as u64;
    let mut took = Vec::new();
    while left.take() {
        let at = entropy.below(SET_BYTES / bytes) * bytes;
        let began = Instant::now();
        match write {
            true => file.write_all_at(page, at)?,
            false => file.read_exact_at(page, at)?,
        }
        took.push(began.elapsed());
    }
    Ok(took)
}

/// An agent's L3 with one slab full of pages.
pub(crate) struct Stored {
    worker: Arc<Worker>,
    stop: CancellationToken,
}

/// What those in flight share.
struct Worker {
    l3: Arc<L3>,
    arena: Arena,
    shape: PageShape,
    checksum: u64,
    /// What puts write, one for each in flight.
    pages: Vec<Frame>,
}

impl Stored {
    /// Over the posix store at `root`, an L3 root.
    pub(crate) async fn posix(root: &Path, bytes: u64) -> anyhow::Result<Self> {
        let store: SharedStore = Arc::new(PosixStore::new(root, CLUSTER, CHUNK_BYTES, POSIX_THREADS)?);
        Self::new(store, Arc::new(MemfdRegions::new(true)), bytes).await
    }

    /// Over the stand-in's rings.
    pub(crate) async fn usrbio(standin: &StandIn, bytes: u64) -> anyhow::Result<Self> {
        let root = standin.mount.clone();
        let made = tokio::task::spawn_blocking(move || {
            let mount = UsrbioMount::attach(&root, ClientKind::Native)?;
            let store = UsrbioStore::new(mount.clone(), root, CLUSTER, UsrbioSettings::default())?;
            anyhow::Ok((mount, store))
        });
        let (mount, store) = made.await??;
        Self::new(Arc::new(store), Arc::new(UsrbioRegions::new(mount)), bytes).await
    }

    async fn new(store: SharedStore, regions: Arc<dyn RegionProvider>, bytes: u64) -> anyhow::Result<Self> {
        // Frames for the puts' pages, the gets, and raw I/O.
        let arena = Arena::new(ArenaSettings::new(4 * IN_FLIGHT as u64 * bytes), regions)?;
        let l3 = Arc::new(L3::new(store, SET_BYTES, DEADLINE, Arc::new(Counters::new(Telemetry::new()))));
        let stop = CancellationToken::new();
        tokio::spawn(l3.clone().run(stop.clone()));
        let shape = PageShape { slot_bytes: bytes as u32, frame_bytes: bytes };
        let mut worker = Worker { l3, arena, shape, checksum: 0, pages: Vec::new() };
        worker.pages = (0..IN_FLIGHT).map(|_| Ok(worker.page()?.freeze())).collect::<anyhow::Result<_>>()?;
        worker.checksum = shard_checksum(&KEY, 0, worker.pages[0].bytes());
        let worker = Arc::new(worker);
        for slot in 0..worker.slots() {
            worker.put(worker.slot(slot), &worker.pages[0]).await?;
        }
        Ok(Self { worker, stop })
    }

    /// Tasks as an agent has for its sessions, one for each in flight.
    pub(crate) async fn run(&self, write: bool, bytes_moved: u64) -> anyhow::Result<Vec<Duration>> {
        let left = Left::new(bytes_moved, self.worker.shape.frame_bytes);
        let tasks: Vec<_> =
            (0..IN_FLIGHT).map(|number| tokio::spawn(self.worker.clone().work(left.clone(), write, number))).collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await??);
        }
        Ok(took)
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Worker {
    /// A frame with the page that is in all slots.
    fn page(&self) -> anyhow::Result<FrameMut> {
        let mut page = self.arena.allocate(1, self.shape.frame_bytes)?;
        let entropy = SeededEntropy::new(0);
        for word in page.bytes_mut().chunks_exact_mut(8) {
            word.copy_from_slice(&entropy.u64().to_le_bytes());
        }
        Ok(page)
    }

    fn slots(&self) -> u64 {
        SET_BYTES / u64::from(self.shape.slot_bytes)
    }

    fn slot(&self, slot: u64) -> SlotRef {
        SlotRef { slab: SLAB, slot: slot as u32, generation: 1 }
    }

    async fn work(self: Arc<Self>, left: Arc<Left>, write: bool, number: usize) -> anyhow::Result<Vec<Duration>> {
        let entropy = SeededEntropy::new(number as u64);
        let mut took = Vec::new();
        while left.take() {
            let slot = self.slot(entropy.below(self.slots()));
            let began = Instant::now();
            match write {
                true => self.put(slot, &self.pages[number]).await?,
                false => self.get(slot).await?,
            }
            took.push(began.elapsed());
        }
        Ok(took)
    }

    async fn put(&self, slot: SlotRef, page: &Frame) -> anyhow::Result<()> {
        let written = self.l3.write(self.shape, vec![(slot, page.clone())], || true).await;
        ensure!(written == [Written::Whole], "slot {}: {written:?}", slot.slot);
        Ok(())
    }

    /// A read and its check, in a task of their own: whoever asked may leave.
    async fn get(self: &Arc<Self>, slot: SlotRef) -> anyhow::Result<()> {
        let worker = self.clone();
        let reading = tokio::spawn(async move {
            let frame = worker.arena.allocate(1, worker.shape.frame_bytes)?;
            let (frame, bytes) = worker.l3.read(worker.shape, slot, frame, Instant::now() + DEADLINE).await?;
            anyhow::Ok((bytes, shard_checksum(&KEY, 0, frame.bytes()) == worker.checksum))
        });
        ensure!(reading.await?? == (self.shape.frame_bytes, true), "a page that is not the one written");
        Ok(())
    }
}
