//! The disk of one replica's log: it outlives the replica's processes, and it fails as disks do.
//!
//! Below the seam [`LogEngine`] lies meta's [`MemoryDisk`]; what is added here is time, weather, and what a crash
//! leaves. A sync takes at least a millisecond of the host's clock, as any timer of tokio does, or none.

mod engine;
mod mark;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foreword_meta::storage::IdentityFile;
use foreword_meta::storage::engine::Item;
use foreword_meta::storage::memory_engine::MemoryDisk;
use foreword_meta::storage::{Identity, LogEngine, MarkFile};
use foreword_proto::versions::OtherVersion;
use parking_lot::Mutex;

use super::context::{self, Kind};
use engine::SimEngine;
use mark::{MarkImage, SimMark};

/// What a disk answers instead of working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// Every write and every sync fails. What they would have written is there, or not, or partly.
    Io,
    /// Whatever needs space fails: appended items, named values, new files. Syncs and overwrites go on.
    NoSpace,
}

impl DiskFault {
    /// The error that a caller sees.
    pub(crate) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => libc::EIO,
            Self::NoSpace => libc::ENOSPC,
        })
    }
}

/// How a disk behaves. The default: at once, and as promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskWeather {
    /// A sync (and a store of the mark) takes a time drawn from here, in microseconds.
    pub sync_us_min: u64,
    pub sync_us_max: u64,
    /// So many syncs in a million stall: for half of `stall_ms` to all of it.
    pub stall_per_million: u32,
    pub stall_ms: u64,
    pub fault: Option<DiskFault>,
    /// Syncs answer at once and make nothing durable: a planted fault.
    pub lies: bool,
    /// What the disk says after such a sync is believed by those who look at it from outside, until its power is cut.
    pub believed: bool,
}

/// What happened on a disk so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskCounts {
    pub syncs: u64,
    pub stalls: u64,
    pub io_errors: u64,
    pub no_space: u64,
    pub crashes: u64,
    /// Unsynced writes that a crash lost.
    pub writes_lost: u64,
    pub torn_items: u64,
    pub torn_marks: u64,
    /// Bits that rotted.
    pub rotten: u64,
    pub lies: u64,
}

/// What an operation is, in the digest.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
enum Op {
    Open = 1,
    Append = 2,
    Truncate = 3,
    Purge = 4,
    PutMeta = 5,
    GetMeta = 6,
    Read = 7,
    SyncBegins = 8,
    Synced = 9,
    MarkBegins = 10,
    MarkStored = 11,
    MarkLoaded = 12,
    Identity = 13,
    Fault = 14,
}

struct State {
    host: u32,
    weather: DiskWeather,
    counts: DiskCounts,
    identity: Identity,
    /// Directories that were made here so far.
    directories: u32,
    mark: MarkImage,
    /// The last item that a sync claimed to have made durable, where outsiders believe it.
    claimed: Option<u64>,
    /// Counts the crashes: what an earlier process holds fails.
    process: u64,
}

/// A replica's disk; clones are the same one.
#[derive(Clone)]
pub struct Disk {
    log: MemoryDisk,
    state: Arc<Mutex<State>>,
}

impl Disk {
    /// An empty disk with its identity file. `host` names it in the trace.
    pub fn new(host: u32, identity: Identity) -> Self {
        let log = MemoryDisk::default();
        log.remember_taken();
        let (weather, counts) = (DiskWeather::default(), DiskCounts::default());
        let mark = MarkImage::default();
        let state = State { host, weather, counts, identity, directories: 1, mark, claimed: None, process: 0 };
        Self { log, state: Arc::new(Mutex::new(state)) }
    }

    /// The log's engine, for a new process; earlier ones fail from now on.
    pub fn engine(&self) -> Box<dyn LogEngine> {
        let engine = SimEngine { inner: self.log.open(), disk: self.clone() };
        self.digest(Op::Open, &[engine.bounds().map_or(0, |(_, last)| last), engine.bytes_used()], &[]);
        Box::new(engine)
    }

    /// The mark's file, for a new process.
    pub fn mark(&self) -> Box<dyn MarkFile> {
        let mut state = self.state.lock();
        // A store whose caller left without a crash has happened by now.
        state.mark.finish();
        Box::new(SimMark { process: state.process, disk: self.clone() })
    }

    /// The identity's file, for a new process. Its changes are durable at once.
    pub fn identity_file(&self) -> Arc<dyn IdentityFile> {
        Arc::new(SimIdentityFile { process: self.state.lock().process, disk: self.clone() })
    }

    /// Whose disk it is.
    pub fn identity(&self) -> Identity {
        self.state.lock().identity.clone()
    }

    /// Which directory is on it: (host, how many were made before). What the directory says of itself may be untrue.
    pub fn directory(&self) -> (u32, u32) {
        let state = self.state.lock();
        (state.host, state.directories)
    }

    /// Power is gone: of what was written and not synced a prefix stays, perhaps with a part of the write after it; a
    /// mark that was being stored holds the old bytes, the new ones, or both. What the process held fails.
    pub fn crash(&self) {
        let crashed = self.log.crash_torn(survivors, cut);
        let mut state = self.state.lock();
        let torn_mark = state.mark.crash();
        state.claimed = None;
        state.process += 1;
        state.counts.crashes += 1;
        state.counts.writes_lost += crashed.lost as u64;
        state.counts.torn_items += u64::from(crashed.torn.is_some());
        state.counts.torn_marks += u64::from(torn_mark);
        let host = state.host;
        context::event(Kind::Disk, || {
            let torn = crashed.torn.map_or_else(String::new, |index| format!(", item {index} is cut"));
            let mark = if torn_mark { ", the mark is torn" } else { "" };
            format!("h{host} disk crashed: {} writes kept, {} lost{torn}{mark}", crashed.kept, crashed.lost)
        });
    }

    /// The replica is replaced: an empty disk with another identity.
    pub fn wipe(&self, identity: Identity) {
        self.log.wipe();
        let mut state = self.state.lock();
        state.identity = identity;
        state.directories += 1;
        state.mark = MarkImage::default();
        state.process += 1;
        let host = state.host;
        context::event(Kind::Disk, || format!("h{host} disk replaced by an empty one"));
    }

    /// What opening does with a log that lost what it had acknowledged: the replica is `rejoining` from here on, its
    /// log and its mark are empty. The snapshots are the caller's to remove.
    pub fn set_log_aside(&self) -> io::Result<()> {
        self.change_identity(None, |identity| identity.rejoining = true)?;
        self.log.wipe();
        let mut state = self.state.lock();
        state.mark = MarkImage::default();
        let host = state.host;
        context::event(Kind::Disk, || format!("h{host} log set aside"));
        Ok(())
    }

    /// How the disk behaves from now on.
    pub fn set_weather(&self, weather: DiskWeather) {
        self.state.lock().weather = weather;
    }

    /// How the disk behaves.
    pub fn weather(&self) -> DiskWeather {
        self.state.lock().weather
    }

    /// What happened so far.
    pub fn counts(&self) -> DiskCounts {
        self.state.lock().counts
    }

    /// Bytes of the log's items.
    pub fn bytes_used(&self) -> u64 {
        self.log.bytes_used()
    }

    /// The stored item that a process would read now.
    pub fn item(&self, index: u64) -> Option<Bytes> {
        self.log.item(index)
    }

    /// Every item from `index` on as it was appended, those that were purged since too; not those that were truncated,
    /// that a crash took, or that were set aside. A purge may cover items that were never committed (a snapshot
    /// replaced them).
    pub fn taken_items(&self, from: u64) -> Vec<Item> {
        self.log.taken(from)
    }

    /// The item at `index`, as [`Self::taken_items`] has it.
    pub fn taken_item(&self, index: u64) -> Option<Bytes> {
        self.log.taken_item(index)
    }

    /// Index of the last item that a power cut would leave.
    pub fn durable_last(&self) -> Option<u64> {
        let claimed = self.state.lock().claimed;
        self.log.durable_bounds().map(|(_, last)| last).max(claimed)
    }

    /// Flips one bit of one durable item, as rot does. The item's index; None when there is none.
    pub fn rot_item(&self) -> Option<u64> {
        let (first, last) = self.log.durable_bounds()?;
        let index = first + context::random_below(last - first + 1);
        let rotten = self.log.damage(index, |bytes| flip_bit(bytes));
        let mut state = self.state.lock();
        state.counts.rotten += u64::from(rotten);
        let host = state.host;
        context::event(Kind::Disk, || format!("h{host} a bit of item {index} rots"));
        rotten.then_some(index)
    }

    /// Flips one bit of each half of the mark (`both`), or of one: the mark is unreadable, or one store older.
    pub fn rot_mark(&self, both: bool) {
        let mut state = self.state.lock();
        let first = context::random_below(2) as usize;
        // Of one disk that lost its log's end, an older mark would say nothing: that is more than one fault at once,
        // too.
        if state.mark.tail_lost && !both {
            return;
        }
        for half in [first, 1 - first].into_iter().take(if both { 2 } else { 1 }) {
            state.mark.rot(half);
        }
        state.counts.rotten += 1;
        let host = state.host;
        context::event(Kind::Disk, || format!("h{host} the mark rots, both halves: {both}"));
    }

    /// Loses the last items although they were synced, and leaves the mark. With a rotten mark it keeps them: two
    /// faults of one disk at once are more than anybody is told of.
    pub fn lose_tail(&self, items: usize) {
        let host = {
            let mut state = self.state.lock();
            if state.mark.rotten {
                return;
            }
            state.mark.tail_lost = true;
            state.host
        };
        self.log.lose_tail(items);
        context::event(Kind::Disk, || format!("h{host} disk loses the log's last {items} items"));
    }

    fn digest(&self, op: Op, words: &[u64], bytes: &[u8]) {
        let host = self.state.lock().host;
        let mut all = [u64::from(host), op as u64, 0, 0, 0];
        all[2..2 + words.len()].copy_from_slice(words);
        context::digest(Kind::Disk, &all, bytes);
    }

    /// The fault that this operation meets, if any.
    fn fault(&self, needs_space: bool) -> Result<(), io::Error> {
        let fault = {
            let mut state = self.state.lock();
            let Some(fault) = state.weather.fault.filter(|fault| needs_space || *fault == DiskFault::Io) else {
                return Ok(());
            };
            match fault {
                DiskFault::Io => state.counts.io_errors += 1,
                DiskFault::NoSpace => state.counts.no_space += 1,
            }
            fault
        };
        self.digest(Op::Fault, &[fault as u64], &[]);
        Err(fault.error())
    }

    /// How long a sync takes that begins now.
    fn draw_sync_time(&self) -> Duration {
        let mut state = self.state.lock();
        state.counts.syncs += 1;
        let DiskWeather { sync_us_min, sync_us_max, stall_per_million, stall_ms, .. } = state.weather;
        let spread = sync_us_max.saturating_sub(sync_us_min);
        let micros = sync_us_min + if spread == 0 { 0 } else { context::random_below(spread + 1) };
        if !context::random_chance(stall_per_million) {
            return Duration::from_micros(micros);
        }
        state.counts.stalls += 1;
        let stall = Duration::from_millis(stall_ms / 2 + context::random_below(stall_ms / 2 + 1));
        let host = state.host;
        context::event(Kind::Disk, || format!("h{host} a sync stalls for {stall:?}"));
        stall
    }

    /// True when this sync makes nothing durable.
    fn lies(&self) -> bool {
        let mut state = self.state.lock();
        state.counts.lies += u64::from(state.weather.lies);
        state.weather.lies
    }

    /// A sync answers that everything up to this item is durable, and whether that is so.
    fn answers(&self, last: Option<u64>, durable: bool) {
        let mut state = self.state.lock();
        state.claimed = last.filter(|_| !durable && state.weather.believed);
    }

    /// `process`: the one that asks; None: whoever opens the disk.
    fn change_identity(&self, process: Option<u64>, change: impl FnOnce(&mut Identity)) -> io::Result<()> {
        let mut state = self.state.lock();
        if process.is_some_and(|process| process != state.process) {
            return Err(crashed());
        }
        drop(state);
        self.fault(true)?;
        state = self.state.lock();
        change(&mut state.identity);
        let words = [u64::from(state.identity.bootstrapped), u64::from(state.identity.rejoining)];
        drop(state);
        self.digest(Op::Identity, &words, &[]);
        Ok(())
    }
}

struct SimIdentityFile {
    disk: Disk,
    process: u64,
}

impl IdentityFile for SimIdentityFile {
    fn bootstrapped(&self) -> io::Result<()> {
        self.disk.change_identity(Some(self.process), |identity| identity.bootstrapped = true)
    }

    fn members_are(&self, members: &BTreeMap<u64, String>) -> io::Result<()> {
        self.disk.change_identity(Some(self.process), |identity| {
            identity.members = members.clone();
            identity.bootstrapped = true;
        })
    }

    fn caught_up(&self) -> io::Result<()> {
        self.disk.change_identity(Some(self.process), |identity| identity.rejoining = false)
    }

    fn distrust(&self) -> io::Result<()> {
        self.disk.change_identity(Some(self.process), |identity| identity.distrusted = true)
    }

    fn format_version_is(&self, version: u32) -> io::Result<()> {
        self.disk.change_identity(Some(self.process), |identity| identity.format_version = version)
    }

    fn needs(&self, other: &OtherVersion) -> io::Result<()> {
        Err(io::Error::other(format!("every process here is of one version: {other}")))
    }
}

/// What a handle of a process that is gone answers.
pub(crate) fn crashed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "this process has crashed")
}

/// Waits on the host's clock. A crash can come in the middle, whatever the time it takes.
pub(crate) async fn pause(time: Duration) {
    match time.is_zero() {
        true => tokio::task::yield_now().await,
        false => tokio::time::sleep(time).await,
    }
}

/// How many of so many unsynced writes a crash leaves: often none or all, which few uniform draws would try.
fn survivors(writes: usize) -> usize {
    match context::random_below(4) {
        0 => 0,
        1 => writes,
        _ => context::random_below(writes as u64 + 1) as usize,
    }
}

/// Where a crash cuts an item of so many bytes; None: it leaves nothing of it.
fn cut(bytes: usize) -> Option<usize> {
    (context::random_below(2) == 0 && bytes > 0).then(|| context::random_below(bytes as u64) as usize)
}

/// Flips a random bit.
pub(crate) fn flip_bit(bytes: &mut [u8]) {
    if !bytes.is_empty() {
        let bit = context::random_below(bytes.len() as u64 * 8);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
}
