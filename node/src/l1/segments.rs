//! Which pages lie in one segment of the arena.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::PageId;
use crate::arena::FrameClass;

/// The pages of one segment, by frame.
pub(super) struct SegmentPages {
    class: FrameClass,
    by_frame: Vec<Option<PageId>>,
    pages: usize,
    /// Number of the last use of any of them.
    touched: AtomicU64,
    /// One was used since this segment came to its place among the others.
    used: AtomicBool,
    /// The first frame with a page: a drain that goes on does not walk over what it cleared before.
    cursor: usize,
}

impl SegmentPages {
    pub(super) fn new(class: FrameClass) -> Self {
        Self {
            class,
            by_frame: Vec::new(),
            pages: 0,
            touched: AtomicU64::new(0),
            used: AtomicBool::new(false),
            cursor: 0,
        }
    }

    pub(super) fn class(&self) -> FrameClass {
        self.class
    }

    /// A page enters the frame `index`.
    pub(super) fn put(&mut self, index: u32, id: PageId) {
        let index = index as usize;
        if self.by_frame.len() <= index {
            self.by_frame.resize(index + 1, None);
        }
        let before = self.by_frame[index].replace(id);
        assert!(before.is_none(), "frame {index} holds {before:?} and {id:?}");
        self.pages += 1;
        self.cursor = self.cursor.min(index);
    }

    /// The page of frame `index` is gone.
    pub(super) fn clear(&mut self, index: u32) {
        let index = index as usize;
        if self.by_frame.get_mut(index).and_then(Option::take).is_some() {
            self.pages -= 1;
            while self.by_frame.get(self.cursor).is_some_and(Option::is_none) {
                self.cursor += 1;
            }
        }
    }

    /// A page entered, and the segment comes to the warmest place among the others.
    pub(super) fn enter(&self, touch: u64) {
        self.touched.store(touch, Ordering::Relaxed);
        self.used.store(false, Ordering::Relaxed);
    }

    /// One of its pages is used: who looks for a cold segment learns of it then.
    pub(super) fn touch(&self, touch: u64) {
        self.touched.store(touch, Ordering::Relaxed);
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether one was used since the last time this was asked.
    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Number of the last touch of any of its pages.
    pub(super) fn touched(&self) -> u64 {
        self.touched.load(Ordering::Relaxed)
    }

    /// How many pages.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// All its pages: the frames below the cursor are empty.
    pub(super) fn ids(&self) -> impl Iterator<Item = PageId> {
        self.by_frame.iter().skip(self.cursor).filter_map(|id| *id)
    }
}
