//! L3 on any POSIX filesystem: slab files, and threads that read and write them.
//!
//! No fsync and no metadata operation per page: a slab is opened once. Layout: `<root>/<cluster id>/slabs/<8 hex
//! digits>.slab`.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use foreword_proto::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use foreword_proto::{BadInput, ClusterId, SlabId};
use futures::future::BoxFuture;
use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::time::Instant;

use super::completions::Completions;
use super::mark::{self, MarkError};
use super::{ClusterMark, Completion, IO_THREADS_MAX, IOS_QUEUED_MAX, Io, PageStore, StoreError, Transfer};

/// Slab files that are kept open; the one that was used least lately is closed for another. A file that somebody
/// removed is in use for as long.
const OPEN_SLABS_MAX: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Slab files below one root. Needs a tokio runtime for opening and removing slabs.
///
/// Dropping it ends its threads; an I/O under way is finished first, with its frame in the thread's hands.
pub struct PosixStore {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    cluster_id: ClusterId,
    chunk_bytes: u32,
    slabs: Mutex<LruCache<SlabId, Arc<OwnedFd>>>,
    queues: Mutex<Queues>,
    work: Condvar,
    completions: Completions,
}

/// Reads and writes wait apart, and neither may have all threads: a filesystem that hangs in one still answers the
/// other.
struct Queues {
    reads: Queue,
    writes: Queue,
    closed: bool,
}

struct Queue {
    ios: VecDeque<Io>,
    /// Threads that are at one of these.
    busy: usize,
    busy_max: usize,
}

impl Queues {
    /// Reads may have all threads but one, since engines wait for them; writes half.
    fn new(threads: usize) -> Self {
        let queue = |busy_max: usize| Queue { ios: VecDeque::new(), busy: 0, busy_max: busy_max.max(1) };
        Self { reads: queue(threads - 1), writes: queue(threads / 2), closed: false }
    }

    fn of(&mut self, transfer: &Transfer) -> &mut Queue {
        match transfer {
            Transfer::Read(_) => &mut self.reads,
            Transfer::Write(_) => &mut self.writes,
        }
    }

    fn next(&mut self) -> Option<Io> {
        [&mut self.reads, &mut self.writes].into_iter().find_map(|queue| {
            let io = if queue.busy < queue.busy_max { queue.ios.pop_front() } else { None };
            queue.busy += usize::from(io.is_some());
            io
        })
    }
}

impl PosixStore {
    /// A store below `root` for this cluster, with so many I/O threads. The caller compares [`PageStore::cluster_mark`]
    /// before any I/O.
    ///
    /// Errors: a chunk size or number of threads out of range, named; a thread that cannot be made.
    pub fn new(
        root: impl Into<PathBuf>,
        cluster_id: ClusterId,
        chunk_bytes: u32,
        threads: usize,
    ) -> Result<Self, BadInput> {
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes) || !chunk_bytes.is_power_of_two() {
            let expected = format!("a power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}, got {chunk_bytes}");
            return Err(BadInput::new("chunk_bytes", expected));
        }
        if !(1..=IO_THREADS_MAX).contains(&threads) {
            return Err(BadInput::new("io_threads", format!("1 to {IO_THREADS_MAX}, got {threads}")));
        }
        let shared = Arc::new(Shared {
            root: root.into(),
            cluster_id,
            chunk_bytes,
            slabs: Mutex::new(LruCache::new(OPEN_SLABS_MAX)),
            queues: Mutex::new(Queues::new(threads)),
            work: Condvar::new(),
            completions: Completions::default(),
        });
        // Made before its threads: an error on the way ends those that started.
        let store = Self { shared };
        for number in 0..threads {
            let shared = store.shared.clone();
            std::thread::Builder::new().name(format!("l3-io-{number}")).spawn(move || shared.serve()).map_err(
                |error| BadInput::new("io_threads", format!("a number of threads that can be made ({error})")),
            )?;
        }
        Ok(store)
    }
}

impl Drop for PosixStore {
    fn drop(&mut self) {
        let unserved = {
            let mut queues = self.shared.queues.lock();
            queues.closed = true;
            (std::mem::take(&mut queues.reads.ios), std::mem::take(&mut queues.writes.ios))
        };
        self.shared.work.notify_all();
        drop(unserved);
    }
}

impl PageStore for PosixStore {
    fn chunk_bytes(&self) -> u32 {
        self.shared.chunk_bytes
    }

    fn cluster_mark(&self) -> BoxFuture<'static, Result<Option<ClusterMark>, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(blocking(move || mark::read_usable_mark(&shared.root, shared.cluster_id).map_err(mark_error)))
    }

    fn open_slab(&self, slab: SlabId, bytes: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        let shared = self.shared.clone();
        Box::pin(blocking(move || shared.open_slab(slab, bytes).map_err(errno)))
    }

    fn reads_at_once(&self) -> usize {
        self.shared.queues.lock().reads.busy_max
    }

    fn submit(&self, batch: Vec<Io>) {
        batch.iter().for_each(Io::check);
        let mut refused = Vec::new();
        let taken = batch.len();
        {
            let mut queues = self.shared.queues.lock();
            for io in batch {
                let queue = queues.of(&io.transfer);
                if queue.ios.len() < IOS_QUEUED_MAX {
                    queue.ios.push_back(io);
                } else {
                    refused.push(io);
                }
            }
        }
        match taken {
            1 => drop(self.shared.work.notify_one()),
            _ => drop(self.shared.work.notify_all()),
        }
        for io in refused {
            self.shared.completions.push(io.done(Err(errno(Errno::AGAIN))));
        }
    }

    /// A thread opens it when it reads.
    fn open_to_read(&self, _: SlabId) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn complete(&self) -> BoxFuture<'_, Vec<Completion>> {
        Box::pin(self.shared.completions.wait())
    }

    fn remove_slab(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>> {
        let shared = self.shared.clone();
        Box::pin(blocking(move || shared.remove_slab(slab).map_err(errno)))
    }

    fn epoch(&self) -> u64 {
        0
    }
}

impl Shared {
    fn slab_path(&self, slab: SlabId) -> PathBuf {
        mark::slabs_dir(&self.root, self.cluster_id).join(format!("{slab:08x}.slab"))
    }

    fn open_slab(&self, slab: SlabId, bytes: u64) -> Result<(), Errno> {
        let fd = match self.known(slab) {
            Some(fd) => fd,
            None => self.open(slab, OFlags::CREATE)?,
        };
        // Another agent may have made it, and may have written to it: only ever longer, never cut.
        if (rustix::fs::fstat(&fd)?.st_size as u64) < bytes {
            rustix::fs::ftruncate(&fd, bytes)?;
        }
        Ok(())
    }

    fn known(&self, slab: SlabId) -> Option<Arc<OwnedFd>> {
        self.slabs.lock().get(&slab).cloned()
    }

    fn open(&self, slab: SlabId, flags: OFlags) -> Result<Arc<OwnedFd>, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | flags;
        let fd = Arc::new(rustix::fs::open(self.slab_path(slab), flags, Mode::RUSR | Mode::WUSR)?);
        let closed = self.slabs.lock().push(slab, fd.clone());
        // Outside of the lock: the filesystem may take its time.
        drop(closed);
        Ok(fd)
    }

    fn remove_slab(&self, slab: SlabId) -> Result<(), Errno> {
        // I/Os under way keep their descriptor; later ones find no slab.
        let fd = self.slabs.lock().pop(&slab);
        drop(fd);
        match rustix::fs::unlink(self.slab_path(slab)) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// A thread's life.
    fn serve(&self) {
        while let Some(mut io) = self.next() {
            let result = self.perform(&mut io);
            self.queues.lock().of(&io.transfer).busy -= 1;
            // Another may have been left waiting for this thread's place.
            self.work.notify_one();
            self.completions.push(io.done(result));
        }
    }

    fn perform(&self, io: &mut Io) -> Result<u64, StoreError> {
        if io.is_stale(Instant::now()) {
            return Err(StoreError::TimedOut);
        }
        let fd = match self.known(io.slab) {
            Some(fd) => Ok(fd),
            None => self.open(io.slab, OFlags::empty()),
        };
        let fd = fd.map_err(|error| if error == Errno::NOENT { StoreError::NoSlab(io.slab) } else { errno(error) })?;
        // Opening may have taken long: the slot may be another page's by now.
        if io.is_stale(Instant::now()) {
            return Err(StoreError::TimedOut);
        }
        transfer(&fd, io)
    }

    fn next(&self) -> Option<Io> {
        let mut queues = self.queues.lock();
        loop {
            if queues.closed {
                return None;
            }
            if let Some(io) = queues.next() {
                return Some(io);
            }
            self.work.wait(&mut queues);
        }
    }
}

/// Moves the bytes; gives their number, smaller than asked only at the end of the file.
fn transfer(fd: &OwnedFd, io: &mut Io) -> Result<u64, StoreError> {
    let (offset, len) = (io.offset, io.len as usize);
    match &mut io.transfer {
        Transfer::Read(frame) => {
            let bytes = &mut frame.bytes_mut()[..len];
            move_all(len, |done| rustix::io::pread(fd, &mut bytes[done..], offset + done as u64))
                .map_err(|(error, _)| errno(error))
        }
        Transfer::Write(frame) => {
            let bytes = &frame.bytes()[..len];
            move_all(len, |done| rustix::io::pwrite(fd, &bytes[done..], offset + done as u64)).map_err(|fault| {
                match fault {
                    (Errno::NOSPC | Errno::DQUOT, 0) => StoreError::NoRoom(fault.0.raw_os_error()),
                    (error, _) => errno(error),
                }
            })
        }
    }
}

/// Errors: with the bytes that were moved before.
fn move_all(len: usize, mut step: impl FnMut(usize) -> Result<usize, Errno>) -> Result<u64, (Errno, usize)> {
    let mut done = 0;
    while done < len {
        match step(done) {
            Ok(0) => break,
            Ok(moved) => done += moved,
            Err(Errno::INTR) => {}
            Err(error) => return Err((error, done)),
        }
    }
    Ok(done as u64)
}

fn errno(error: Errno) -> StoreError {
    StoreError::Errno(error.raw_os_error())
}

fn mark_error(error: MarkError) -> StoreError {
    match error {
        MarkError::Io { error, .. } if error.raw_os_error().is_some() => {
            StoreError::Errno(error.raw_os_error().unwrap_or_default())
        }
        MarkError::OtherVersion(other) => StoreError::OtherVersion(other),
        other @ MarkError::Access { .. } => StoreError::NoAccess(other.to_string()),
        other => StoreError::BadMark(other.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    // A runtime that is shutting down cancels the work.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        if error.is_panic() { std::panic::resume_unwind(error.into_panic()) } else { Err(StoreError::Gone) }
    })
}
