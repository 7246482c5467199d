//! Calls of one namespace that wait for room, and which of them gives way.
//!
//! A page that lacks a shard holds room until that shard's rank comes to it. A rank that waits for room itself does
//! not: two ranks that put in opposite orders would wait for each other until all of it is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::plan::gather::WriterId;

/// The calls that wait.
#[derive(Default)]
pub(super) struct Turns(Mutex<BTreeMap<WriterId, Waiting>>);

struct Waiting {
    shard: usize,
    call: Arc<Call>,
}

#[derive(Default)]
struct Call {
    gives_way: AtomicBool,
    look_again: Notify,
}

/// A call's wait. Dropped when it is over.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    writer: WriterId,
    call: Arc<Call>,
}

/// What the unfinished pages of a namespace say of ranks that wait.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lacking {
    /// Shards that some page lacks, of those that were asked about.
    pub(super) shards: BTreeSet<usize>,
    /// A page lacks none of those: it may become whole, and give room back.
    pub(super) others: bool,
}

impl Turns {
    /// A call of this shard waits for room.
    pub(super) fn wait(&self, writer: WriterId, shard: usize) -> Turn<'_> {
        let call = Arc::new(Call::default());
        self.0.lock().insert(writer, Waiting { shard, call: call.clone() });
        Turn { turns: self, writer, call }
    }

    /// Where every unfinished page lacks a shard whose rank waits, none of them gives room back: of those calls the one
    /// that began last gives way, until it is not so any more.
    pub(super) fn look(&self, lacking: impl Fn(&BTreeSet<usize>) -> Lacking) {
        let mut waiting = self.0.lock();
        while !waiting.is_empty() {
            let lacking = lacking(&waiting.values().map(|waiting| waiting.shard).collect());
            let last = waiting.iter().rev().find(|(_, waiting)| lacking.shards.contains(&waiting.shard));
            let Some((writer, waits)) = last.filter(|_| !lacking.others) else { return };
            waits.call.gives_way.store(true, Ordering::Relaxed);
            waits.call.look_again.notify_one();
            let writer = *writer;
            waiting.remove(&writer);
        }
    }

    /// Something that a call waits for will not come.
    pub(super) fn look_again(&self) {
        self.0.lock().values().for_each(|waiting| waiting.call.look_again.notify_one());
    }
}

impl Turn<'_> {
    /// Waits until there is something to look at again.
    pub(super) async fn look_again(&self) {
        self.call.look_again.notified().await;
    }

    /// True if this call has to give way.
    pub(super) fn gives_way(&self) -> bool {
        self.call.gives_way.load(Ordering::Relaxed)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.0.lock().remove(&self.writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages, each with the shards that it lacks.
    fn lacking(pages: &[&[usize]]) -> impl Fn(&BTreeSet<usize>) -> Lacking {
        move |asked| {
            let mut lacking = Lacking::default();
            for page in pages {
                let lacks: BTreeSet<usize> = page.iter().copied().filter(|shard| asked.contains(shard)).collect();
                lacking.others |= lacks.is_empty();
                lacking.shards.extend(lacks);
            }
            lacking
        }
    }

    #[test]
    fn of_two_ranks_that_wait_for_each_other_the_later_call_gives_way() {
        let turns = Turns::default();
        let (first, second) = (turns.wait(1, 0), turns.wait(2, 1));
        turns.look(lacking(&[&[0], &[1], &[0]]));
        assert!(second.gives_way() && !first.gives_way());
    }

    #[test]
    fn a_rank_that_waits_for_one_that_will_come_goes_on_waiting() {
        let turns = Turns::default();
        let (first, second) = (turns.wait(1, 0), turns.wait(2, 1));
        turns.look(lacking(&[&[1], &[2]]));
        assert!(!first.gives_way() && !second.gives_way(), "the page that lacks shard 2 gives room back");
        turns.look(lacking(&[]));
        assert!(!first.gives_way() && !second.gives_way(), "others' pages hold the room");
    }

    #[test]
    fn the_rank_that_all_pages_lack_gives_way_though_it_began_first() {
        let turns = Turns::default();
        let (first, second) = (turns.wait(1, 1), turns.wait(2, 0));
        turns.look(lacking(&[&[1], &[1]]));
        assert!(first.gives_way() && !second.gives_way());
    }
}
