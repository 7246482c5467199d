//! L3 on any POSIX filesystem: slab files, and threads that read and write them.
//!
//! No fsync and no metadata operation per page: a slab is opened once. Layout: `<root>/<cluster id>/slabs/<8 hex digits>.slab`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use foreword_proto::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};
use foreword_proto::{BadInput, ClusterId, SlabId};
use futures::future::BoxFuture;
use parking_lot::{Condvar, Mutex, RwLock};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::completions::Completions;
use super::mark::{self, MarkError};
use super::{ClusterMark, Completion, IO_THREADS_MAX, IOS_QUEUED_MAX, Io, PageStore, StoreError, Transfer};

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
    slabs: RwLock<BTreeMap<SlabId, Arc<OwnedFd>>>,
    queue: Mutex<Queue>,
    work: Condvar,
    completions: Completions,
}

#[derive(Default)]
struct Queue {
    ios: VecDeque<Io>,
    closed: bool,
}

impl PosixStore {
    /// A store below `root` for this cluster, with so many I/O threads. The caller compares [`PageStore::cluster_mark`] before any I/O.
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
            slabs: RwLock::default(),
            queue: Mutex::default(),
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
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.ios)
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
        Box::pin(blocking(move || mark::read_cluster_mark(&shared.root, shared.cluster_id).map_err(mark_error)))
    }

    fn open_slab(&self, slab: SlabId, bytes: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        let shared = self.shared.clone();
        Box::pin(blocking(move || shared.open_slab(slab, bytes).map_err(errno)))
    }

    fn submit(&self, batch: Vec<Io>) {
        batch.iter().for_each(Io::check);
        let mut refused = Vec::new();
        let taken = batch.len();
        {
            let mut queue = self.shared.queue.lock();
            for io in batch {
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
        let known = self.slabs.read().get(&slab).cloned();
        let fd = match known {
            Some(fd) => fd,
            None => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
                Arc::new(rustix::fs::open(self.slab_path(slab), flags, Mode::RUSR | Mode::WUSR)?)
            }
        };
        // Another agent may have made it, and may have written to it: only ever longer, never cut.
        if (rustix::fs::fstat(&fd)?.st_size as u64) < bytes {
            rustix::fs::ftruncate(&fd, bytes)?;
        }
        self.slabs.write().entry(slab).or_insert(fd);
        Ok(())
    }

    fn remove_slab(&self, slab: SlabId) -> Result<(), Errno> {
        // I/Os under way keep their descriptor; later ones find no slab.
        let fd = self.slabs.write().remove(&slab);
        drop(fd);
        match rustix::fs::unlink(self.slab_path(slab)) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// A thread's life.
    fn serve(&self) {
        while let Some(mut io) = self.next() {
            let fd = self.slabs.read().get(&io.slab).cloned();
            let result = match fd {
                Some(fd) => transfer(&fd, &mut io).map_err(errno),
                None => Err(StoreError::NoSlab(io.slab)),
            };
            self.completions.push(io.done(result));
        }
    }

    fn next(&self) -> Option<Io> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(io) = queue.ios.pop_front() {
                return Some(io);
            }
            self.work.wait(&mut queue);
        }
    }
}

/// Moves the bytes; gives their number, smaller than asked only at the end of the file.
fn transfer(fd: &OwnedFd, io: &mut Io) -> Result<u64, Errno> {
    let (offset, len) = (io.offset, io.len as usize);
    match &mut io.transfer {
        Transfer::Read(frame) => {
            let bytes = &mut frame.bytes_mut()[..len];
            move_all(len, |done| rustix::io::pread(fd, &mut bytes[done..], offset + done as u64))
        }
        Transfer::Write(frame) => {
            let bytes = &frame.bytes()[..len];
            move_all(len, |done| rustix::io::pwrite(fd, &bytes[done..], offset + done as u64))
        }
    }
}

fn move_all(len: usize, mut step: impl FnMut(usize) -> Result<usize, Errno>) -> Result<u64, Errno> {
    let mut done = 0;
    while done < len {
        match step(done) {
            Ok(0) => break,
            Ok(moved) => done += moved,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
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
