//! The two queues of one frame class.

use lru::LruCache;

use super::{Entrance, PageId};
use crate::arena::Frame;

/// Protected pages are at most 4/5 of a class's pages: a burst of reads cannot push out everything just written.
const PROTECTED_SHARE: (usize, usize) = (4, 5);

pub(super) struct Page {
    pub(super) frame: Frame,
    /// Number of the last touch.
    pub(super) touched: u64,
}

/// A segmented LRU: pages on probation go first; a use protects.
pub(super) struct Queues {
    probation: LruCache<PageId, Page>,
    protected: LruCache<PageId, Page>,
}

impl Default for Queues {
    fn default() -> Self {
        Self { probation: LruCache::unbounded(), protected: LruCache::unbounded() }
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

    /// A use: the page is protected from now on.
    pub(super) fn touch(&mut self, id: &PageId, touch: u64) -> Option<Frame> {
        let mut page = self.remove(id)?.0;
        page.touched = touch;
        let frame = page.frame.clone();
        self.insert(*id, page, Entrance::Protected);
        Some(frame)
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

    /// The last touch of the page that goes next.
    pub(super) fn coldest_touch(&self) -> Option<u64> {
        self.probation.peek_lru().or_else(|| self.protected.peek_lru()).map(|(_, page)| page.touched)
    }

    /// The coldest page that may go. Pages that may not are in use, so they become the warmest of their queue: the next search
    /// does not meet them again.
    pub(super) fn rotate_to_victim(&mut self, may_go: impl Fn(&PageId, &Page) -> bool) -> Option<PageId> {
        for queue in [&mut self.probation, &mut self.protected] {
            for _ in 0..queue.len() {
                let (id, page) = queue.peek_lru()?;
                let id = *id;
                if may_go(&id, page) {
                    return Some(id);
                }
                queue.promote(&id);
            }
        }
        None
    }

    fn demote_excess(&mut self) {
        let all = self.probation.len() + self.protected.len();
        while self.protected.len() * PROTECTED_SHARE.1 > all * PROTECTED_SHARE.0 {
            let Some((id, page)) = self.protected.pop_lru() else { return };
            self.probation.push(id, page);
        }
    }
}
