//! The snapshots' directory of a replica, with a disk that is full or slow when a test says so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foreword_seams::{FileReader, FileWriter, Files, LocalFiles};
use futures::future::BoxFuture;

/// What outlives a replica's process.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    /// Nothing more can be written.
    pub(crate) full: Arc<AtomicBool>,
    /// How long each chunk of a received snapshot takes.
    pub(crate) chunk_ms: Arc<AtomicU64>,
    /// Bytes of received snapshots that were written.
    pub(crate) received: Arc<AtomicU64>,
}

pub(crate) struct TestFiles {
    pub(crate) files: LocalFiles,
    pub(crate) disk: Disk,
}

impl Files for TestFiles {
    fn create(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileWriter>>> {
        let (creating, disk, received) = (self.files.create(name), self.disk.clone(), name.starts_with("received"));
        Box::pin(async move { Ok(Box::new(Writer { inner: creating.await?, disk, received }) as Box<dyn FileWriter>) })
    }

    fn open(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileReader>>> {
        self.files.open(name)
    }

    fn list(&self) -> BoxFuture<'static, io::Result<Vec<String>>> {
        self.files.list()
    }

    fn remove(&self, name: &str) -> BoxFuture<'static, io::Result<()>> {
        self.files.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, io::Result<()>> {
        self.files.rename(from, to)
    }
}

struct Writer {
    inner: Box<dyn FileWriter>,
    disk: Disk,
    received: bool,
}

impl FileWriter for Writer {
    fn append(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            if self.disk.full.load(Ordering::Acquire) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let len = bytes.len() as u64;
            if self.received {
                tokio::time::sleep(Duration::from_millis(self.disk.chunk_ms.load(Ordering::Acquire))).await;
            }
            self.inner.append(bytes).await?;
            if self.received {
                self.disk.received.fetch_add(len, Ordering::AcqRel);
            }
            Ok(())
        })
    }

    fn seal(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        self.inner.seal()
    }
}
