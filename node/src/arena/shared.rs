//! What an arena shares with its segments: the books, and who is told when they change.

use std::sync::atomic::{AtomicUsize, Ordering, fence};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::books::Books;

pub(super) struct Shared {
    pub(super) books: Mutex<Books>,
    /// Whoever waits for a frame.
    waiters: AtomicUsize,
    /// A frame may be had that could not be had before. Told while somebody waits.
    changed: Notify,
    /// A segment was ordered, or retired.
    ordered: Notify,
}

impl Shared {
    pub(super) fn new(books: Books) -> Self {
        Self { books: Mutex::new(books), waiters: AtomicUsize::new(0), changed: Notify::new(), ordered: Notify::new() }
    }

    /// One more waits, or so many fewer. Whoever begins to wait looks once more after that.
    pub(super) fn add_waiter(&self) {
        self.waiters.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(super) fn remove_waiters(&self, waiters: usize) {
        self.waiters.fetch_sub(waiters, Ordering::SeqCst);
    }

    pub(super) fn waiters(&self) -> usize {
        self.waiters.load(Ordering::SeqCst)
    }

    /// A frame came free, or is held by L1 alone now, or there is another segment. Almost always nobody waits.
    pub(super) fn frames_changed(&self) {
        // What changed is seen by who begins to wait now, or his waiting is seen here.
        fence(Ordering::SeqCst);
        if self.waiters.load(Ordering::SeqCst) > 0 {
            self.changed.notify_one();
        }
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn orders_changed(&self) {
        self.ordered.notify_one();
    }

    pub(super) async fn ordered(&self) {
        self.ordered.notified().await;
    }
}
