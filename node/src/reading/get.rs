//! Gets: pages in the order of their keys, a window of them read ahead.

use std::sync::Arc;

use foreword_proto::{EntryKey, Epoch, Location, Revision, Tier};
use foreword_seams::{Marker, sometimes};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{NamespaceReads, Reading};
use crate::api::{ApiError, GetAsk, Miss, PageAnswer, PageBytes};
use crate::arena::Frame;
use crate::namespaces::OpenNamespace;

/// Pages of one get on their way at once.
const WINDOW_PAGES_MAX: usize = 32;
/// One get takes at most this part of the room for gets, so that a slow reader does not stop the others.
const WINDOW_ROOM_PART: usize = 16;

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
        let window = (room_pages / WINDOW_ROOM_PART).clamp(1, WINDOW_PAGES_MAX);
        let every_key = ask.every_key;
        let heat = HeatOfGet { reads: reads.clone(), hits: Vec::new() };
        let reading = self.clone();
        let ask = Arc::new(ask);
        let answers = stream::iter(0..ask.keys.len())
            .map(move |index| {
                let (reading, reads, ask) = (reading.clone(), reads.clone(), ask.clone());
                async move { (ask.keys[index].entry(), reading.page(&reads, &ask, index).await) }
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

    async fn page(&self, reads: &Arc<NamespaceReads>, ask: &GetAsk, index: usize) -> PageAnswer {
        let key = ask.keys[index].entry();
        let open = &reads.open;
        reads.ahead.lock().followed(&key);
        let Some(room) = self.room.take(open.geometry.frame_bytes, ask.deadline).await else {
            self.counters.misses.add(1);
            let revision = open.mirror.read(|view| view.revision());
            return PageAnswer { index, page: Err(Miss::NoRoom), revision };
        };
        let (mut whereabouts, mut revision) = self.whereabouts(open, &key, ask);
        if matches!(whereabouts, Whereabouts::Unknown) {
            open.mirror.reached(ask.min_revision, ask.deadline).await;
            (whereabouts, revision) = self.whereabouts(open, &key, ask);
        }
        let read = match whereabouts {
            Whereabouts::L1(frame) => Ok((frame, Tier::L1)),
            Whereabouts::L3(epoch, location) => {
                self.read_from_l3(reads, ask, epoch, key, location).await.map(|frame| (frame, Tier::L3))
            }
            Whereabouts::Absent => Err(Miss::Absent),
            Whereabouts::Unknown => Err(Miss::Behind),
        };
        match &read {
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
        PageAnswer { index, page: read.map(|(frame, tier)| (PageBytes { frame, _room: room }, tier)), revision }
    }

    fn whereabouts(&self, open: &OpenNamespace, key: &EntryKey, ask: &GetAsk) -> (Whereabouts, Revision) {
        open.mirror.read(|view| {
            // An own publish is known before the mirror has it.
            if view.known_at(key) < ask.min_revision {
                return (Whereabouts::Unknown, view.revision());
            }
            let in_l1 = || self.l1.write(|pages| pages.get(&open.page(view.epoch(), *key)));
            if !ask.bypass_cache
                && let Some(frame) = in_l1()
            {
                return (Whereabouts::L1(frame), view.revision());
            }
            let location = view.location(key);
            let found = location.map_or(Whereabouts::Absent, |location| Whereabouts::L3(view.epoch(), location));
            (found, view.revision())
        })
    }

    async fn read_from_l3(
        &self,
        reads: &Arc<NamespaceReads>,
        ask: &GetAsk,
        epoch: Epoch,
        key: EntryKey,
        location: Location,
    ) -> Result<Frame, Miss> {
        let reading = async {
            if ask.bypass_cache {
                return self.reader.read_page(&reads.open, key, location, None).await;
            }
            self.reader.shared_read(reads, epoch, key, location).await.unwrap_or(Err(Miss::ReadFailed))
        };
        tokio::time::timeout_at(ask.deadline, reading).await.unwrap_or_else(|_| {
            sometimes(Marker::GetDeadlinePassed);
            Err(Miss::Deadline)
        })
    }
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
