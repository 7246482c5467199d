//! The log as openraft sees it: every entry since the last purge in memory, every change written behind.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foreword_proto::limits::RAFT_PAYLOAD_BYTES_SOFT_MAX;
use foreword_seams::{Marker, Runner, sometimes};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};

use super::engine::{Item, LogEngine, hole};
use super::flushes::Flushes;
use super::log_memory::Memory;
use super::mark::{Mark, MarkFile, MarkKeeper};
use super::recovery::{OpenError, recover};
use super::writer::{Ack, Change, Op, Position, Writer, WriterEnd};
use crate::consensus::entry_codec::{encode_entry, encode_log_id};
use crate::consensus::types::{Entry, LogId, StorageError, StoredMembership, TypeConfig, Vote};
use crate::consensus::write_version::WriteVersion;

fn position(id: LogId) -> Position {
    (id.index, id.leader_id.term)
}

/// What a start found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    /// The last entry, or the last purged one.
    pub last: Option<LogId>,
    /// Entries since the purge, and their bytes.
    pub entries: u64,
    pub log_bytes: u64,
}

/// A replica's log and vote: the one handle that changes them. The writer ends when it is dropped.
#[derive(Debug)]
pub struct LogStore {
    memory: Arc<RwLock<Memory>>,
    flushes: Arc<Flushes>,
    ops: mpsc::Sender<Op>,
    end: WriterEnd,
    version: WriteVersion,
    /// Changes that were submitted and are not acknowledged yet.
    unsynced: Arc<AtomicUsize>,
    flushed: Arc<watch::Sender<Flushed>>,
    /// Whose log it is; 0 until it is told.
    replica_id: u64,
    /// What the start found is durable.
    settled: bool,
}

/// How far the log is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flushed {
    index: u64,
    /// Nothing more will be, for this reason.
    failed: Option<Arc<str>>,
}

/// Reads the log's entries and numbers from memory; does not keep the writer alive.
#[derive(Debug, Clone)]
pub struct LogReader {
    memory: Arc<RwLock<Memory>>,
    flushes: Arc<Flushes>,
    unsynced: Arc<AtomicUsize>,
    flushed: watch::Receiver<Flushed>,
}

/// The disk failed, or the log was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica's own log is not written any more")]
pub struct NotFlushed;

impl LogReader {
    /// Waits until the entry at `index` is on this replica's disk.
    pub async fn flushed(&self, index: u64) -> Result<(), NotFlushed> {
        let mut flushed = self.flushed.clone();
        let reached = flushed.wait_for(|flushed| flushed.failed.is_some() || flushed.index >= index).await;
        match reached {
            Ok(flushed) if flushed.failed.is_none() => Ok(()),
            _ => Err(NotFlushed),
        }
    }

    /// Resolves when the log cannot be written any more, with the reason: what was answered before its flush will never
    /// be on this disk.
    pub async fn failed(&self) -> Arc<str> {
        let mut flushed = self.flushed.clone();
        let failed = flushed.wait_for(|flushed| flushed.failed.is_some()).await;
        match failed.ok().and_then(|flushed| flushed.failed.clone()) {
            Some(why) => why,
            // Closed, and all of it written.
            None => std::future::pending().await,
        }
    }

    /// The membership in force, which may be known from a snapshot only.
    pub fn membership_is(&self, membership: &StoredMembership) {
        let index = membership.log_id().map_or(0, |id| id.index);
        self.memory.write().quorums.known(index, membership.membership());
    }

    /// Bytes of the entries since the purge, as stored.
    pub fn log_bytes(&self) -> u64 {
        self.memory.read().bytes()
    }

    /// Bytes of the entries after `index`, as stored.
    pub fn bytes_after(&self, index: u64) -> u64 {
        self.memory.read().bytes_after(index)
    }

    /// The last index with at least `bytes` of entries after it; None when all there are are fewer.
    pub fn index_before(&self, bytes: u64) -> Option<u64> {
        self.memory.read().index_before(bytes)
    }

    /// Index of the last entry, or of the last purged one.
    pub fn last_index(&self) -> Option<u64> {
        self.memory.read().last().map(|last| last.index)
    }

    /// How long the log's flushes take.
    pub fn flushes(&self) -> &Flushes {
        &self.flushes
    }

    /// Whether a change is on its way to the disk.
    pub fn flushing(&self) -> bool {
        self.unsynced.load(Ordering::Relaxed) > 0
    }

    /// The vote, if one was ever given.
    pub fn vote(&self) -> Option<Vote> {
        self.memory.read().vote
    }

    /// The last purged log id.
    pub fn purged(&self) -> Option<LogId> {
        self.memory.read().purged
    }
}

impl LogStore {
    /// Reads the log, checks it against the mark and starts the writer. Blocks while it reads.
    ///
    /// [`OpenError::Lost`]: set the directory aside and rejoin empty; nothing was changed on disk.
    /// [`OpenError::OtherVersion`]: leave it.
    pub fn open(
        mut engine: Box<dyn LogEngine>,
        mark: Box<dyn MarkFile>,
        runner: &Runner,
    ) -> Result<(Self, Recovered), OpenError> {
        let version = WriteVersion::default();
        let keeper = MarkKeeper::open(mark, version.clone())?;
        let mut memory = recover(&mut *engine, &keeper.mark)?;
        let leftover = engine.bounds().zip(memory.purged).filter(|((first, _), purged)| *first <= purged.index);
        if leftover.is_some() {
            sometimes(Marker::PurgeResumed);
        }
        let mark = Mark { last: memory.last().map(position), vote: memory.vote };
        let flushes = Arc::new(Flushes::default());
        let purging = leftover.map(|(_, purged)| purged.index);
        let (writer, ops, end) = Writer::new(engine, keeper, mark, purging, version.clone(), flushes.clone());
        runner(Box::pin(writer.run()))?;
        let recovered = Recovered {
            vote: memory.vote,
            purged: memory.purged,
            committed: memory.committed,
            last: memory.last(),
            entries: memory.entries.len() as u64,
            log_bytes: memory.bytes(),
        };
        memory.vote = memory.vote.map(stand_again);
        // All of it is durable before anyone hears of it.
        let flushed = Flushed { index: memory.last().map_or(0, |last| last.index), failed: None };
        let (memory, unsynced) = (Arc::new(RwLock::new(memory)), Arc::default());
        let flushed = Arc::new(watch::Sender::new(flushed));
        let log = Self { memory, flushes, ops, end, version, unsynced, flushed, replica_id: 0, settled: false };
        Ok((log, recovered))
    }

    /// Says whose log it is: entries that it appends as a leader of others are answered at once, and flushed while they
    /// travel.
    pub fn belongs_to(&mut self, replica_id: u64) {
        self.replica_id = replica_id;
    }

    /// A handle that reads: for openraft's replication, and for whoever decides when to purge.
    pub fn reader(&self) -> LogReader {
        LogReader {
            memory: self.memory.clone(),
            flushes: self.flushes.clone(),
            unsynced: self.unsynced.clone(),
            flushed: self.flushed.subscribe(),
        }
    }

    /// Bytes of the entries since the purge, as stored.
    pub fn log_bytes(&self) -> u64 {
        self.reader().log_bytes()
    }

    /// Index of the last entry, or of the last purged one.
    pub fn last_index(&self) -> Option<u64> {
        self.reader().last_index()
    }

    /// The format version in which the log and its mark are written.
    pub fn write_version(&self) -> WriteVersion {
        self.version.clone()
    }

    /// Resolves when this store is dropped and the writer has closed its files.
    pub fn end(&self) -> WriterEnd {
        self.end.clone()
    }

    async fn submit(&self, change: Change, ack: Ack) -> io::Result<()> {
        let unsynced = self.unsynced.clone();
        unsynced.fetch_add(1, Ordering::Relaxed);
        let ack: Ack = Box::new(move |result| {
            unsynced.fetch_sub(1, Ordering::Relaxed);
            ack(result);
        });
        self.ops.send(Op { change, ack }).await.map_err(|_| writer_gone())
    }

    /// Submits a change and waits until it is durable.
    async fn done(&self, change: Change) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.submit(change, Box::new(|result| _ = sender.send(result))).await?;
        receiver.await.map_err(|_| writer_gone())?
    }
}

/// A vote as openraft is to find it at a start: not committed. openraft lets a leader that restarts go on in its old
/// term, where its committed position is the one it saved last; what it committed after that would be missing from its
/// linearizable reads. So it is elected again, and its first entry of the new term covers everything.
fn stand_again(vote: Vote) -> Vote {
    Vote { committed: false, ..vote }
}

fn writer_gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log writer has ended")
}

fn write_fault(subject: ErrorSubject<u64>) -> impl FnOnce(io::Error) -> StorageError {
    move |error| StorageIOError::new(subject, ErrorVerb::Write, AnyError::new(&error)).into()
}

fn read_range(memory: &RwLock<Memory>, range: &impl RangeBounds<u64>, bytes_max: usize) -> Vec<Entry> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    memory.read().read(start, end, bytes_max)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(read_range(&self.memory, &range, usize::MAX))
    }

    /// What replication sends at once: stops once the soft limit is passed.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        Ok(read_range(&self.memory, &(start..end), RAFT_PAYLOAD_BYTES_SOFT_MAX))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(read_range(&self.memory, &range, usize::MAX))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        Ok(read_range(&self.memory, &(start..end), RAFT_PAYLOAD_BYTES_SOFT_MAX))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        // Whoever hears of an entry or a vote takes it for acknowledged; a process that was killed may have left it
        // unsynced.
        if !self.settled {
            self.done(Change::Settle).await.map_err(write_fault(ErrorSubject::Store))?;
            self.settled = true;
        }
        let memory = self.memory.read();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.done(Change::SaveVote { vote: *vote }).await.map_err(write_fault(ErrorSubject::Vote))?;
        self.memory.write().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.memory.read().vote)
    }

    /// Returns at once: the writer saves it with one of its next groups.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let Some(id) = committed else { return Ok(()) };
        self.memory.write().committed = committed;
        let change = Change::SaveCommitted { committed: encode_log_id(self.version.get(), &id) };
        self.submit(change, Box::new(|_| ())).await.map_err(write_fault(ErrorSubject::Store))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.memory.read().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let items = self.remember(entries.into_iter()).map_err(write_fault(ErrorSubject::Logs))?;
        let Some((items, last, leads_others)) = items else {
            callback.log_io_completed(Ok(()));
            return Ok(());
        };
        let flushed = self.flushed.clone();
        let note = move |result: &io::Result<()>| match result {
            Ok(()) => _ = flushed.send_replace(Flushed { index: last.0, failed: None }),
            Err(error) => flushed.send_modify(|flushed| flushed.failed = Some(error.to_string().into())),
        };
        if !leads_others {
            let ack: Ack = Box::new(move |result| {
                note(&result);
                callback.log_io_completed(result);
            });
            return self.submit(Change::Append { items, last }, ack).await.map_err(write_fault(ErrorSubject::Logs));
        }
        sometimes(Marker::FlushedBesideReplication);
        let ack: Ack = Box::new(move |result| note(&result));
        self.submit(Change::Append { items, last }, ack).await.map_err(write_fault(ErrorSubject::Logs))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let last = {
            let mut memory = self.memory.write();
            memory.truncate(since.index);
            sometimes(Marker::EntryTruncated);
            memory.last().map(position)
        };
        let change = Change::Truncate { from: since.index, last };
        self.done(change).await.map_err(write_fault(ErrorSubject::Log(since)))?;
        let index = last.map_or(0, |(index, _)| index);
        self.flushed.send_modify(|flushed| flushed.index = flushed.index.min(index));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let last = {
            let mut memory = self.memory.write();
            if memory.purged >= Some(upto) {
                return Ok(());
            }
            memory.purge(upto);
            sometimes(Marker::LogPurged);
            position(memory.last().unwrap_or(upto))
        };
        let change = Change::Purge { purged: encode_log_id(self.version.get(), &upto), index: upto.index, last };
        self.done(change).await.map_err(write_fault(ErrorSubject::Log(upto)))
    }
}

impl LogStore {
    /// Puts entries into memory, where they can be read at once, and gives them as items for the writer, with the last
    /// one's position and whether this replica appends them all as a leader of others. Entries that a purge already
    /// covers are left out; None when that leaves none.
    fn remember(&self, entries: impl Iterator<Item = Entry>) -> io::Result<Option<(Vec<Item>, Position, bool)>> {
        let mut memory = self.memory.write();
        // Before and after: a membership among the entries may change it.
        let mut leads_others = true;
        let mut items = Vec::with_capacity(entries.size_hint().0);
        let purged = memory.purged;
        for entry in entries.filter(|entry| purged.is_none_or(|purged| purged.index < entry.log_id.index)) {
            let index = entry.log_id.index;
            if let Some(last) = memory.last().filter(|last| last.index + 1 != index) {
                return Err(hole(last.index + 1, index));
            }
            items.push((index, encode_entry(self.version.get(), &entry)));
            let term = entry.log_id.leader_id.term;
            leads_others &= memory.leads_others(self.replica_id, term);
            memory.push(entry);
            leads_others &= memory.leads_others(self.replica_id, term);
        }
        let last = memory.last().filter(|_| !items.is_empty());
        Ok(last.map(|last| (items, position(last), leads_others)))
    }
}
