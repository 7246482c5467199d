//! The way out: pages to engines, from L1 or L3, and what engines are told of where pages are.
//!
//! [`Reading`] is what an engine asks; [`PageReader`] below it brings one page from L3.

mod get;
mod heat;
mod lookup;
mod page_reader;
mod pins;
mod prefetch;
mod shared_reads;
mod suspects;
mod unreadable;

use std::sync::Arc;

use foreword_client::Group;
use foreword_proto::{EntryKey, NamespaceId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::l1::L1;
use crate::l3::L3;
use crate::memory::Room;
use crate::namespaces::{ByNamespace, OpenNamespace, PerNamespace};
use crate::plan::prefetch::PrefetchWindow;
use crate::tasks::Tasks;

use heat::HeatLog;
pub(crate) use page_reader::PageReader;
use pins::Pins;
use shared_reads::SharedReads;
pub(crate) use suspects::Suspects;

/// The part of the arena that pages on their way from L3 to engines may fill, and the part that pages on their way from
/// L1 may: 1/4.
const ARENA_PART: u64 = 4;

/// Lookups, gets and prefetches.
pub(crate) struct Reading {
    namespaces: ByNamespace<NamespaceReads>,
    reader: Arc<PageReader>,
    /// For pages read from L3.
    room: Arc<Room>,
    /// For pages of L1, which wait for no read.
    pins: Pins,
    arena_bytes: u64,
    started: Instant,
    l1: Arc<L1>,
    l3: Arc<L3>,
    meta: Group,
    counters: Arc<Counters>,
    tasks: Tasks,
}

/// What reading keeps for one namespace.
struct NamespaceReads {
    open: Arc<OpenNamespace>,
    shared: SharedReads,
    ahead: Mutex<PrefetchWindow>,
    heat: HeatLog,
}

impl Reading {
    /// Nothing is read yet.
    pub(crate) fn new(
        config: &NodeConfig,
        reader: Arc<PageReader>,
        l1: Arc<L1>,
        l3: Arc<L3>,
        meta: Group,
        counters: Arc<Counters>,
        tasks: Tasks,
    ) -> Self {
        let arena_bytes = config.arena_bytes;
        Self {
            namespaces: ByNamespace::default(),
            reader,
            room: Arc::new(Room::new(arena_bytes / ARENA_PART)),
            pins: Pins::new(arena_bytes / ARENA_PART),
            arena_bytes,
            started: Instant::now(),
            l1,
            l3,
            meta,
            counters,
            tasks,
        }
    }

    /// Which pages of each open namespace were asked for since the last call, oldest first.
    pub(crate) fn take_heat(&self) -> Vec<(Arc<OpenNamespace>, Vec<EntryKey>)> {
        self.namespaces.all().iter().map(|reads| (reads.open.clone(), reads.heat.take())).collect()
    }

    /// Units of room that pages on their way to engines take.
    pub(crate) fn room_used(&self) -> u64 {
        self.room.used() + self.pins.used()
    }
}

impl PerNamespace for Reading {
    fn opened(&self, open: &Arc<OpenNamespace>) {
        self.room.enter(open.asker());
        self.pins.enter(open.asker());
        self.l3.enter(open.tenant);
        let reads = NamespaceReads {
            open: open.clone(),
            shared: SharedReads::default(),
            ahead: Mutex::new(PrefetchWindow::new(self.arena_bytes, open.geometry.frame_bytes)),
            heat: HeatLog::default(),
        };
        self.namespaces.insert(open.id, Arc::new(reads));
    }

    fn closed(&self, namespace: NamespaceId) {
        let Some(reads) = self.namespaces.remove(namespace) else { return };
        self.room.leave(reads.open.asker());
        self.pins.leave(reads.open.asker());
        self.l3.leave(reads.open.tenant);
    }
}
