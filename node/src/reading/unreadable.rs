//! Pages that L3 would not give lately, though it answers otherwise: lookups do not count them, and the agent itself
//! tries them again.

use std::num::NonZeroUsize;
use std::time::Duration;

use foreword_proto::{EntryKey, NamespaceId, SlotRef};
use foreword_seams::{Marker, sometimes};
use futures::future::join_all;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Reading;
use crate::namespaces::OpenNamespace;

/// Pages that are tried again; the one that failed longest ago is forgotten, and stays avoided until its slot is
/// another page's.
const PAGES_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Pages that are tried each time.
const TRIES_AT_ONCE: usize = 8;
/// Before the first try; each further one waits twice as long, up to the second figure.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// After so many tries, half a minute, the group is told: without the page, a writer may bring it again.
const TRIES_BEFORE_SUSPECT: u32 = 5;

/// The pages, and when each is tried again.
pub(super) struct Unreadable {
    pages: Mutex<LruCache<(NamespaceId, EntryKey), Retry>>,
}

/// When a page is tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    pub(super) slot: SlotRef,
    tries: u32,
    at: Instant,
}

impl Retry {
    fn new(slot: SlotRef) -> Self {
        Self { slot, tries: 0, at: Instant::now() + WAIT_MIN }
    }

    /// L3 was not asked.
    pub(super) fn put_off(self) -> Self {
        Self { at: Instant::now() + WAIT_MIN, ..self }
    }

    /// L3 would not give it again.
    pub(super) fn after_failure(self) -> Self {
        let tries = self.tries + 1;
        Self { tries, at: Instant::now() + (WAIT_MIN * (1 << tries.min(8))).min(WAIT_MAX), ..self }
    }

    /// It is time to tell the group: once.
    pub(super) fn is_suspect(self) -> bool {
        self.tries == TRIES_BEFORE_SUSPECT
    }
}

impl Default for Unreadable {
    fn default() -> Self {
        Self { pages: Mutex::new(LruCache::new(PAGES_MAX)) }
    }
}

impl Unreadable {
    /// L3 would not give a page of this slot. It is avoided until a try of the agent's own succeeds.
    pub(super) fn add(&self, open: &OpenNamespace, key: EntryKey, slot: SlotRef) {
        sometimes(Marker::PageUnreadable);
        open.mirror.write(|view| view.avoid(key, slot));
        self.pages.lock().put((open.id, key), Retry::new(slot));
    }

    /// The pages whose time has come, some of them.
    fn due(&self) -> Vec<((NamespaceId, EntryKey), Retry)> {
        let (pages, now) = (self.pages.lock(), Instant::now());
        pages.iter().filter(|(_, retry)| retry.at <= now).take(TRIES_AT_ONCE).map(|(id, retry)| (*id, *retry)).collect()
    }

    fn set(&self, id: (NamespaceId, EntryKey), next: Option<Retry>) {
        let mut pages = self.pages.lock();
        match (next, pages.peek_mut(&id)) {
            (Some(next), Some(retry)) => *retry = next,
            (None, Some(_)) => drop(pages.pop(&id)),
            (_, None) => {}
        }
    }
}

impl Reading {
    /// Tries pages that L3 would not give, those whose time has come.
    pub(crate) async fn try_unreadable(&self) {
        let unreadable = self.reader.unreadable();
        for ((namespace, key), retry) in unreadable.due() {
            let next = match self.namespaces.get(namespace) {
                Ok(reads) => self.reader.try_again(&reads.open, key, retry).await,
                Err(_) => None,
            };
            unreadable.set((namespace, key), next);
        }
    }

    /// Asks slabs that failed whether they answer again, so that no engine's read has to find out.
    pub(crate) async fn probe_slabs(&self) {
        let due = self.l3.due_probes();
        if due.is_empty() {
            return;
        }
        // Any open namespace has frames that L3 can read into; without one nobody reads.
        let Some(reads) = self.namespaces.all().into_iter().next() else { return };
        let (tenant, frame_bytes) = (reads.open.tenant, reads.open.geometry.frame_bytes);
        let probes = due.into_iter().filter_map(|slab| {
            let frame = self.l1.write(|pages| pages.allocate(tenant, frame_bytes))?;
            Some(self.l3.probe(slab, frame))
        });
        join_all(probes).await;
    }
}
