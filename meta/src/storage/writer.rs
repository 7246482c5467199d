//! The log writer: the one owner of the engine and the mark. It drains its queue into groups, applies them, syncs,
//! writes the mark, and only then acknowledges, in order.
//!
//! After the first fault nothing more is written: what waits and what comes later is refused with that fault. What the
//! disk then holds is settled by the next start.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foreword_seams::{Marker, sometimes};
use tokio::sync::{mpsc, watch};

use super::engine::{Item, LogEngine, MetaKey};
use super::flushes::Flushes;
use super::mark::{Mark, MarkKeeper};
use crate::consensus::entry_codec::encode_vote;
use crate::consensus::types::Vote;
use crate::consensus::write_version::WriteVersion;

/// Operations waiting for the writer; more wait in their callers.
pub const WRITER_QUEUE_MAX: usize = 256;
/// Bytes of items after which a group is synced (a single larger append is a group of its own).
pub const GROUP_BYTES_MAX: usize = 224 << 10;
/// Purged items that leave with each group, without a sync of their own.
const PURGE_ITEMS_PER_GROUP: usize = 2;
/// Purged items that leave at once while nothing else is to do.
const PURGE_ITEMS_WHEN_IDLE: usize = 16;
/// How long nothing else must come before purged items are removed on their own.
const PURGE_PAUSE: Duration = Duration::from_millis(5);
/// How long a committed position waits for a group to be saved with.
const COMMITTED_PAUSE: Duration = Duration::from_millis(200);

/// Told once, when the operation is durable or has failed.
pub(crate) type Ack = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Index and term of an entry.
pub(crate) type Position = (u64, u64);

/// A change of the log, and who waits for it.
pub(crate) struct Op {
    pub(crate) change: Change,
    pub(crate) ack: Ack,
}

/// One change of the log.
pub(crate) enum Change {
    /// Items that follow the last one; `last` is the last of them.
    Append { items: Vec<Item>, last: Position },
    /// Removes the items from `from`; `last` is what the log then ends with.
    Truncate { from: u64, last: Option<Position> },
    /// Saves the purged log id, then lets the items up to `index` go; `last` is what the log then ends with.
    Purge { purged: Bytes, index: u64, last: Position },
    /// Saves the vote.
    SaveVote { vote: Vote },
    /// Nothing but a sync: makes what a start found durable, which the process before may have left in the page cache.
    Settle,
    /// Notes the committed log id, to be saved with one of the next groups; a later one replaces it. Acknowledged at
    /// once.
    SaveCommitted { committed: Bytes },
}

/// The writer's state; [`Writer::run`] is its life.
pub(crate) struct Writer {
    engine: Box<dyn LogEngine>,
    keeper: MarkKeeper,
    ops: mpsc::Receiver<Op>,
    /// What the mark says once the current group is durable.
    mark: Mark,
    acks: Vec<Ack>,
    group_bytes: usize,
    dirty: bool,
    committed: Option<Bytes>,
    /// A purge whose log id is written but not yet durable.
    purge_next: Option<u64>,
    /// Items up to here may go.
    purging: Option<u64>,
    fault: Option<(io::ErrorKind, String)>,
    version: WriteVersion,
    flushes: Arc<Flushes>,
    ended: watch::Sender<()>,
}

/// Resolves when the writer has ended and let go of its engine.
#[derive(Debug, Clone)]
pub struct WriterEnd(watch::Receiver<()>);

impl WriterEnd {
    /// Waits until the log's files are closed: all handles that can write are gone, and the queue is written.
    pub async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

enum Event {
    Op(Op),
    Idle,
    Closed,
}

impl Writer {
    /// A writer over what recovery found. `purging`: items up to there are left over from an unfinished purge;
    /// `flushes` is told of each flush.
    pub(crate) fn new(
        engine: Box<dyn LogEngine>,
        keeper: MarkKeeper,
        mark: Mark,
        purging: Option<u64>,
        version: WriteVersion,
        flushes: Arc<Flushes>,
    ) -> (Self, mpsc::Sender<Op>, WriterEnd) {
        let (sender, ops) = mpsc::channel(WRITER_QUEUE_MAX);
        let (ended, end) = watch::channel(());
        let writer = Self {
            engine,
            keeper,
            ops,
            mark,
            acks: Vec::new(),
            group_bytes: 0,
            dirty: false,
            committed: None,
            purge_next: None,
            purging,
            fault: None,
            version,
            flushes,
            ended,
        };
        (writer, sender, WriterEnd(end))
    }

    /// Serves the queue until every sender is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let done = match self.next_event().await {
                Event::Op(op) => self.group(op).await,
                Event::Idle => self.idle().await,
                Event::Closed => break,
            };
            if let Err(error) = done {
                self.fail(error);
            }
        }
        if self.fault.is_none() {
            let saved = self.save_committed().await;
            saved.unwrap_or_else(|error| tracing::warn!(%error, "the committed position was not saved at the end"));
        }
        drop(self.engine);
        drop(self.ended);
    }

    async fn next_event(&mut self) -> Event {
        let pause = match (&self.fault, self.purging, &self.committed) {
            (None, Some(_), _) => PURGE_PAUSE,
            (None, None, Some(_)) => COMMITTED_PAUSE,
            _ => return self.ops.recv().await.map_or(Event::Closed, Event::Op),
        };
        match tokio::time::timeout(pause, self.ops.recv()).await {
            Ok(op) => op.map_or(Event::Closed, Event::Op),
            Err(_) => Event::Idle,
        }
    }

    /// One operation and what waits behind it, durable and acknowledged together.
    async fn group(&mut self, first: Op) -> io::Result<()> {
        let mut next = Some(first);
        while let Some(Op { change, ack }) = next {
            let applied = self.apply(change).await;
            self.acks.push(ack);
            applied?;
            next = if self.group_bytes < GROUP_BYTES_MAX { self.ops.try_recv().ok() } else { None };
        }
        self.commit().await
    }

    async fn apply(&mut self, change: Change) -> io::Result<()> {
        if let Some(fault) = self.fault_copy() {
            return Err(fault);
        }
        match change {
            Change::Append { items, last } => self.append(items, last).await,
            Change::Truncate { from, last } => self.truncate(from, last).await,
            Change::Purge { purged, index, last } => {
                self.dirty = true;
                self.engine.put_meta(MetaKey::Purged, purged)?;
                self.mark.last = Some(last);
                self.purge_next = Some(index);
                Ok(())
            }
            Change::SaveVote { vote } => {
                self.dirty = true;
                self.engine.put_meta(MetaKey::Vote, encode_vote(self.version.get(), &vote))?;
                self.mark.vote = Some(vote);
                Ok(())
            }
            Change::Settle => {
                self.dirty = true;
                Ok(())
            }
            Change::SaveCommitted { committed } => {
                self.committed = Some(committed);
                Ok(())
            }
        }
    }

    async fn append(&mut self, items: Vec<Item>, last: Position) -> io::Result<()> {
        let bytes = items.iter().map(|(_, item)| item.len()).sum::<usize>();
        if self.group_bytes > 0 && self.group_bytes + bytes > GROUP_BYTES_MAX {
            self.commit().await?;
        }
        let follows =
            self.engine.bounds().is_none_or(|(_, end)| items.first().is_none_or(|(first, _)| *first == end + 1));
        if !follows {
            self.finish_purge().await?;
        }
        self.dirty = true;
        self.group_bytes += bytes;
        self.engine.append(&items)?;
        self.mark.last = Some(last);
        Ok(())
    }

    /// The mark goes back first: a crash in between then leaves a log longer than its mark, never a shorter one.
    async fn truncate(&mut self, from: u64, last: Option<Position>) -> io::Result<()> {
        self.commit().await?;
        self.mark.last = last;
        self.keeper.save(self.mark).await?;
        self.dirty = true;
        self.engine.truncate_from(from)
    }

    /// Makes the group durable, then the mark, then acknowledges in order.
    async fn commit(&mut self) -> io::Result<()> {
        if self.dirty {
            if let Some(committed) = self.committed.take() {
                self.engine.put_meta(MetaKey::Committed, committed)?;
            }
            self.purge_some(PURGE_ITEMS_PER_GROUP)?;
            self.flushes.begin();
            self.engine.sync().await?;
            self.keeper.save(self.mark).await?;
            self.flushes.end();
            self.purging = self.purge_next.take().or(self.purging);
        }
        self.dirty = false;
        self.group_bytes = 0;
        for ack in self.acks.drain(..) {
            ack(Ok(()));
        }
        Ok(())
    }

    /// Purged items in the way of an append go at once: a snapshot reached beyond the log, and the log goes on after
    /// it.
    async fn finish_purge(&mut self) -> io::Result<()> {
        sometimes(Marker::LogContinuedAfterSnapshot);
        self.commit().await?;
        while self.purge_some(PURGE_ITEMS_WHEN_IDLE)? {
            self.engine.sync().await?;
        }
        Ok(())
    }

    /// Removes up to `items_max` purged items. False when there were none to remove.
    fn purge_some(&mut self, items_max: usize) -> io::Result<bool> {
        let Some(index) = self.purging else { return Ok(false) };
        if self.engine.purge_to(index, items_max)? {
            self.purging = None;
        }
        Ok(true)
    }

    async fn idle(&mut self) -> io::Result<()> {
        if self.purge_some(PURGE_ITEMS_WHEN_IDLE)? {
            return self.engine.sync().await;
        }
        self.save_committed().await
    }

    async fn save_committed(&mut self) -> io::Result<()> {
        if let Some(committed) = self.committed.take() {
            self.engine.put_meta(MetaKey::Committed, committed)?;
            self.engine.sync().await?;
        }
        Ok(())
    }

    fn fault_copy(&self) -> Option<io::Error> {
        self.fault.as_ref().map(|(kind, what)| io::Error::new(*kind, what.clone()))
    }

    /// The first error is the fault; whoever waits gets it.
    fn fail(&mut self, error: io::Error) {
        if self.fault.is_none() {
            sometimes(Marker::LogWriteFailed);
            tracing::error!(%error, "the log cannot be written; this replica stops accepting");
            self.fault = Some((error.kind(), format!("the log cannot be written: {error}")));
        }
        for ack in self.acks.drain(..) {
            let (kind, what) = self.fault.clone().unwrap_or((error.kind(), error.to_string()));
            ack(Err(io::Error::new(kind, what)));
        }
    }
}
