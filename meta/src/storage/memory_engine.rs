//! A log in memory that crashes: what was synced is kept apart from what was only written.
//!
//! The simulator's disk. A [`MemoryDisk`] outlives its replica; each start opens an engine on it. A sync can take time and fail.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::engine::{Item, LogEngine, MetaKey, check_consecutive};

/// One write, as the medium sees it: it happens whole or not at all.
#[derive(Debug, Clone)]
enum Write {
    Put(u64, Bytes),
    Remove(u64),
    Meta(MetaKey, Bytes),
}

#[derive(Debug, Clone, Default)]
struct Image {
    items: BTreeMap<u64, Bytes>,
    meta: BTreeMap<MetaKey, Bytes>,
    bytes: u64,
}

impl Image {
    fn apply(&mut self, write: Write) {
        match write {
            Write::Put(index, item) => {
                self.bytes += item.len() as u64;
                let replaced = self.items.insert(index, item);
                self.bytes -= replaced.map_or(0, |item| item.len() as u64);
            }
            Write::Remove(index) => self.bytes -= self.items.remove(&index).map_or(0, |item| item.len() as u64),
            Write::Meta(key, value) => _ = self.meta.insert(key, value),
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    /// What a reader sees.
    live: Image,
    /// What a crash leaves.
    durable: Image,
    /// Writes since the last sync, in order.
    unsynced: VecDeque<Write>,
    sync_time: Duration,
    fault: Option<io::ErrorKind>,
    /// Counts the opens: an engine of an earlier one is of a dead process.
    opens: u64,
}

/// A medium that outlives the process; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

impl MemoryDisk {
    /// Opens an engine, as a new process does; engines opened before fail from now on.
    pub fn open(&self) -> MemoryEngine {
        let mut disk = self.0.lock();
        disk.opens += 1;
        MemoryEngine { disk: self.clone(), open: disk.opens }
    }

    /// A crash: of the writes since the last sync, the first `survivors(how many there are)` are kept. Engines opened before
    /// fail from now on.
    pub fn crash(&self, survivors: impl FnOnce(usize) -> usize) {
        let mut disk = self.0.lock();
        let kept = survivors(disk.unsynced.len()).min(disk.unsynced.len());
        let Disk { durable, unsynced, .. } = &mut *disk;
        unsynced.drain(..kept).for_each(|write| durable.apply(write));
        unsynced.clear();
        disk.live = disk.durable.clone();
        disk.opens += 1;
    }

    /// How long each sync takes from now on.
    pub fn set_sync_time(&self, sync_time: Duration) {
        self.0.lock().sync_time = sync_time;
    }

    /// Makes every write and sync fail from now on, or heals the disk.
    pub fn set_fault(&self, fault: Option<io::ErrorKind>) {
        self.0.lock().fault = fault;
    }

    /// Changes a stored item, as bit rot would. False when there is none at `index`.
    pub fn damage(&self, index: u64, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut disk = self.0.lock();
        let Some(item) = disk.live.items.get(&index) else { return false };
        let mut bytes = item.to_vec();
        change(&mut bytes);
        let write = Write::Put(index, bytes.into());
        disk.live.apply(write.clone());
        disk.durable.apply(write);
        true
    }

    /// Removes the last `items` items, as a disk that lost an acknowledged write would.
    pub fn lose_tail(&self, items: usize) {
        let mut disk = self.0.lock();
        let lost = Vec::from_iter(disk.live.items.keys().rev().take(items).copied());
        for index in lost {
            disk.live.apply(Write::Remove(index));
            disk.durable.apply(Write::Remove(index));
        }
    }
}

/// One process's hold on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryEngine {
    disk: MemoryDisk,
    open: u64,
}

impl MemoryEngine {
    fn with<T>(&self, work: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.0.lock();
        if disk.opens != self.open {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "this process has crashed"));
        }
        if let Some(fault) = disk.fault {
            return Err(io::Error::new(fault, "an injected disk fault"));
        }
        work(&mut disk)
    }

    fn write(&self, writes: impl FnOnce(&Image) -> Vec<Write>) -> io::Result<()> {
        self.with(|disk| {
            for write in writes(&disk.live) {
                disk.live.apply(write.clone());
                disk.unsynced.push_back(write);
            }
            Ok(())
        })
    }
}

impl LogEngine for MemoryEngine {
    fn append(&mut self, items: &[Item]) -> io::Result<()> {
        check_consecutive(self.bounds().map(|(_, last)| last), items)?;
        self.write(|_| items.iter().map(|(index, item)| Write::Put(*index, item.clone())).collect())
    }

    fn truncate_from(&mut self, index: u64) -> io::Result<()> {
        self.write(|live| live.items.range(index..).rev().map(|(index, _)| Write::Remove(*index)).collect())
    }

    fn purge_to(&mut self, index: u64, items_max: usize) -> io::Result<bool> {
        self.write(|live| {
            let purged = live.items.range(..=index).take(items_max);
            purged.map(|(index, _)| Write::Remove(*index)).collect()
        })?;
        Ok(self.bounds().is_none_or(|(first, _)| first > index))
    }

    fn put_meta(&mut self, key: MetaKey, value: Bytes) -> io::Result<()> {
        self.write(|_| vec![Write::Meta(key, value)])
    }

    fn get_meta(&mut self, key: MetaKey) -> io::Result<Option<Bytes>> {
        self.with(|disk| Ok(disk.live.meta.get(&key).cloned()))
    }

    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<Item>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.with(|disk| Ok(disk.live.items.range(range).map(|(index, item)| (*index, item.clone())).collect()))
    }

    fn bounds(&self) -> Option<(u64, u64)> {
        let disk = self.disk.0.lock();
        let items = &disk.live.items;
        Some((*items.first_key_value()?.0, *items.last_key_value()?.0))
    }

    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            let (writes, sync_time) = self.with(|disk| Ok((disk.unsynced.len(), disk.sync_time)))?;
            // A crash can come in the middle, whatever the time it takes.
            match sync_time.is_zero() {
                true => tokio::task::yield_now().await,
                false => tokio::time::sleep(sync_time).await,
            }
            self.with(|disk| {
                let Disk { durable, unsynced, .. } = disk;
                unsynced.drain(..writes).for_each(|write| durable.apply(write));
                Ok(())
            })
        })
    }

    fn bytes_used(&self) -> u64 {
        self.disk.0.lock().live.bytes
    }
}
