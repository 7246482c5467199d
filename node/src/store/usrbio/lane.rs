//! A ring of one direction, and the one that takes its place when too much of it is lost.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use super::attachment::Attachment;
use super::client::Client;
use super::outlet::Outlet;
use super::ring::{Owner, Ready, Ring};
use crate::store::StoreError;

/// Replaced rings of a lane in one epoch. Beyond, its I/Os wait and are refused: the daemon loses everything.
const RINGS_REPLACED_MAX: usize = 64;

/// I/Os of one direction go through its present ring.
pub(super) struct Lane {
    name: String,
    for_read: bool,
    entries: u32,
    client: Client,
    attachment: Arc<Attachment>,
    outlet: Arc<Outlet>,
    ring: RwLock<Option<Arc<Ring>>>,
    replaced: AtomicUsize,
    replacing: AtomicBool,
}

impl Lane {
    /// A lane with its first ring. On the registrar only.
    pub(super) fn make(
        name: String,
        for_read: bool,
        entries: u32,
        client: &Client,
        attachment: &Arc<Attachment>,
        outlet: &Arc<Outlet>,
    ) -> io::Result<Arc<Self>> {
        let lane = Arc::new(Self {
            name,
            for_read,
            entries,
            client: client.clone(),
            attachment: attachment.clone(),
            outlet: outlet.clone(),
            ring: RwLock::default(),
            replaced: AtomicUsize::new(0),
            replacing: AtomicBool::new(false),
        });
        let ring = lane.make_ring()?;
        *lane.ring.write() = Some(ring);
        Ok(lane)
    }

    fn make_ring(self: &Arc<Self>) -> io::Result<Arc<Ring>> {
        let port = self.client.ring(&self.attachment, self.for_read, self.entries)?;
        let owner: Weak<dyn Owner> = Arc::downgrade(&(self.clone() as Arc<dyn Owner>));
        Ring::start(port, self.entries, self.attachment.clone(), self.outlet.clone(), owner, &self.name)
    }

    fn ring(&self) -> Option<Arc<Ring>> {
        self.ring.read().clone()
    }

    /// I/Os under way and waiting.
    pub(super) fn load(&self) -> usize {
        self.ring().map_or(0, |ring| ring.load())
    }

    /// Takes I/Os; each gets its completion.
    pub(super) fn submit(&self, mut batch: Vec<Ready>) {
        // A ring refuses only while it is being replaced: the next one takes them.
        while let Some(ring) = self.ring() {
            match ring.submit(batch) {
                Ok(()) => return,
                Err(refused) => batch = refused,
            }
            if self.ring().is_some_and(|now| Arc::ptr_eq(&now, &ring)) {
                break;
            }
        }
        for ready in batch {
            self.outlet.finish(ready.io, Err(StoreError::Gone));
        }
    }

    /// Lets the ring's thread look up.
    pub(super) fn wake(&self) {
        if let Some(ring) = self.ring() {
            ring.wake();
        }
    }

    fn replace(self: &Arc<Self>) {
        if self.attachment.is_over() {
            return;
        }
        let ring = match self.make_ring() {
            Ok(ring) => ring,
            Err(error) => {
                tracing::warn!(lane = self.name, %error, "a ring that lost I/Os could not be replaced");
                return;
            }
        };
        tracing::warn!(lane = self.name, "a ring lost half of its I/Os and was replaced");
        self.replaced.fetch_add(1, Ordering::Relaxed);
        self.outlet.counts.rings_replaced.add(1);
        // In this order: who is refused by the old ring finds the new one.
        let before = self.ring.write().replace(ring);
        let waiting = before.map(|before| before.replace()).unwrap_or_default();
        self.submit(waiting);
    }
}

impl Owner for Lane {
    fn replace_later(self: Arc<Self>) {
        if self.replaced.load(Ordering::Relaxed) >= RINGS_REPLACED_MAX || self.replacing.swap(true, Ordering::AcqRel) {
            return;
        }
        let attachment = self.attachment.clone();
        attachment.registrar().post(move || {
            self.replace();
            self.replacing.store(false, Ordering::Release);
        });
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // A replaced ring sees by itself that its lane is gone.
        if let Some(ring) = self.ring() {
            ring.close();
        }
    }
}
