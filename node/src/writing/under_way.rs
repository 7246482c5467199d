//! The pages of one namespace on their way in, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foreword_proto::{EntryKey, Epoch, PutOutcome, PutRefusal};
use foreword_seams::{Marker, sometimes};
use parking_lot::Mutex;

use super::NamespaceWrites;
use super::page_work::PageWork;
use super::turns::Lacking;
use crate::counters::Counters;

/// Unfinished pages that are looked at to find who waits for whom.
const LOOKED_AT_MAX: usize = 1024;

/// Pages on their way to L3, by the epoch in which their bytes came.
pub(super) struct UnderWay {
    works: Mutex<BTreeMap<(Epoch, EntryKey), Arc<PageWork>>>,
    counters: Arc<Counters>,
}

impl UnderWay {
    /// None yet.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { works: Mutex::default(), counters }
    }

    /// The page, if it is under way.
    pub(super) fn find(&self, epoch: Epoch, key: EntryKey) -> Option<Arc<PageWork>> {
        self.works.lock().get(&(epoch, key)).cloned()
    }

    /// The page under way, or this one from now on.
    pub(super) fn find_or_begin(&self, epoch: Epoch, key: EntryKey, begin: impl FnOnce() -> PageWork) -> Arc<PageWork> {
        self.works.lock().entry((epoch, key)).or_insert_with(|| Arc::new(begin())).clone()
    }

    /// Says what became of a page; from now on the key is not under way here.
    pub(super) fn settle(&self, work: &PageWork, outcome: PutOutcome) {
        if !work.settle(outcome.clone()) {
            return;
        }
        match &outcome {
            PutOutcome::Published { .. } => self.counters.publishes_acked.add(1),
            PutOutcome::Exists { .. } => self.counters.puts_existing.add(1),
            PutOutcome::Declined => self.counters.puts_declined.add(1),
            PutOutcome::Refused { reason } => self.counters.refuse(*reason),
            PutOutcome::Taken => {}
        }
        self.works.lock().remove(&(work.epoch, work.key));
    }

    /// Gives a page up whose shards do not all come.
    pub(super) fn give_up(&self, work: &PageWork, reason: PutRefusal) {
        if work.give_up() {
            self.counters.puts_aborted.add(1);
            self.settle(work, PutOutcome::Refused { reason });
        }
    }

    /// Gives up the pages whose publish the group has not answered for this long: they take no memory and no room any
    /// more, and their slots stay with the command that is under way.
    pub(super) fn expire_publishes(&self, time: Duration) {
        let works = self.works.lock();
        let late: Vec<_> = works.values().filter(|work| work.is_publishing_for(time)).cloned().collect();
        drop(works);
        for work in late {
            if work.end_publishing().is_some() {
                sometimes(Marker::PublishExpired);
                self.settle(&work, PutOutcome::Refused { reason: PutRefusal::GroupGone });
            }
        }
    }

    /// Pages that have been waiting for shards for this long.
    pub(super) fn gathering_for(&self, time: Duration) -> Vec<Arc<PageWork>> {
        let works = self.works.lock();
        let late = works.values().filter(|work| work.started.elapsed() >= time && work.is_gathering());
        late.cloned().collect()
    }

    /// What unfinished pages lack of these shards. Of many, the first are looked at.
    pub(super) fn lacking(&self, shards: &BTreeSet<usize>) -> Lacking {
        let mut lacking = Lacking::default();
        for lacks in self.works.lock().values().filter_map(|work| work.lacks(shards)).take(LOOKED_AT_MAX) {
            lacking.others |= lacks.is_empty();
            lacking.shards.extend(lacks);
        }
        lacking
    }

    /// How many.
    pub(super) fn pages(&self) -> usize {
        self.works.lock().len()
    }
}

/// A whole page that somebody has promised to settle. Dropped without a word, however that came, it is refused: nobody
/// waits for ever.
pub(super) struct Pending {
    pub(super) writes: Arc<NamespaceWrites>,
    pub(super) work: Arc<PageWork>,
}

impl Pending {
    /// The promise.
    pub(super) fn new(writes: Arc<NamespaceWrites>, work: Arc<PageWork>) -> Self {
        writes.whole_pages.fetch_add(1, Ordering::Relaxed);
        Self { writes, work }
    }

    /// Says what became of the page.
    pub(super) fn settle(&self, outcome: PutOutcome) {
        self.writes.under_way.settle(&self.work, outcome);
    }

    pub(super) fn refuse(&self, reason: PutRefusal) {
        self.settle(PutOutcome::Refused { reason });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.work.outcome().is_none() {
            self.refuse(PutRefusal::WriteFailed);
        }
        drop(self.work.end_publishing());
        self.writes.whole_pages.fetch_sub(1, Ordering::Relaxed);
        self.writes.look_who_waits();
    }
}
