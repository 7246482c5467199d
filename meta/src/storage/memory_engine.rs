//! A log in memory that crashes: what was synced is kept apart from what was only written.
//!
//! The simulator's disk. A [`MemoryDisk`] outlives its replica; each start opens an engine on it. A sync can take time
//! and fail.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::engine::{Item, LogEngine, MetaKey, check_consecutive};

/// One write, as the medium sees it: it happens whole or not at all, but for an item that a crash cuts.
#[derive(Debug, Clone)]
enum Write {
    Put(u64, Bytes),
    /// Removes an item from the end.
    Truncate(u64),
    /// Removes an item from the front.
    Purge(u64),
    Meta(MetaKey, Bytes),
}

#[derive(Debug, Clone, Default)]
struct Image {
    items: BTreeMap<u64, Bytes>,
    meta: BTreeMap<MetaKey, Bytes>,
    bytes: u64,
    /// Items as they were appended, purged ones too and undamaged; None: nobody asked for it.
    taken: Option<BTreeMap<u64, Bytes>>,
}

impl Image {
    fn apply(&mut self, write: Write) {
        match write {
            Write::Put(index, item) => {
                if let Some(taken) = &mut self.taken {
                    taken.insert(index, item.clone());
                }
                self.put(index, item);
            }
            Write::Truncate(index) => {
                if let Some(taken) = &mut self.taken {
                    taken.remove(&index);
                }
                self.remove(index);
            }
            Write::Purge(index) => self.remove(index),
            Write::Meta(key, value) => _ = self.meta.insert(key, value),
        }
    }

    fn put(&mut self, index: u64, item: Bytes) {
        self.bytes += item.len() as u64;
        let replaced = self.items.insert(index, item);
        self.bytes -= replaced.map_or(0, |item| item.len() as u64);
    }

    fn remove(&mut self, index: u64) {
        self.bytes -= self.items.remove(&index).map_or(0, |item| item.len() as u64);
    }

    /// Changes the item at `index`, if there is one: not what was taken.
    fn damage(&mut self, index: u64, damaged: &Bytes) {
        if self.items.contains_key(&index) {
            self.put(index, damaged.clone());
        }
    }
}

/// What a crash did to the writes since the last sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crashed {
    /// Writes that are there as if they had been synced.
    pub kept: usize,
    /// Writes that are gone.
    pub lost: usize,
    /// The item that was cut: it is there until the next open, which finds that it is not whole and lets it go.
    pub torn: Option<u64>,
}

#[derive(Debug, Default)]
struct Disk {
    /// What a reader sees.
    live: Image,
    /// What a crash leaves.
    durable: Image,
    /// Writes since the last sync, in order.
    unsynced: VecDeque<Write>,
    /// An item of `durable` that a crash cut.
    torn: Option<u64>,
    sync_time: Duration,
    fault: Option<io::ErrorKind>,
    /// Counts the opens: an engine of an earlier one is of a dead process.
    opens: u64,
}

/// A medium that outlives the process; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

impl MemoryDisk {
    /// Opens an engine, as a new process does; engines opened before fail from now on. An item that a crash cut is
    /// gone, as the contract of [`LogEngine`] has it.
    pub fn open(&self) -> MemoryEngine {
        let mut disk = self.0.lock();
        disk.opens += 1;
        if let Some(torn) = disk.torn.take() {
            disk.live.remove(torn);
            disk.durable.remove(torn);
        }
        MemoryEngine { disk: self.clone(), open: disk.opens }
    }

    /// A crash: of the writes since the last sync, the first `survivors(how many there are)` are kept. Engines opened
    /// before fail from now on.
    pub fn crash(&self, survivors: impl FnOnce(usize) -> usize) -> Crashed {
        self.crash_torn(survivors, |_| None)
    }

    /// A crash like [`Self::crash`], in the middle of the first write that is lost: if that was an item, its first
    /// `cut(its bytes)` bytes are there.
    pub fn crash_torn(
        &self,
        survivors: impl FnOnce(usize) -> usize,
        cut: impl FnOnce(usize) -> Option<usize>,
    ) -> Crashed {
        let mut disk = self.0.lock();
        let kept = survivors(disk.unsynced.len()).min(disk.unsynced.len());
        let Disk { durable, unsynced, torn, .. } = &mut *disk;
        unsynced.drain(..kept).for_each(|write| durable.apply(write));
        if let Some(Write::Put(index, item)) = unsynced.front()
            && let Some(bytes) = cut(item.len())
        {
            durable.put(*index, item.slice(..bytes.min(item.len())));
            *torn = Some(*index);
        }
        let torn = torn.filter(|_| !unsynced.is_empty());
        let crashed = Crashed { kept, lost: unsynced.len(), torn };
        unsynced.clear();
        disk.live = disk.durable.clone();
        disk.opens += 1;
        crashed
    }

    /// Empties the disk, as a new one in its place would be. Engines opened before fail from now on.
    pub fn wipe(&self) {
        let mut disk = self.0.lock();
        let taken = disk.live.taken.as_ref().map(|_| BTreeMap::new());
        let empty = Image { taken, ..Image::default() };
        *disk = Disk {
            live: empty.clone(),
            durable: empty,
            sync_time: disk.sync_time,
            fault: disk.fault,
            opens: disk.opens + 1,
            ..Disk::default()
        };
    }

    /// Remembers from now on what [`Self::taken`] gives.
    pub fn remember_taken(&self) {
        let mut disk = self.0.lock();
        let Disk { live, durable, .. } = &mut *disk;
        for image in [live, durable] {
            image.taken = Some(image.items.clone());
        }
    }

    /// Every item from `index` on as it was appended: those that were purged too, those that were truncated or that a
    /// crash took not. Empty without [`Self::remember_taken`].
    pub fn taken(&self, from: u64) -> Vec<Item> {
        let disk = self.0.lock();
        let taken = disk.live.taken.iter().flat_map(|taken| taken.range(from..));
        taken.map(|(index, item)| (*index, item.clone())).collect()
    }

    /// The item at `index`, as [`Self::taken`] has it.
    pub fn taken_item(&self, index: u64) -> Option<Bytes> {
        self.0.lock().live.taken.as_ref()?.get(&index).cloned()
    }

    /// The stored item a reader would see now.
    pub fn item(&self, index: u64) -> Option<Bytes> {
        self.0.lock().live.items.get(&index).cloned()
    }

    /// Index of the first and of the last item that a crash cannot take.
    pub fn durable_bounds(&self) -> Option<(u64, u64)> {
        let disk = self.0.lock();
        let items = &disk.durable.items;
        Some((*items.first_key_value()?.0, *items.last_key_value()?.0))
    }

    /// Bytes of all items.
    pub fn bytes_used(&self) -> u64 {
        self.0.lock().live.bytes
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
        let bytes = Bytes::from(bytes);
        let Disk { live, durable, unsynced, .. } = &mut *disk;
        live.damage(index, &bytes);
        // One that is not durable yet is damaged on its way there: it must not become durable before those before it.
        let on_its_way = unsynced.iter_mut().rev().find_map(|write| match write {
            Write::Put(at, item) if *at == index => Some(item),
            _ => None,
        });
        match on_its_way {
            Some(item) => *item = bytes,
            None => durable.damage(index, &bytes),
        }
        true
    }

    /// Removes the last `items` items, as a disk that lost an acknowledged write would.
    pub fn lose_tail(&self, items: usize) {
        let mut disk = self.0.lock();
        let lost = Vec::from_iter(disk.live.items.keys().rev().take(items).copied());
        for index in lost {
            disk.live.apply(Write::Truncate(index));
            disk.durable.apply(Write::Truncate(index));
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
        self.write(|live| live.items.range(index..).rev().map(|(index, _)| Write::Truncate(*index)).collect())
    }

    fn purge_to(&mut self, index: u64, items_max: usize) -> io::Result<bool> {
        self.write(|live| {
            let purged = live.items.range(..=index).take(items_max);
            purged.map(|(index, _)| Write::Purge(*index)).collect()
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
        self.disk.bytes_used()
    }
}
