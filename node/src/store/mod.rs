//! L3: page bytes in slab files, behind one completion-based seam.
//!
//! A store takes batches of owned I/Os and gives completions. Dropping a future never frees a buffer under I/O: a frame comes
//! back by its completion, or by a new epoch.

use std::sync::Arc;

use foreword_proto::{ClusterId, SlabId};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::arena::{Frame, FrameMut};

/// Name of an I/O within its store; never reused while the store lives.
pub type OpId = u64;

/// One transfer between a frame and a slab. The frame is owned by the I/O until it completes.
pub struct Io {
    pub op: OpId,
    pub slab: SlabId,
    /// Offset in the slab file, and the bytes to move: a whole slot's page, multiples of 4,096.
    pub offset: u64,
    pub len: u64,
    pub transfer: Transfer,
}

/// The direction of an I/O with the frame it owns.
pub enum Transfer {
    /// Fills the frame from its start.
    Read(FrameMut),
    /// Writes the frame from its start; nobody changes a shared frame.
    Write(Frame),
}

/// A finished I/O: its frame and the bytes moved (fewer than asked: the end of the file).
pub struct Completion {
    pub op: OpId,
    pub transfer: Transfer,
    pub result: Result<u64, StoreError>,
}

/// A fault of the store. Never a mismatch of bytes: the caller's checksum decides that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the store answered errno {0}")]
    Errno(i32),
    #[error("slab {0} is not open here")]
    NoSlab(SlabId),
    #[error("no answer within the deadline; the write's result is unknown")]
    TimedOut,
    #[error("the store is gone")]
    Gone,
}

/// What identifies an L3 directory: the content of `<root>/<cluster id>/CLUSTER`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterMark {
    pub format: u32,
    pub cluster_id: ClusterId,
    pub chunk_bytes: u32,
    /// The filesystem's type name at init (`ext4`, `fuse.hf3fs`), for a message only.
    pub fs_type: String,
}

/// Page bytes of one cluster on L3.
pub trait PageStore: Send + Sync + 'static {
    /// The store's chunk: slot sizes are multiples of it.
    fn chunk_bytes(&self) -> u32;
    /// Reads `<root>/<cluster id>/CLUSTER`; the agent compares it before any I/O.
    fn cluster_mark(&self) -> BoxFuture<'static, Result<Option<ClusterMark>, StoreError>>;
    /// Makes the slab file if there is none, sets its size once, and keeps it open. Idempotent, also between agents.
    fn open_slab(&self, slab: SlabId, bytes: u64) -> BoxFuture<'static, Result<(), StoreError>>;
    /// Takes a batch of I/Os. Each gives exactly one completion, or none before the epoch changes.
    fn submit(&self, batch: Vec<Io>);
    /// Waits for completions; at least one.
    fn complete(&self) -> BoxFuture<'_, Vec<Completion>>;
    /// Removes a slab file; one that is not there is no error.
    fn remove_slab(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>>;
    /// Counts how often everything had to be made anew (daemon restarts); I/Os of an older epoch are lost.
    fn epoch(&self) -> u64;
}

/// A store shared by the agent's tasks.
pub type SharedStore = Arc<dyn PageStore>;
