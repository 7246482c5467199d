//! L3: page bytes in slab files, behind one completion-based seam.
//!
//! A store takes batches of owned I/Os and gives completions. Dropping a future never frees a buffer under I/O: a frame
//! comes back by its completion, or by a new epoch; or it is quarantined.

mod completions;
pub mod conformance;
mod mark;
mod memory;
mod posix;
mod usrbio;

use std::sync::Arc;

use foreword_proto::SlabId;
use foreword_proto::versions::OtherVersion;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::arena::{Frame, FrameMut, Quarantined};

pub use mark::{ClusterMark, MARK_FORMAT, MarkError, clusters_under, filesystem_type, init_l3_root, read_cluster_mark};
pub use memory::{Decision, Faults, IoView, Landed, LateWrite, MemoryL3, MemoryStore, NoFaults};
pub use posix::PosixStore;
pub use usrbio::{ClientKind, UsrbioCounters, UsrbioMount, UsrbioRegions, UsrbioSettings, UsrbioStore};

/// I/Os waiting in one store. More are answered with EAGAIN at once; the arena's frames set a lower bound in practice.
pub const IOS_QUEUED_MAX: usize = 65_536;
/// I/O threads of one store.
pub const IO_THREADS_MAX: usize = 64;

/// Name of an I/O within its store; never reused while the store lives.
pub type OpId = u64;

/// One transfer between a frame and a slab. The frame is owned by the I/O until it completes.
#[derive(Debug)]
pub struct Io {
    pub op: OpId,
    pub slab: SlabId,
    /// Offset in the slab file, and the bytes to move: a whole slot's page, multiples of 4,096. At most the frame's
    /// length.
    pub offset: u64,
    pub len: u64,
    pub transfer: Transfer,
    /// Not begun after this: whoever wanted it has left, and what a write would land in may be another page's by then.
    pub begin_by: Option<Instant>,
}

/// The direction of an I/O with the frame it owns.
#[derive(Debug)]
pub enum Transfer {
    /// Fills the frame from its start.
    Read(FrameMut),
    /// Writes the frame from its start; nobody changes a shared frame.
    Write(Frame),
}

/// A finished I/O: its frame and the bytes moved (fewer than asked: the end of the file).
///
/// After an error, or behind the bytes moved, a frame that was read into holds any bytes.
#[derive(Debug)]
pub struct Completion {
    pub op: OpId,
    pub transfer: Transfer,
    pub result: Result<u64, StoreError>,
}

/// A fault of the store. Never a mismatch of bytes: the caller's checksum decides that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Errno(i32),
    /// A write for which there was no room, and of which no byte was written.
    #[error("no room on L3: {}", std::io::Error::from_raw_os_error(*.0))]
    NoRoom(i32),
    #[error("slab {0} is not open here")]
    NoSlab(SlabId),
    #[error("no answer within the deadline; the write's result is unknown")]
    TimedOut,
    #[error("the store is gone")]
    Gone,
    /// Nothing was submitted: the frame is of an epoch before this one, or of memory the store never knew.
    #[error("the frame's memory is not registered with the store")]
    Unregistered,
    #[error("this is no L3 directory of ours: {0}")]
    BadMark(String),
    /// This user may not use the directory: which file, and what was expected.
    #[error("{0}")]
    NoAccess(String),
    #[error("{0}")]
    OtherVersion(OtherVersion),
}

/// Page bytes of one cluster on L3.
pub trait PageStore: Send + Sync + 'static {
    /// The store's chunk: slot sizes are multiples of it.
    fn chunk_bytes(&self) -> u32;
    /// Reads `<root>/<cluster id>/CLUSTER`; the agent compares it before any I/O.
    fn cluster_mark(&self) -> BoxFuture<'static, Result<Option<ClusterMark>, StoreError>>;
    /// Makes the slab file if there is none, sets its size once, and keeps it open. Idempotent, also between agents.
    fn open_slab(&self, slab: SlabId, bytes: u64) -> BoxFuture<'static, Result<(), StoreError>>;
    /// As [`Self::open_slab`], to read only: nothing is made. One that is not there may be found out by the first read.
    fn open_to_read(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>>;
    /// Reads that are under way side by side; more of them wait in a queue.
    fn reads_at_once(&self) -> usize;
    /// Takes a batch of I/Os and returns at once; nothing orders the I/Os of a batch, nor batches. Each gives exactly
    /// one completion.
    ///
    /// A store that talks to another process gives none for an I/O that stays without an answer for longer than its
    /// patience: the frame is quarantined until the answer comes or its segment is retired. What is under way when the
    /// epoch changes is answered with an error or not at all, and its frame is free.
    fn submit(&self, batch: Vec<Io>);
    /// Waits for completions; at least one. Dropping the future loses none.
    fn complete(&self) -> BoxFuture<'_, Vec<Completion>>;
    /// Removes a slab file; one that is not there is no error.
    fn remove_slab(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>>;
    /// Counts how often everything had to be made anew (daemon restarts); I/Os of an older epoch are lost.
    fn epoch(&self) -> u64;
}

impl Transfer {
    /// Bytes of the frame: what an I/O can move at most.
    pub fn frame_bytes(&self) -> u64 {
        match self {
            Self::Read(frame) => frame.len() as u64,
            Self::Write(frame) => frame.len() as u64,
        }
    }

    /// Sets the frame aside: its I/O was never answered.
    pub fn quarantine(self) -> Quarantined {
        match self {
            Self::Read(frame) => frame.quarantine(),
            Self::Write(frame) => frame.quarantine(),
        }
    }
}

impl Io {
    /// The completion of this I/O.
    pub fn done(self, result: Result<u64, StoreError>) -> Completion {
        Completion { op: self.op, transfer: self.transfer, result }
    }

    /// Whether it is too late to begin.
    fn is_stale(&self, now: Instant) -> bool {
        self.begin_by.is_some_and(|until| until < now)
    }

    /// An I/O longer than its frame is a bug of its maker.
    fn check(&self) {
        let frame_bytes = self.transfer.frame_bytes();
        assert!(self.len <= frame_bytes, "I/O {} moves {} bytes of a frame of {frame_bytes}", self.op, self.len);
    }
}

/// A store shared by the agent's tasks.
pub type SharedStore = Arc<dyn PageStore>;
