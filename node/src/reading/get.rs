//! Gets: pages in the order of their keys, a window of them read ahead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foreword_proto::{EntryKey, Epoch, Location, NamespaceId, PageKey, Revision, Tier};
use foreword_seams::{Marker, sometimes};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::Instant;

use super::pins::Pin;
use super::{NamespaceReads, Reading};
use crate::api::{ApiError, GetAsk, Miss, PageAnswer, PageBytes};
use crate::arena::Frame;
use crate::namespaces::OpenNamespace;

/// Pages of one get on their way at once.
const WINDOW_PAGES_MAX: usize = 32;
/// One get takes at most this part of the room for gets, so that a slow reader does not stop the others; but some pages
/// always, where they fit: large pages would come one after the other.
const WINDOW_ROOM_PART: usize = 16;
const WINDOW_PAGES_MIN: usize = 4;
/// How long a page of L1 waits while others read as much of it as they may: they may be readers that have stopped
/// reading.
const PIN_WAIT: Duration = Duration::from_secs(2);
/// Times that a page is looked for anew because the read that was joined found no room.
const LOOKS_MAX: usize = 3;

/// A get, and what it learned of L3.
struct Get {
    ask: GetAsk,
    /// When its first read got no answer in time.
    first_late: OnceLock<Instant>,
    /// So did one that was begun after that: this call waits for L3 no more.
    gave_up: AtomicBool,
}

impl Get {
    /// A read that was begun then got no answer in time.
    fn late(&self, began: Instant) {
        if *self.first_late.get_or_init(Instant::now) <= began {
            self.gave_up.store(true, Ordering::Relaxed);
        }
    }
}

/// Where a page was when it was asked for.
enum Whereabouts {
    L1(Frame),
    L3(Epoch, Location),
    Absent,
    /// What is known is older than what was asked for.
    Unknown,
}

impl Reading {
    /// Pages in the order of the keys, a window of them on their way.
    pub(crate) fn get(self: &Arc<Self>, ask: GetAsk) -> Result<BoxStream<'static, PageAnswer>, ApiError> {
        let reads = self.namespaces.get(ask.namespace)?;
        let room_pages = self.room.pages(reads.open.geometry.frame_bytes);
        let window = (room_pages / WINDOW_ROOM_PART).clamp(WINDOW_PAGES_MIN.min(room_pages), WINDOW_PAGES_MAX);
        let every_key = ask.every_key;
        let heat = HeatOfGet { reads: reads.clone(), hits: Vec::new() };
        let reading = self.clone();
        let keys = ask.keys.len();
        let get = Arc::new(Get { ask, first_late: OnceLock::new(), gave_up: AtomicBool::new(false) });
        let answers = stream::iter(0..keys)
            .map(move |index| {
                let (reading, reads, get) = (reading.clone(), reads.clone(), get.clone());
                async move { (get.ask.keys[index].entry(), reading.page(&reads, &get, index).await) }
            })
            .buffered(window)
            .scan((heat, false), move |(heat, ended), (key, answer)| {
                let over = *ended;
                match &answer.page {
                    Ok(_) => heat.hits.push(key),
                    Err(_) => *ended = !every_key,
                }
                futures::future::ready((!over).then_some(answer))
            });
        Ok(answers.boxed())
    }

    /// The leading pages that are in L1 and may be pinned, now.
    pub(crate) fn get_now(
        &self,
        namespace: NamespaceId,
        keys: &[PageKey],
        min_revision: Revision,
    ) -> Result<Vec<PageAnswer>, ApiError> {
        let reads = self.namespaces.get(namespace)?;
        let mut answers = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let (found, revision) = self.whereabouts(&reads.open, &key.entry(), min_revision, false);
            let Whereabouts::L1(frame) = found else { break };
            let Some(pin) = self.pins.pin(reads.open.asker(), &frame) else { break };
            answers.push(PageAnswer { index, page: Ok(pinned(frame, pin)), revision });
        }
        let used: Vec<EntryKey> = keys[..answers.len()].iter().map(PageKey::entry).collect();
        if !used.is_empty() {
            let mut ahead = reads.ahead.lock();
            used.iter().for_each(|key| ahead.followed(key));
        }
        reads.heat.used(&used);
        self.counters.l1_hits.add(used.len() as u64);
        Ok(answers)
    }

    async fn page(&self, reads: &Arc<NamespaceReads>, get: &Get, index: usize) -> PageAnswer {
        let key = get.ask.keys[index].entry();
        reads.ahead.lock().followed(&key);
        let (mut page, mut revision) = self.look(reads, get, key).await;
        for _ in 1..LOOKS_MAX {
            // The read was another's, who had less time to wait for room.
            if !matches!(page, Err(Miss::NoRoom)) || Instant::now() >= get.ask.deadline {
                break;
            }
            (page, revision) = self.look(reads, get, key).await;
        }
        match &page {
            Ok((_, Tier::L1)) => {
                sometimes(Marker::L1Hit);
                self.counters.l1_hits.add(1);
            }
            Ok(_) => {
                sometimes(Marker::L3Hit);
                self.counters.l3_hits.add(1);
            }
            Err(_) => self.counters.misses.add(1),
        }
        PageAnswer { index, page, revision }
    }

    /// Looks for the page once, and brings it.
    async fn look(
        &self,
        reads: &Arc<NamespaceReads>,
        get: &Get,
        key: EntryKey,
    ) -> (Result<(PageBytes, Tier), Miss>, Revision) {
        let (open, ask) = (&reads.open, &get.ask);
        let (mut whereabouts, mut revision) = self.whereabouts(open, &key, ask.min_revision, ask.bypass_cache);
        if matches!(whereabouts, Whereabouts::Unknown) {
            open.mirror.reached(ask.min_revision, ask.deadline).await;
            (whereabouts, revision) = self.whereabouts(open, &key, ask.min_revision, ask.bypass_cache);
        }
        // A page of L1 waits for no read: it needs a pin only.
        if let Whereabouts::L1(frame) = whereabouts {
            if let Some(pin) = self.pins.pin(open.asker(), &frame) {
                return (Ok(pinned(frame, pin)), revision);
            }
            // Others read as much of L1 as they may: the frame is not held while this one waits for its turn.
            drop(frame);
            let deadline = ask.deadline.min(Instant::now() + PIN_WAIT);
            let Some(room) = self.pins.room(open.asker(), open.geometry.frame_bytes, deadline).await else {
                return (Err(Miss::NoRoom), revision);
            };
            (whereabouts, revision) = self.whereabouts(open, &key, ask.min_revision, ask.bypass_cache);
            if let Whereabouts::L1(frame) = whereabouts {
                let pin = self.pins.pin_in(&frame, room);
                return (Ok(pinned(frame, pin)), revision);
            }
        }
        let page = match whereabouts {
            Whereabouts::L3(epoch, location) => self.read_from_l3(reads, get, epoch, key, location).await,
            Whereabouts::Absent => Err(Miss::Absent),
            Whereabouts::Unknown | Whereabouts::L1(_) => Err(Miss::Behind),
        };
        (page.map(|page| (page, Tier::L3)), revision)
    }

    fn whereabouts(
        &self,
        open: &OpenNamespace,
        key: &EntryKey,
        min_revision: Revision,
        bypass_cache: bool,
    ) -> (Whereabouts, Revision) {
        open.mirror.read(|view| {
            // An own publish is known before the mirror has it.
            if view.known_at(key) < min_revision {
                return (Whereabouts::Unknown, view.revision());
            }
            let in_l1 = || self.l1.read(|pages| pages.get(&open.page(view.epoch(), *key)));
            if !bypass_cache && let Some(frame) = in_l1() {
                return (Whereabouts::L1(frame), view.revision());
            }
            let location = view.location(key).or_else(|| view.departed(key, min_revision));
            let found = location.map_or(Whereabouts::Absent, |location| Whereabouts::L3(view.epoch(), location));
            (found, view.revision())
        })
    }

    async fn read_from_l3(
        &self,
        reads: &Arc<NamespaceReads>,
        get: &Get,
        epoch: Epoch,
        key: EntryKey,
        location: Location,
    ) -> Result<PageBytes, Miss> {
        if get.gave_up.load(Ordering::Relaxed) {
            return Err(Miss::Deadline);
        }
        let (ask, began) = (&get.ask, Instant::now());
        let (room, open, deadline) = (self.room.clone(), reads.open.clone(), ask.deadline);
        let room = async move { room.take(open.asker(), open.geometry.frame_bytes, deadline).await };
        let reading = async {
            if ask.bypass_cache {
                let room = room.await.ok_or(Miss::NoRoom)?;
                let frame = self.reader.read_page(&reads.open, key, location, None).await?;
                return Ok((frame, Arc::new(room)));
            }
            let reading = self.reader.shared_read(reads, epoch, key, location, room);
            reading.await.unwrap_or(Err(Miss::ReadFailed))
        };
        let read = tokio::time::timeout_at(ask.deadline, reading).await.unwrap_or_else(|_| {
            sometimes(Marker::GetDeadlinePassed);
            Err(Miss::Deadline)
        });
        if matches!(read, Err(Miss::Deadline)) {
            get.late(began);
        }
        read.map(|(frame, room)| PageBytes { frame, _charge: room })
    }
}

fn pinned(frame: Frame, pin: Arc<Pin>) -> (PageBytes, Tier) {
    (PageBytes { frame, _charge: pin }, Tier::L1)
}

/// Reports the pages a get gave, however it ended.
struct HeatOfGet {
    reads: Arc<NamespaceReads>,
    hits: Vec<EntryKey>,
}

impl Drop for HeatOfGet {
    fn drop(&mut self) {
        self.reads.heat.used(&self.hits);
    }
}
