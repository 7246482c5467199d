//! L3 on 3FS through USRBIO: I/Os through rings in shared memory, frames in memory that the daemon has mapped.
//!
//! - [`UsrbioMount`] ties the process to one mount: its *registrar* thread makes every link and notices that the daemon
//!   died.
//! - [`UsrbioRegions`] gives the arena its segments: L3 reads land where L1 serves them, and no byte is copied.
//! - [`UsrbioStore`] is the [`PageStore`]: *lanes* of one read and one write ring, long-lived, one thread a ring for
//!   completions.
//!
//! Nothing of a healthy page is a metadata operation: a slab is opened and registered once. No call into the mount
//! happens on a caller's thread, so a hung daemon holds up neither submit nor complete nor drop.
//!
//! An I/O whose completion does not come keeps its frame in quarantine, because the daemon may still serve it; no
//! Completion is given for it. All `unsafe` is in `regions.rs`, `lease.rs` and `library.rs`.

mod attachment;
mod client;
mod clock;
mod lane;
mod library;
mod mount;
mod native;
mod outlet;
mod regions;
mod reserve;
mod ring;
mod shm;
mod slots;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foreword_proto::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use foreword_proto::{BadInput, ClusterId, SlabId};
use foreword_seams::Telemetry;
use foreword_usrbio::ENTRIES_MAX;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::mark::{self, MarkError};
use super::{ClusterMark, Completion, IO_THREADS_MAX, Io, PageStore, StoreError, Transfer};
use attachment::Attachment;
use client::RegisteredFile;
use lane::Lane;
use mount::Follower;
use outlet::Outlet;
use ring::Ready;

pub use client::ClientKind;
pub use mount::UsrbioMount;
pub use outlet::UsrbioCounters;
pub use regions::UsrbioRegions;

/// How long a mount may take to make a store's rings at start.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How a store drives its rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsrbioSettings {
    /// Pairs of one read and one write ring, each ring with a thread.
    pub lanes: usize,
    /// I/Os that one ring holds at once.
    pub ring_entries: u32,
    /// How long an I/O may go without a completion before its frame is set aside. Longer than 3FS tries, which is 60 s.
    pub patience: Duration,
}

impl Default for UsrbioSettings {
    fn default() -> Self {
        Self { lanes: 2, ring_entries: 256, patience: Duration::from_secs(90) }
    }
}

impl UsrbioSettings {
    fn validate(&self) -> Result<(), BadInput> {
        if !(1..=IO_THREADS_MAX).contains(&self.lanes) {
            return Err(BadInput::new("lanes", format!("1 to {IO_THREADS_MAX}, got {}", self.lanes)));
        }
        if !(1..=ENTRIES_MAX).contains(&self.ring_entries) {
            return Err(BadInput::new("ring_entries", format!("1 to {ENTRIES_MAX}, got {}", self.ring_entries)));
        }
        if self.patience.is_zero() {
            return Err(BadInput::new("patience", "more than 0"));
        }
        Ok(())
    }
}

/// Slab files below one directory of a 3FS mount. Frames must come from [`UsrbioRegions`] of the same mount; an I/O of
/// another frame, or of one that was registered before the daemon's last death, is answered with
/// [`StoreError::Unregistered`].
///
/// Dropping it ends its threads once what is under way has been answered or given up.
pub struct UsrbioStore {
    shared: Arc<Shared>,
}

struct Shared {
    mount: Arc<UsrbioMount>,
    root: PathBuf,
    cluster_id: ClusterId,
    chunk_bytes: u32,
    settings: UsrbioSettings,
    outlet: Arc<Outlet>,
    live: RwLock<Option<Arc<Live>>>,
    epoch: AtomicU64,
    /// The store was dropped: nothing is made any more.
    closed: AtomicBool,
}

/// What belongs to one epoch.
struct Live {
    attachment: Arc<Attachment>,
    reads: Vec<Arc<Lane>>,
    writes: Vec<Arc<Lane>>,
    slabs: RwLock<BTreeMap<SlabId, Arc<RegisteredFile>>>,
}

impl UsrbioStore {
    /// A store below `root`, a directory on the mount, for this cluster. Blocks until its rings are made.
    ///
    /// Errors: a setting out of range or a chunk size that is no power of two, by name; a daemon that does not answer;
    /// no room in /dev/shm.
    pub fn new(
        mount: Arc<UsrbioMount>,
        root: PathBuf,
        cluster_id: ClusterId,
        settings: UsrbioSettings,
    ) -> Result<Self, BadInput> {
        settings.validate()?;
        let bad = |error: io::Error| BadInput::new("l3", format!("a 3FS mount that takes rings ({error})"));
        let chunk_bytes = mount.chunk_bytes().map_err(bad)?;
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes) || !chunk_bytes.is_power_of_two() {
            let expected = format!("a power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}, got {chunk_bytes}");
            return Err(BadInput::new("chunk_bytes", expected));
        }
        let outlet = Arc::new(Outlet::new(settings.patience));
        let (live, epoch, closed) = (RwLock::default(), AtomicU64::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { mount, root, cluster_id, chunk_bytes, settings, outlet, live, epoch, closed });
        let attachment = shared.mount.living_attachment().map_err(bad)?;
        let made = shared.clone();
        let make = move || made.make_live(&attachment);
        shared.mount.registrar().call(START_PATIENCE, make).and_then(|made| made).map_err(bad)?;
        let follower: Weak<dyn Follower> = Arc::downgrade(&(shared.clone() as Arc<dyn Follower>));
        shared.mount.add_follower(follower);
        Ok(Self { shared })
    }

    /// From now on the host's telemetry counts what happens to its I/Os.
    pub fn report_to(&self, telemetry: &Telemetry) {
        self.shared.outlet.counts.report_to(telemetry);
    }

    /// What happened to its I/Os apart from being done.
    pub fn counters(&self) -> UsrbioCounters {
        self.shared.outlet.counts.read()
    }

    /// Runs `work` on the mount's thread for files.
    fn on_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (sender, receiver) = oneshot::channel();
        let shared = self.shared.clone();
        let posted = self.shared.mount.files().post(move || drop(sender.send(work(&shared))));
        Box::pin(async move {
            if !posted {
                return Err(StoreError::Gone);
            }
            receiver.await.unwrap_or(Err(StoreError::Gone))
        })
    }
}

impl Drop for UsrbioStore {
    fn drop(&mut self) {
        let live = {
            let mut live = self.shared.live.write();
            self.shared.closed.store(true, Ordering::Relaxed);
            live.take()
        };
        drop(live);
    }
}

impl PageStore for UsrbioStore {
    fn chunk_bytes(&self) -> u32 {
        self.shared.chunk_bytes
    }

    fn cluster_mark(&self) -> BoxFuture<'static, Result<Option<ClusterMark>, StoreError>> {
        self.on_files(|shared| mark::read_usable_mark(&shared.root, shared.cluster_id).map_err(mark_error))
    }

    fn open_slab(&self, slab: SlabId, bytes: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        self.on_files(move |shared| shared.open_slab(slab, Some(bytes)))
    }

    fn open_to_read(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>> {
        self.on_files(move |shared| shared.open_slab(slab, None))
    }

    fn reads_at_once(&self) -> usize {
        self.shared.settings.lanes * self.shared.settings.ring_entries as usize
    }

    fn submit(&self, batch: Vec<Io>) {
        batch.iter().for_each(Io::check);
        let shared = &self.shared;
        let live = shared.live.read().clone().filter(|live| !live.attachment.is_over());
        let Some(live) = live else {
            batch.into_iter().for_each(|io| shared.outlet.finish(io, Err(StoreError::Gone)));
            return;
        };
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        for io in batch {
            let queue = if matches!(io.transfer, Transfer::Read(_)) { &mut reads } else { &mut writes };
            match shared.ready(&live, &io) {
                Ok((ticket, region_offset, file)) if io.len > 0 => {
                    queue.push(Ready { io, ticket, region_offset, file, since: clock::now() });
                }
                Ok(_) => shared.outlet.finish(io, Ok(0)),
                Err(error) => shared.outlet.finish(io, Err(error)),
            }
        }
        spread(&live.reads, reads);
        spread(&live.writes, writes);
    }

    fn complete(&self) -> BoxFuture<'_, Vec<Completion>> {
        Box::pin(self.shared.outlet.completions.wait())
    }

    fn remove_slab(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>> {
        self.on_files(move |shared| shared.remove_slab(slab))
    }

    /// That of the rings in use: what was opened in an earlier one is closed.
    fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Acquire)
    }
}

/// Gives each I/O to the lane that has least to do.
fn spread(lanes: &[Arc<Lane>], ios: Vec<Ready>) {
    if ios.is_empty() {
        return;
    }
    let mut loads: Vec<_> = lanes.iter().map(|lane| (lane.load(), Vec::new())).collect();
    for ready in ios {
        let (load, batch) = loads.iter_mut().min_by_key(|(load, _)| *load).expect("a store has a lane");
        *load += 1;
        batch.push(ready);
    }
    for (lane, (_, batch)) in lanes.iter().zip(loads) {
        if !batch.is_empty() {
            lane.submit(batch);
        }
    }
}

impl Live {
    fn lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.reads.iter().chain(&self.writes)
    }
}

type Place = (Arc<regions::RegionTicket>, u64, Arc<RegisteredFile>);

impl Shared {
    /// Makes the rings of an epoch. On the registrar only.
    fn make_live(&self, attachment: &Arc<Attachment>) -> io::Result<()> {
        let lanes = |for_read: bool| {
            let direction = if for_read { 'r' } else { 'w' };
            let make = |number| {
                let (client, entries) = (self.mount.client(), self.settings.ring_entries);
                Lane::make(format!("usrbio-{direction}{number}"), for_read, entries, client, attachment, &self.outlet)
            };
            (0..self.settings.lanes).map(make).collect::<io::Result<Vec<_>>>()
        };
        // Lanes that were made before one failed end their rings as they are dropped.
        let (reads, writes) = (lanes(true)?, lanes(false)?);
        let made = Live { attachment: attachment.clone(), reads, writes, slabs: RwLock::default() };
        let mut live = self.live.write();
        let before = match self.closed.load(Ordering::Relaxed) {
            true => Some(Arc::new(made)),
            false => live.replace(Arc::new(made)),
        };
        // Whoever sees the epoch finds its rings.
        self.epoch.store(attachment.epoch(), Ordering::Release);
        drop(live);
        drop(before);
        Ok(())
    }

    /// Where an I/O's bytes are in memory, and in which file they belong.
    fn ready(&self, live: &Live, io: &Io) -> Result<Place, StoreError> {
        let file = live.slabs.read().get(&io.slab).cloned().ok_or(StoreError::NoSlab(io.slab))?;
        let (region, offset) = match &io.transfer {
            Transfer::Read(frame) => frame.region(),
            Transfer::Write(frame) => frame.region(),
        };
        let ticket = region.name().and_then(|name| self.mount.regions.ticket(name, live.attachment.epoch()));
        Ok((ticket.ok_or(StoreError::Unregistered)?, offset, file))
    }

    fn slab_path(&self, slab: SlabId) -> PathBuf {
        mark::slabs_dir(&self.root, self.cluster_id).join(format!("{slab:08x}.slab"))
    }

    /// Made and grown to so many bytes; None: only if it is there.
    fn open_slab(&self, slab: SlabId, bytes: Option<u64>) -> Result<(), StoreError> {
        let live = self.live.read().clone().filter(|live| !live.attachment.is_over()).ok_or(StoreError::Gone)?;
        let known = live.slabs.read().get(&slab).cloned();
        let file = match known {
            Some(file) => file,
            None => {
                let make = if bytes.is_some() { OFlags::CREATE } else { OFlags::empty() };
                let flags = OFlags::RDWR | OFlags::CLOEXEC | make;
                let opened = rustix::fs::open(self.slab_path(slab), flags, Mode::RUSR | Mode::WUSR);
                let fd = opened.map_err(|error| match error {
                    Errno::NOENT if bytes.is_none() => StoreError::NoSlab(slab),
                    error => errno(error),
                })?;
                Arc::new(self.mount.client().register(fd, self.mount.closer()).map_err(|error| io_error(&error))?)
            }
        };
        // Another agent may have made it, and may have written to it: only ever longer, never cut.
        if let Some(bytes) = bytes
            && (rustix::fs::fstat(file.fd()).map_err(errno)?.st_size as u64) < bytes
        {
            rustix::fs::ftruncate(file.fd(), bytes).map_err(errno)?;
        }
        live.slabs.write().entry(slab).or_insert(file);
        Ok(())
    }

    fn remove_slab(&self, slab: SlabId) -> Result<(), StoreError> {
        // I/Os under way keep their descriptor; later ones find no slab.
        let live = self.live.read().clone();
        let file = live.and_then(|live| live.slabs.write().remove(&slab));
        drop(file);
        match rustix::fs::unlink(self.slab_path(slab)) {
            Err(Errno::NOENT) => Ok(()),
            other => other.map_err(errno),
        }
    }
}

impl Follower for Shared {
    fn follow(&self, attachment: &Arc<Attachment>) {
        let before = self.live.read().clone();
        if before.is_some_and(|live| live.attachment.epoch() == attachment.epoch()) {
            return;
        }
        if let Err(error) = self.make_live(attachment) {
            tracing::warn!(%error, "no rings on the 3FS mount yet");
        }
    }

    fn leave(&self, attachment: &Arc<Attachment>) {
        let live = self.live.read().clone();
        if let Some(live) = live.filter(|live| live.attachment.epoch() == attachment.epoch()) {
            live.lanes().for_each(|lane| lane.wake());
        }
    }
}

fn errno(error: Errno) -> StoreError {
    StoreError::Errno(error.raw_os_error())
}

fn io_error(error: &io::Error) -> StoreError {
    StoreError::Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

fn mark_error(error: MarkError) -> StoreError {
    match error {
        MarkError::Io { error, .. } if error.raw_os_error().is_some() => io_error(&error),
        MarkError::OtherVersion(other) => StoreError::OtherVersion(other),
        other @ MarkError::Access { .. } => StoreError::NoAccess(other.to_string()),
        other => StoreError::BadMark(other.to_string()),
    }
}
