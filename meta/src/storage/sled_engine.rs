//! The log on sled, under the rules that measurements gave (shared facts, "sled 0.34.7 as the Raft store"). The only
//! file that names sled.
//!
//! - Its own database, no background flush. `flush()` alone is no barrier on Linux: an fdatasync of our own descriptor
//!   follows.
//! - Between two syncs at most [`UNSYNCED_BYTES_MAX`] are written: of one unsynced batch that small, no emulated power
//!   cut ever lost an acknowledged write; after several unsynced flushes many did.
//! - sled moves what exceeds a quarter of a segment to blob files which it never syncs, and it writes a leaf (17 values
//!   before it splits, a few more after a merge) as one piece: so a value has at most [`CHUNK_BYTES`], and an item as
//!   many chunks as it needs.
//! - A database whose files do not open is a lost replica; nothing is repaired.
//!
//! Tree `log`: key = index (u64 big-endian), chunk number (u32 big-endian); the first chunk starts with the item's
//! length (u32 LE). Tree `meta`: key = the [`MetaKey`]'s number.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;

use foreword_proto::versions::Foreign;

use super::engine::{Item, LogEngine, MetaKey, check_consecutive};
use super::recovery::OpenError;

/// Bytes of one sled value: 20 of them and their keys stay below a quarter of sled's 512 KiB segment.
const CHUNK_BYTES: usize = 5 << 10;
/// Bytes written between two syncs.
const UNSYNCED_BYTES_MAX: usize = 248 << 10;
/// What sled writes beside a value.
const WRITE_OVERHEAD_BYTES: usize = 64;
/// What a removal counts for: sled rewrites a leaf of at most 20 chunks, half full on average, every ten changes.
const REMOVE_BYTES: usize = CHUNK_BYTES;
/// sled's page cache: the log is read from it only at a start.
const CACHE_BYTES: u64 = 32 << 20;
/// Length prefix of an item.
const LENGTH_BYTES: usize = 4;
const SEGMENT_BYTES: usize = 512 << 10;
/// sled's parameters: lines of `name: value`, then their crc32.
const CONF: &str = "conf";
const SLED_VERSION: &str = "0.34";

const _: () = assert!(20 * (CHUNK_BYTES + WRITE_OVERHEAD_BYTES) < SEGMENT_BYTES / 4);

/// Why the database did not open.
#[derive(Debug, thiserror::Error)]
pub enum SledOpenError {
    /// What the files hold is no database: the replica's log is lost, its directory is to be set aside.
    #[error("log: expected a database that opens, {0}")]
    Lost(String),
    /// The operating system refused (permissions, descriptors, a full or failing disk), or another process holds the
    /// database. The log may be whole: setting it aside would throw away what it promises.
    #[error("log: {0}")]
    Io(io::Error),
}

impl From<SledOpenError> for OpenError {
    fn from(error: SledOpenError) -> Self {
        match error {
            SledOpenError::Lost(what) => Self::Lost(what),
            SledOpenError::Io(error) => Self::Io(error),
        }
    }
}

fn open_error(error: io::Error) -> SledOpenError {
    let locked = error.to_string().contains("could not acquire lock");
    if locked || error.raw_os_error().is_some() {
        SledOpenError::Io(error)
    } else {
        SledOpenError::Lost(format!("got: {error}"))
    }
}

/// A log in a directory of its own.
pub struct SledEngine {
    db: sled::Db,
    log: sled::Tree,
    meta: sled::Tree,
    file: File,
    bounds: Option<(u64, u64)>,
    bytes: u64,
    unsynced: usize,
}

impl SledEngine {
    /// Opens or makes the database in `dir`. What an interrupted append, truncation or purge left half done is
    /// finished.
    pub fn open(dir: &Path) -> Result<Self, SledOpenError> {
        let opened = catch_unwind(AssertUnwindSafe(|| Self::try_open(dir)));
        match opened {
            Ok(engine) => engine.map_err(open_error),
            Err(panic) => Err(SledOpenError::Lost(format!("sled panicked: {}", panic_text(&*panic)))),
        }
    }

    /// Whether the database in `dir` is of another version of sled; changes nothing. A damaged `conf` is not: the open
    /// decides.
    pub fn check_version(dir: &Path) -> Result<(), Foreign> {
        let conf = std::fs::read(dir.join(CONF)).unwrap_or_default();
        let Some((text, crc)) = conf.split_last_chunk::<4>() else { return Ok(()) };
        if crc32fast::hash(text) != u32::from_le_bytes(*crc) {
            return Ok(());
        }
        let text = String::from_utf8_lossy(text);
        match text.lines().find_map(|line| line.strip_prefix("version: ")) {
            Some(version) if version != SLED_VERSION => {
                Err(Foreign::Engine(format!("a database of sled {version}, this binary has sled {SLED_VERSION}")))
            }
            _ => Ok(()),
        }
    }

    fn try_open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let config = sled::Config::default().path(dir).flush_every_ms(None).cache_capacity(CACHE_BYTES);
        let db = config.open().map_err(fault)?;
        let (log, meta) = (db.open_tree("log").map_err(fault)?, db.open_tree("meta").map_err(fault)?);
        let file = File::options().write(true).open(dir.join("db"))?;
        let mut engine = Self { db, log, meta, file, bounds: None, bytes: 0, unsynced: 0 };
        engine.flush()?;
        // The names of the files must be as durable as what they hold.
        File::open(dir)?.sync_all()?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        engine.scan()?;
        engine.flush()?;
        Ok(engine)
    }

    /// Finds bounds and bytes, and removes a half-purged item at the front and a half-written one at the end.
    fn scan(&mut self) -> io::Result<()> {
        let mut open: Option<Open> = None;
        let mut orphans = Vec::new();
        for entry in self.log.iter() {
            let (key, value) = entry.map_err(fault)?;
            let (index, chunk) = parse_key(&key)?;
            match &mut open {
                Some(item) if item.index == index && item.chunks == chunk => item.take(value.len()),
                Some(item) if item.complete() && chunk == 0 && index == item.index + 1 => {
                    self.found(item);
                    *item = Open::start(index, &value)?;
                }
                Some(item) => return Err(missing(item.index, item.chunks)),
                None if chunk == 0 => open = Some(Open::start(index, &value)?),
                None => orphans.push(key),
            }
        }
        match open {
            Some(item) if item.complete() => self.found(&item),
            Some(item) => {
                for chunk in (0..item.chunks).rev() {
                    self.remove_key(&key(item.index, chunk))?;
                }
            }
            None => {}
        }
        orphans.iter().try_for_each(|key| self.remove_key(key))
    }

    fn found(&mut self, item: &Open) {
        let first = self.bounds.map_or(item.index, |(first, _)| first);
        self.bounds = Some((first, item.index));
        self.bytes += item.length as u64;
    }

    /// Makes room for `bytes` more before the next sync, by a sync if need be.
    fn budget(&mut self, bytes: usize) -> io::Result<()> {
        if self.unsynced > 0 && self.unsynced + bytes > UNSYNCED_BYTES_MAX {
            self.flush()?;
        }
        self.unsynced += bytes;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.db.flush().map_err(fault)?;
        self.file.sync_data()?;
        self.unsynced = 0;
        Ok(())
    }

    fn remove_key(&mut self, key: &[u8]) -> io::Result<()> {
        self.budget(REMOVE_BYTES)?;
        self.log.remove(key).map_err(fault).map(|_| ())
    }

    /// Bytes of one item, as its first chunk says.
    fn length(&self, index: u64) -> io::Result<usize> {
        let first = self.log.get(key(index, 0)).map_err(fault)?.ok_or_else(|| missing(index, 0))?;
        Ok(Open::start(index, &first)?.length)
    }

    fn read_item(&self, index: u64) -> io::Result<Bytes> {
        let mut item = BytesMut::new();
        let mut open: Option<Open> = None;
        for entry in self.log.scan_prefix(index.to_be_bytes()) {
            let (key, value) = entry.map_err(fault)?;
            let (_, chunk) = parse_key(&key)?;
            match &mut open {
                None if chunk == 0 => open = Some(Open::start(index, &value)?),
                Some(open) if open.chunks == chunk => open.take(value.len()),
                _ => return Err(missing(index, open.map_or(0, |open| open.chunks))),
            }
            item.extend_from_slice(&value);
        }
        match open {
            Some(open) if open.complete() => Ok(item.freeze().slice(LENGTH_BYTES..)),
            open => Err(missing(index, open.map_or(0, |open| open.chunks))),
        }
    }

    /// Writes one item, its first chunk first: what a crash cuts off is missing at the end, where it is found.
    fn put_item(&mut self, batch: &mut Batch, index: u64, item: &Bytes) -> io::Result<()> {
        let length = u32::try_from(item.len()).map_err(io::Error::other)?;
        let mut stored = BytesMut::with_capacity(LENGTH_BYTES + item.len());
        stored.put_u32_le(length);
        stored.put_slice(item);
        for (chunk, value) in stored.chunks(CHUNK_BYTES).enumerate() {
            let bytes = value.len() + WRITE_OVERHEAD_BYTES;
            if batch.bytes > 0 && batch.bytes + bytes > UNSYNCED_BYTES_MAX {
                self.write(batch)?;
            }
            batch.writes.insert(&key(index, chunk as u32)[..], value);
            batch.bytes += bytes;
        }
        Ok(())
    }

    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        let Batch { writes, bytes } = std::mem::take(batch);
        self.budget(bytes)?;
        self.log.apply_batch(writes).map_err(fault)
    }

    fn remove_item(&mut self, index: u64, last_chunk_first: bool) -> io::Result<()> {
        let length = self.length(index)?;
        let chunks = (LENGTH_BYTES + length).div_ceil(CHUNK_BYTES) as u32;
        for n in 0..chunks {
            let chunk = if last_chunk_first { chunks - 1 - n } else { n };
            self.remove_key(&key(index, chunk))?;
        }
        self.bytes -= length as u64;
        Ok(())
    }
}

#[derive(Default)]
struct Batch {
    writes: sled::Batch,
    bytes: usize,
}

/// An item whose chunks are being counted.
struct Open {
    index: u64,
    /// Bytes of the item.
    length: usize,
    /// Chunks and bytes seen so far.
    chunks: u32,
    seen: usize,
}

impl Open {
    fn start(index: u64, value: &[u8]) -> io::Result<Self> {
        let length = value.first_chunk::<LENGTH_BYTES>().ok_or_else(|| missing(index, 0))?;
        let length = u32::from_le_bytes(*length) as usize;
        Ok(Self { index, length, chunks: 1, seen: value.len() - LENGTH_BYTES })
    }

    fn take(&mut self, bytes: usize) {
        self.chunks += 1;
        self.seen += bytes;
    }

    fn complete(&self) -> bool {
        self.seen == self.length
    }
}

fn key(index: u64, chunk: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn parse_key(bytes: &[u8]) -> io::Result<(u64, u32)> {
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<4>(), bytes.len()) {
        (Some(index), Some(chunk), 12) => Ok((u64::from_be_bytes(*index), u32::from_be_bytes(*chunk))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the log holds a foreign key")),
    }
}

fn missing(index: u64, chunk: u32) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index}: its piece {chunk} is missing"))
}

fn fault(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

impl LogEngine for SledEngine {
    fn append(&mut self, items: &[Item]) -> io::Result<()> {
        check_consecutive(self.bounds.map(|(_, last)| last), items)?;
        let mut batch = Batch::default();
        for (index, item) in items {
            self.put_item(&mut batch, *index, item)?;
        }
        self.write(&mut batch)?;
        for (index, item) in items {
            let first = self.bounds.map_or(*index, |(first, _)| first);
            self.bounds = Some((first, *index));
            self.bytes += item.len() as u64;
        }
        Ok(())
    }

    fn truncate_from(&mut self, index: u64) -> io::Result<()> {
        while let Some((first, last)) = self.bounds.filter(|(_, last)| *last >= index) {
            self.remove_item(last, true)?;
            self.bounds = (last > first).then(|| (first, last - 1));
        }
        Ok(())
    }

    fn purge_to(&mut self, index: u64, items_max: usize) -> io::Result<bool> {
        for _ in 0..items_max {
            let Some((first, last)) = self.bounds.filter(|(first, _)| *first <= index) else { break };
            self.remove_item(first, false)?;
            self.bounds = (first < last).then(|| (first + 1, last));
        }
        Ok(self.bounds.is_none_or(|(first, _)| first > index))
    }

    fn put_meta(&mut self, key: MetaKey, value: Bytes) -> io::Result<()> {
        self.budget(value.len() + WRITE_OVERHEAD_BYTES)?;
        self.meta.insert([key as u8], &value[..]).map_err(fault).map(|_| ())
    }

    fn get_meta(&mut self, key: MetaKey) -> io::Result<Option<Bytes>> {
        let value = self.meta.get([key as u8]).map_err(fault)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<Item>> {
        let Some((first, last)) = self.bounds else { return Ok(Vec::new()) };
        let present = range.start.max(first)..range.end.min(last + 1);
        present.map(|index| Ok((index, self.read_item(index)?))).collect()
    }

    fn bounds(&self) -> Option<(u64, u64)> {
        self.bounds
    }

    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>> {
        // Called from the writer, which has its thread to itself: blocking here is what it is for.
        let flushed = self.flush();
        Box::pin(async move { flushed })
    }

    fn bytes_used(&self) -> u64 {
        self.bytes
    }
}
