//! The two queues of one frame class.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lru::LruCache;

use super::page_id::Hashed;
use super::{Entrance, PageId};
use crate::arena::Frame;

/// Protected pages are at most 4/5 of a class's pages: a burst of reads cannot push out everything just written.
const PROTECTED_SHARE: (usize, usize) = (4, 5);

/// Pages that were used since they were last looked at, and stay for it, in one search for a victim. Beyond that the
/// next one goes although it was used: a search costs this much at most.
pub(super) const SECOND_CHANCES_MAX: usize = 64;

pub(super) struct Page {
    pub(super) frame: Frame,
    /// Number of the last use.
    touched: AtomicU64,
    /// Since it came to its place in its queue.
    used: AtomicBool,
}

impl Page {
    pub(super) fn new(frame: Frame, touch: u64) -> Self {
        Self { frame, touched: AtomicU64::new(touch), used: AtomicBool::new(false) }
    }

    /// A use: who looks for a victim learns of it then.
    pub(super) fn touch(&self, touch: u64) {
        self.touched.store(touch, Ordering::Relaxed);
        self.used.store(true, Ordering::Relaxed);
    }
}

/// A segmented LRU with reference bits: pages on probation go first; a page that was used is protected when its turn to
/// go comes.
pub(super) struct Queues {
    probation: LruCache<PageId, Page, Hashed>,
    protected: LruCache<PageId, Page, Hashed>,
}

impl Default for Queues {
    fn default() -> Self {
        let queue = || LruCache::unbounded_with_hasher(Hashed::default());
        Self { probation: queue(), protected: queue() }
    }
}

impl Queues {
    pub(super) fn insert(&mut self, id: PageId, page: Page, entrance: Entrance) {
        match entrance {
            Entrance::Probation => self.probation.push(id, page),
            Entrance::Protected => self.protected.push(id, page),
        };
        self.demote_excess();
    }

    pub(super) fn peek(&self, id: &PageId) -> Option<&Page> {
        self.protected.peek(id).or_else(|| self.probation.peek(id))
    }

    pub(super) fn remove(&mut self, id: &PageId) -> Option<(Page, Entrance)> {
        let protected = self.protected.pop(id).map(|page| (page, Entrance::Protected));
        protected.or_else(|| self.probation.pop(id).map(|page| (page, Entrance::Probation)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.probation.is_empty() && self.protected.is_empty()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PageId> {
        self.probation.iter().chain(self.protected.iter()).map(|(id, _)| *id)
    }

    /// The last use of the page that goes next.
    pub(super) fn coldest_touch(&mut self) -> Option<u64> {
        let mut chances = SECOND_CHANCES_MAX;
        while self.give_second_chance(self.goes_first(), &mut chances) {}
        let first = self.goes_first();
        self.queue(first).peek_lru().map(|(_, page)| page.touched.load(Ordering::Relaxed))
    }

    fn goes_first(&self) -> Entrance {
        if self.probation.is_empty() { Entrance::Protected } else { Entrance::Probation }
    }

    /// Protects the coldest page of a queue if it was used; false if it was not, or if there are no chances left.
    fn give_second_chance(&mut self, entrance: Entrance, chances: &mut usize) -> bool {
        let queue = self.queue(entrance);
        let was_used = queue.peek_lru().is_some_and(|(_, page)| page.used.load(Ordering::Relaxed));
        if !was_used || *chances == 0 {
            return false;
        }
        *chances -= 1;
        if let Some((id, page)) = queue.pop_lru() {
            page.used.store(false, Ordering::Relaxed);
            self.insert(id, page, Entrance::Protected);
        }
        true
    }

    /// The coldest page that may go. Pages that may not are in use, so they become the warmest of their queue: the next
    /// search does not meet them again.
    pub(super) fn rotate_to_victim(&mut self, may_go: impl Fn(&PageId, &Page) -> bool) -> Option<PageId> {
        let mut chances = SECOND_CHANCES_MAX;
        for entrance in [Entrance::Probation, Entrance::Protected] {
            for _ in 0..self.queue(entrance).len() {
                while self.give_second_chance(entrance, &mut chances) {}
                let Some((id, page)) = self.queue(entrance).peek_lru() else { break };
                let id = *id;
                if may_go(&id, page) {
                    return Some(id);
                }
                self.queue(entrance).promote(&id);
            }
        }
        None
    }

    fn queue(&mut self, entrance: Entrance) -> &mut LruCache<PageId, Page, Hashed> {
        match entrance {
            Entrance::Probation => &mut self.probation,
            Entrance::Protected => &mut self.protected,
        }
    }

    fn demote_excess(&mut self) {
        let all = self.probation.len() + self.protected.len();
        while self.protected.len() * PROTECTED_SHARE.1 > all * PROTECTED_SHARE.0 {
            let Some((id, page)) = self.protected.pop_lru() else { return };
            self.probation.push(id, page);
        }
    }
}
