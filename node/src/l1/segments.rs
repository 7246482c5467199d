//! Which pages lie in one segment of the arena.

use super::PageId;
use crate::arena::FrameClass;

/// The pages of one segment, by frame.
pub(super) struct SegmentPages {
    class: FrameClass,
    by_frame: Vec<Option<PageId>>,
    pages: usize,
    touched: u64,
    /// The first frame with a page: a drain that goes on does not walk over what it cleared before.
    cursor: usize,
}

impl SegmentPages {
    pub(super) fn new(class: FrameClass) -> Self {
        Self { class, by_frame: Vec::new(), pages: 0, touched: 0, cursor: 0 }
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

    pub(super) fn touch(&mut self, touch: u64) {
        self.touched = touch;
    }

    /// Number of the last touch of any of its pages.
    pub(super) fn touched(&self) -> u64 {
        self.touched
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
