//! The log's engine of one process on a [`Disk`].

use std::io;
use std::ops::Range;

use bytes::Bytes;
use foreword_meta::storage::engine::Item;
use foreword_meta::storage::memory_engine::MemoryEngine;
use foreword_meta::storage::{LogEngine, MetaKey};
use futures::future::BoxFuture;

use super::{Disk, Op, context, pause};

pub(super) struct SimEngine {
    pub(super) inner: MemoryEngine,
    pub(super) disk: Disk,
}

impl LogEngine for SimEngine {
    fn append(&mut self, items: &[Item]) -> io::Result<()> {
        for (index, item) in items {
            self.disk.digest(Op::Append, &[*index], item);
        }
        if let Err(error) = self.disk.fault(true) {
            // The items before the one that failed are there, for a crash to keep or to lose.
            let written = context::random_below(items.len() as u64 + 1) as usize;
            self.inner.append(&items[..written])?;
            return Err(error);
        }
        self.inner.append(items)
    }

    fn truncate_from(&mut self, index: u64) -> io::Result<()> {
        self.disk.digest(Op::Truncate, &[index], &[]);
        self.disk.fault(false)?;
        self.inner.truncate_from(index)
    }

    fn purge_to(&mut self, index: u64, items_max: usize) -> io::Result<bool> {
        self.disk.digest(Op::Purge, &[index, items_max as u64], &[]);
        self.disk.fault(false)?;
        self.inner.purge_to(index, items_max)
    }

    fn put_meta(&mut self, key: MetaKey, value: Bytes) -> io::Result<()> {
        self.disk.digest(Op::PutMeta, &[key as u64], &value);
        self.disk.fault(true)?;
        self.inner.put_meta(key, value)
    }

    fn get_meta(&mut self, key: MetaKey) -> io::Result<Option<Bytes>> {
        let value = self.inner.get_meta(key)?;
        self.disk.digest(Op::GetMeta, &[key as u64], value.as_deref().unwrap_or_default());
        Ok(value)
    }

    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<Item>> {
        let items = self.inner.read(range.clone())?;
        self.disk.digest(Op::Read, &[range.start, range.end, items.len() as u64], &[]);
        Ok(items)
    }

    fn bounds(&self) -> Option<(u64, u64)> {
        self.inner.bounds()
    }

    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            let time = self.disk.draw_sync_time();
            self.disk.digest(Op::SyncBegins, &[time.as_micros() as u64], &[]);
            pause(time).await;
            self.disk.fault(false)?;
            let lies = self.disk.lies();
            if !lies {
                self.inner.sync().await?;
            }
            self.disk.answers(self.inner.bounds().map(|(_, last)| last), !lies);
            self.disk.digest(Op::Synced, &[], &[]);
            Ok(())
        })
    }

    fn bytes_used(&self) -> u64 {
        self.inner.bytes_used()
    }
}
