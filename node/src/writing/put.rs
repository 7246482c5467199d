//! Puts: one shard of some pages, copied into the pages' frames as it comes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foreword_proto::key::ParentHint;
use foreword_proto::{BadInput, EntryKey, Epoch, NamespaceId, PageKey, PutOutcome, PutRefusal};
use foreword_seams::{Marker, sometimes};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::page_work::{PageWork, Piece, WholePage};
use super::under_way::Pending;
use super::write::WriteJob;
use super::{NamespaceWrites, Writing};
use crate::api::{ApiError, PieceBytes, PutAsk, PutCall};
use crate::fair_semaphore::FairPermit;
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
    /// For room and frames, so far.
    waited: Duration,
    /// It gave way to another call: what is not whole of it is refused.
    gave_way: bool,
}

impl Writing {
    /// Begins to take one shard of some pages.
    ///
    /// Errors: a namespace that is not open here, or a shard that it does not have.
    pub(crate) fn put(self: &Arc<Self>, ask: PutAsk) -> Result<Box<dyn PutCall>, ApiError> {
        let writes = self.namespaces.get(ask.namespace)?;
        let shard = writes.shard(ask.shard)?;
        let epoch = writes.open.mirror.read(|view| view.epoch());
        let pages = ask.keys.iter().map(|_| Page::Expected).collect();
        let writer = self.next_writer.fetch_add(1, Ordering::Relaxed);
        let (waited, gave_way) = (Duration::ZERO, false);
        Ok(Box::new(Put { writing: self.clone(), writes, ask, shard, writer, epoch, pages, waited, gave_way }))
    }

    /// Which shards' bytes a put would take now: None. Else what it would be told without them.
    pub(crate) fn wanted(
        &self,
        namespace: NamespaceId,
        shard: u32,
        keys: &[PageKey],
    ) -> Result<Vec<Option<PutOutcome>>, ApiError> {
        let writes = self.namespaces.get(namespace)?;
        let shard = writes.shard(shard)?;
        let epoch = writes.open.mirror.read(|view| view.epoch());
        let known = |key: EntryKey| match writes.under_way.find(epoch, key) {
            Some(work) => work.has(shard).then_some(PutOutcome::Taken),
            None => writes.existing(&key),
        };
        Ok(keys.iter().map(|key| known(key.entry())).collect())
    }
}

impl Put {
    fn page_is_whole(&self, work: &Arc<PageWork>, page: WholePage) {
        self.writing.counters.puts_taken.add(1);
        let pending = Pending::new(self.writes.clone(), work.clone());
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
        let exists = self.writes.existing(&self.key(index))?;
        self.writing.counters.puts_existing.add(1);
        Some(exists)
    }

    /// The page's first bytes are here: finds the page under way, or begins it. A later shard needs no room.
    async fn begin(&mut self, index: usize) -> Page {
        let key = self.key(index);
        if self.gave_way {
            if let Some(work) = self.under_way(key) {
                self.writes.under_way.give_up(&work, PutRefusal::QueueFull);
            }
            return self.refused(index);
        }
        if let Some(work) = self.under_way(key) {
            return Page::Writing(work, 0);
        }
        if let Some(exists) = self.existing(index) {
            return Page::Settled(exists);
        }
        if self.writes.turned_away.has(self.epoch, key, self.shard) {
            return self.refused(index);
        }
        let began = Instant::now();
        let deadline = began + self.writing.room_wait.saturating_sub(self.waited);
        let begun = self.begin_in_room(index, deadline).await;
        self.waited += began.elapsed();
        begun.unwrap_or_else(|| self.refused(index))
    }

    /// Begins the page once there is room and a frame, unless another shard's call does meanwhile. None: not before the
    /// deadline, or this call had to give way.
    async fn begin_in_room(&mut self, index: usize, deadline: Instant) -> Option<Page> {
        let (key, frame_bytes) = (self.key(index), self.writes.open.geometry.frame_bytes);
        let room = match self.writing.room.take_now(self.writes.open.asker(), frame_bytes) {
            Some(room) => room,
            None => self.wait_for_room(key, deadline).await?,
        };
        // Another shard's call may have begun the page while this one waited, or been refused it.
        if let Some(work) = self.under_way(key) {
            return Some(Page::Writing(work, 0));
        }
        if self.writes.turned_away.has(self.epoch, key, self.shard) {
            return None;
        }
        let open = &self.writes.open;
        let frame = self.writing.memory.frame(open.tenant, frame_bytes, deadline).await?;
        let begin = || PageWork::new(self.epoch, key, self.parent(index), &open.geometry, frame, room);
        Some(Page::Writing(self.writes.under_way.find_or_begin(self.epoch, key, begin), 0))
    }

    /// Room in its turn. None also for a page of which another shard was refused meanwhile, and where this call has to
    /// give way to another rank's.
    async fn wait_for_room(&mut self, key: EntryKey, deadline: Instant) -> Option<FairPermit> {
        let gives_way = {
            let open = &self.writes.open;
            let mut waiting = pin!(self.writing.room.take(open.asker(), open.geometry.frame_bytes, deadline));
            let turn = self.writes.turns.wait(self.writer, self.shard);
            self.writes.look_who_waits();
            loop {
                tokio::select! {
                    biased;
                    room = &mut waiting => return room,
                    () = turn.look_again() => {}
                }
                if turn.gives_way() || self.writes.turned_away.has(self.epoch, key, self.shard) {
                    break turn.gives_way();
                }
            }
        };
        if gives_way {
            self.give_way();
        }
        None
    }

    /// Refuses what is not whole of this call.
    fn give_way(&mut self) {
        sometimes(Marker::PutGaveWay);
        self.gave_way = true;
        for work in self.unfinished() {
            self.writes.turn_away(self.epoch, work.key, self.shard);
            self.writes.under_way.give_up(work, PutRefusal::QueueFull);
        }
    }

    /// The pages with bytes of this call that lack shards.
    fn unfinished(&self) -> impl Iterator<Item = &Arc<PageWork>> {
        let begun = self.pages.iter().filter_map(|page| match page {
            Page::Writing(work, _) | Page::GoesOn(work) => Some(work),
            Page::Expected | Page::Settled(_) => None,
        });
        begun.filter(|work| work.is_gathering())
    }

    /// There was no room for the page. Its other shards are told at once: without this one they would hold room in
    /// vain.
    fn refused(&self, index: usize) -> Page {
        sometimes(Marker::PutRefusedForRoom);
        self.writing.counters.refuse(PutRefusal::QueueFull);
        self.writes.turn_away(self.epoch, self.key(index), self.shard);
        Page::Settled(PutOutcome::Refused { reason: PutRefusal::QueueFull })
    }

    fn under_way(&self, key: EntryKey) -> Option<Arc<PageWork>> {
        self.writes.under_way.find(self.epoch, key)
    }

    async fn take(&mut self, index: usize, offset: u64, bytes: &dyn PieceBytes) -> Result<(), ApiError> {
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
        let piece = work.piece(self.shard, self.writer, offset, bytes)?;
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
                self.writes.under_way.give_up(&work, PutRefusal::Incomplete);
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
    fn piece<'a>(
        &'a mut self,
        index: usize,
        offset: u64,
        bytes: &'a dyn PieceBytes,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
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
