//! The way in: shards are gathered to pages, written to L3, published.
//!
//! [`Writing`] takes what engines put, up to whole pages; [`Writers`] give each a slot and write it; [`Publishers`]
//! make it visible.

mod page_work;
mod publish;
mod put;
mod turned_away;
mod turns;
mod under_way;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foreword_proto::{BadInput, EntryKey, Epoch, NamespaceId, PutOutcome, PutRefusal};
use foreword_seams::{Marker, sometimes};
use tokio::sync::mpsc;

use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::memory::{Memory, Room};
use crate::namespaces::{ByNamespace, OpenNamespace, PerNamespace};

use publish::PublishJob;
pub(crate) use publish::Publishers;
use turned_away::TurnedAway;
use turns::Turns;
use under_way::UnderWay;
use write::WriteJob;
pub(crate) use write::Writers;

/// The part of the arena that pages on their way to L3 may fill: 1/2.
const ARENA_PART: u64 = 2;

/// Puts.
pub(crate) struct Writing {
    namespaces: ByNamespace<NamespaceWrites>,
    writers: Arc<Writers>,
    publishers: Arc<Publishers>,
    memory: Arc<Memory>,
    room: Room,
    /// Whole pages on their way: their room comes free by itself.
    whole_pages: Arc<AtomicUsize>,
    /// How long one call waits for room and frames, all its pages together.
    room_wait: Duration,
    /// How long a page on L3 waits for the group.
    publish_wait: Duration,
    next_writer: AtomicU64,
    counters: Arc<Counters>,
}

/// What writing keeps for one namespace.
struct NamespaceWrites {
    open: Arc<OpenNamespace>,
    under_way: UnderWay,
    turned_away: TurnedAway,
    turns: Turns,
    /// Of all namespaces.
    whole_pages: Arc<AtomicUsize>,
    writer: mpsc::Sender<WriteJob>,
    publisher: mpsc::Sender<PublishJob>,
}

impl Writing {
    /// Nothing is under way yet.
    pub(crate) fn new(
        config: &NodeConfig,
        writers: Arc<Writers>,
        publishers: Arc<Publishers>,
        memory: Arc<Memory>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            namespaces: ByNamespace::default(),
            writers,
            publishers,
            memory,
            room: Room::new(config.arena_bytes / ARENA_PART),
            whole_pages: Arc::default(),
            publish_wait: Duration::from_millis(config.publish_wait_ms),
            room_wait: Duration::from_millis(config.put_room_wait_ms),
            next_writer: AtomicU64::new(1),
            counters,
        }
    }

    /// Gives pages up whose shards did not all come within this time, and those whose publish is not answered.
    pub(crate) fn give_up_late(&self, gather_deadline: Duration) {
        for writes in self.namespaces.all() {
            for work in writes.under_way.gathering_for(gather_deadline) {
                sometimes(Marker::GatherTimedOut);
                writes.under_way.give_up(&work, PutRefusal::Incomplete);
            }
            writes.under_way.expire_publishes(self.publish_wait);
            writes.turned_away.forget_older(gather_deadline);
        }
    }

    /// Pages on their way to L3.
    pub(crate) fn pages_under_way(&self) -> usize {
        self.namespaces.all().iter().map(|writes| writes.under_way.pages()).sum()
    }

    /// Units of room that they take.
    pub(crate) fn room_used(&self) -> u64 {
        self.room.used()
    }
}

impl NamespaceWrites {
    /// The shard's index.
    ///
    /// Errors: the namespace does not have it.
    fn shard(&self, shard: u32) -> Result<usize, BadInput> {
        let shards = self.open.geometry.shards();
        let index = usize::try_from(shard).ok().filter(|index| *index < shards);
        index.ok_or_else(|| BadInput::new("shard", format!("a shard below {shards}, got {shard}")))
    }

    /// What a put of this page is told if the index has it.
    fn existing(&self, key: &EntryKey) -> Option<PutOutcome> {
        let revision = self.open.mirror.read(|view| view.present_at(key))?;
        Some(PutOutcome::Exists { revision })
    }

    /// Looks whether ranks wait for each other.
    fn look_who_waits(&self) {
        if self.whole_pages.load(Ordering::Relaxed) == 0 {
            self.turns.look(|shards| self.under_way.lacking(shards));
        }
    }

    /// A shard of this page was refused for lack of room: the others need not take any.
    fn turn_away(&self, epoch: Epoch, key: EntryKey, shard: usize) {
        if self.open.geometry.shards() > 1 {
            self.turned_away.add(epoch, key, shard);
            self.turns.look_again();
        }
    }
}

impl PerNamespace for Writing {
    fn opened(&self, open: &Arc<OpenNamespace>) {
        self.room.enter(open.asker());
        let writes = NamespaceWrites {
            open: open.clone(),
            under_way: UnderWay::new(self.counters.clone()),
            turned_away: TurnedAway::default(),
            turns: Turns::default(),
            whole_pages: self.whole_pages.clone(),
            writer: self.writers.queue(open.shape.slot_bytes),
            publisher: self.publishers.queue(),
        };
        self.namespaces.insert(open.id, Arc::new(writes));
    }

    fn closed(&self, namespace: NamespaceId) {
        let Some(writes) = self.namespaces.remove(namespace) else { return };
        self.room.leave(writes.open.asker());
    }
}
