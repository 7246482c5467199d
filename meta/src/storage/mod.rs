//! What a replica keeps on disk: the log with its mark, snapshots, and the identity of its data directory.
//!
//! [`log_store::LogStore`] is what openraft sees. It keeps every entry since the last purge in memory and hands each
//! change to the one [`writer`], which owns the [`engine::LogEngine`] and the [`mark`], and acknowledges what is on
//! disk, in order.

pub mod conformance;
pub mod data_dir;
pub mod engine;
mod flushes;
mod log_memory;
pub mod log_store;
pub mod mark;
pub mod memory_engine;
mod quorums;
mod recovery;
pub mod sled_engine;
pub mod snapshot_file;
pub mod writer;

pub use data_dir::{DataDir, DataDirError, Identity, IdentityFile};
pub use engine::{LogEngine, MetaKey};
pub use flushes::Flushes;
pub use log_store::{LogReader, LogStore, Recovered};
pub use mark::{LocalMark, MarkFile};
pub use recovery::OpenError;
pub use sled_engine::{SledEngine, SledOpenError};
pub use snapshot_file::{SnapshotError, SnapshotHeader, SnapshotReader, SnapshotReceiver, SnapshotWriter};
