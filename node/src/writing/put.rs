//! Puts: one shard of some pages, copied into the pages' frames as it comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use foreword_proto::key::ParentHint;
use foreword_proto::{BadInput, EntryKey, Epoch, PageKey, PutOutcome, PutRefusal};
use foreword_seams::{Marker, sometimes};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::page_work::{PageWork, Piece, WholePage};
use super::under_way::Pending;
use super::write::WriteJob;
use super::{NamespaceWrites, Writing};
use crate::api::{ApiError, PutAsk, PutCall};
use crate::plan::gather::WriterId;

/// One page of a put, as far as this call knows.
enum Page {
    /// No bytes yet.
    Expected,
    /// This call writes the shard; so many bytes came.
    Writing(Arc<PageWork>, u64),
    /// The shard is whole, or another call writes it: the page goes on by itself.
    GoesOn(Arc<PageWork>),
    /// Decided without this call's bytes.
    Settled(PutOutcome),
}

struct Put {
    writing: Arc<Writing>,
    writes: Arc<NamespaceWrites>,
    ask: PutAsk,
    shard: usize,
    writer: WriterId,
    /// The epoch before any bytes were taken: a page from before a clear stays cleared.
    epoch: Epoch,
    pages: Vec<Page>,
}

impl Writing {
    /// Begins to take one shard of some pages.
    ///
    /// Errors: a namespace that is not open here, or a shard that it does not have.
    pub(crate) fn put(self: &Arc<Self>, ask: PutAsk) -> Result<Box<dyn PutCall>, ApiError> {
        let writes = self.namespaces.get(ask.namespace)?;
        let open = &writes.open;
        let shard = ask.shard as usize;
        if shard >= open.geometry.shards() {
            let expected = format!("a shard below {}, got {shard}", open.geometry.shards());
            return Err(BadInput::new("shard", expected).into());
        }
        let epoch = open.mirror.read(|view| view.epoch());
        let pages = ask.keys.iter().map(|_| Page::Expected).collect();
        let writer = self.next_writer.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Put { writing: self.clone(), writes, ask, shard, writer, epoch, pages }))
    }
}

impl Put {
    fn page_is_whole(&self, work: &Arc<PageWork>, page: WholePage) {
        self.writing.counters.puts_taken.add(1);
        let pending = Pending { writes: self.writes.clone(), work: work.clone() };
        let job = WriteJob { page, pending, taken: Instant::now(), failed: 0 };
        if let Err(unsent) = self.writes.writer.try_send(job) {
            unsent.into_inner().pending.refuse(PutRefusal::QueueFull);
        }
    }

    fn key(&self, index: usize) -> EntryKey {
        self.ask.keys[index].entry()
    }

    fn parent(&self, index: usize) -> ParentHint {
        let parent: Option<&PageKey> = match index.checked_sub(1) {
            Some(before) => Some(&self.ask.keys[before]),
            None => self.ask.parent.as_ref(),
        };
        parent.map_or(0, |key| key.entry().parent_hint())
    }

    /// True if the page is in the index, or was when its put began to be looked at.
    fn existing(&self, index: usize) -> Option<PutOutcome> {
        let key = self.key(index);
        let revision = self.writes.open.mirror.read(|view| view.present_at(&key))?;
        self.writing.counters.puts_existing.add(1);
        Some(PutOutcome::Exists { revision })
    }

    /// The page's first bytes are here: finds the page under way, or begins it.
    async fn begin(&mut self, index: usize) -> Page {
        let key = self.key(index);
        if let Some(work) = self.under_way(key) {
            return Page::Writing(work, 0);
        }
        if let Some(exists) = self.existing(index) {
            return Page::Settled(exists);
        }
        let refused = |writing: &Writing| {
            sometimes(Marker::PutRefusedForRoom);
            writing.counters.refuse(PutRefusal::QueueFull);
            Page::Settled(PutOutcome::Refused { reason: PutRefusal::QueueFull })
        };
        let open = &self.writes.open;
        let frame_bytes = open.geometry.frame_bytes;
        let deadline = Instant::now() + self.writing.room_wait;
        let Some(room) = self.writing.room.take(frame_bytes, deadline).await else {
            return refused(&self.writing);
        };
        // Another shard's call may have begun the page while this one waited.
        if let Some(work) = self.under_way(key) {
            return Page::Writing(work, 0);
        }
        let Some(frame) = self.writing.memory.frame(open.tenant, frame_bytes, deadline).await else {
            return refused(&self.writing);
        };
        let begin = || PageWork::new(self.epoch, key, self.parent(index), &open.geometry, frame, room);
        Page::Writing(self.writes.under_way.find_or_begin(self.epoch, key, begin), 0)
    }

    fn under_way(&self, key: EntryKey) -> Option<Arc<PageWork>> {
        self.writes.under_way.find(self.epoch, key)
    }

    async fn take(&mut self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), ApiError> {
        let keys = self.pages.len();
        if index >= keys {
            return Err(BadInput::new("pieces", format!("an index below {keys}, got {index}")).into());
        }
        let shard_bytes = self.writes.open.geometry.shard_bytes[self.shard];
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > shard_bytes) {
            let got = format!("{} bytes at offset {offset}", bytes.len());
            let expected = format!("bytes within shard {} of {shard_bytes} bytes, got {got}", self.shard);
            return Err(BadInput::new("pieces", expected).into());
        }
        if matches!(self.pages[index], Page::Expected) {
            self.pages[index] = self.begin(index).await;
        }
        let Page::Writing(work, taken) = &mut self.pages[index] else { return Ok(()) };
        let work = work.clone();
        let piece = work.piece(&self.writes.open.geometry, self.shard, self.writer, offset, bytes)?;
        match piece {
            Piece::Joined => self.pages[index] = Page::GoesOn(work),
            Piece::Taken => {
                *taken += bytes.len() as u64;
                self.writing.counters.put_bytes.add(bytes.len() as u64);
            }
            Piece::ShardWhole(page) => {
                self.writing.counters.put_bytes.add(bytes.len() as u64);
                if let Some(page) = page {
                    self.page_is_whole(&work, page);
                }
                self.pages[index] = Page::GoesOn(work);
            }
        }
        Ok(())
    }

    /// Gives up the pages whose shard did not come in whole; the error names the first.
    fn abandon_partial(&mut self) -> Result<(), BadInput> {
        let mut partial = Ok(());
        for index in 0..self.pages.len() {
            let Page::Writing(work, taken) = &self.pages[index] else { continue };
            let (work, taken) = (work.clone(), *taken);
            if work.abandon(self.shard, self.writer) {
                sometimes(Marker::PutAbandoned);
                self.writes.under_way.give_up(&work);
            }
            self.pages[index] = Page::Settled(PutOutcome::Refused { reason: PutRefusal::Incomplete });
            let shard_bytes = self.writes.open.geometry.shard_bytes[self.shard];
            let expected = format!("{shard_bytes} bytes of shard {} of page {index}, got {taken}", self.shard);
            partial = partial.and(Err(BadInput::new("pieces", expected)));
        }
        partial
    }

    fn without_bytes(&self, index: usize) -> PutOutcome {
        self.existing(index).unwrap_or_else(|| {
            self.writing.counters.refuse(PutRefusal::Incomplete);
            PutOutcome::Refused { reason: PutRefusal::Incomplete }
        })
    }
}

impl PutCall for Put {
    fn piece<'a>(&'a mut self, index: usize, offset: u64, bytes: &'a [u8]) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(self.take(index, offset, bytes))
    }

    fn finish(mut self: Box<Self>) -> BoxFuture<'static, Result<Vec<PutOutcome>, ApiError>> {
        Box::pin(async move {
            self.abandon_partial()?;
            let wait = self.ask.wait_published;
            let mut outcomes = Vec::with_capacity(self.pages.len());
            for index in 0..self.pages.len() {
                outcomes.push(match &self.pages[index] {
                    Page::Settled(outcome) => outcome.clone(),
                    Page::GoesOn(work) if wait => work.clone().settled().await,
                    Page::GoesOn(work) => work.outcome().unwrap_or(PutOutcome::Taken),
                    Page::Expected | Page::Writing(..) => self.without_bytes(index),
                });
            }
            Ok(outcomes)
        })
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        // A client that vanished: what it had begun is open to others, or gone at once.
        let _ = self.abandon_partial();
    }
}
