//! Pages of one file that were read since the last command on it, in the order in which each was read last.
//!
//! Reading costs a push. Pages that come twice are found when the touches are taken: 4 B a read and a bit a page of the
//! file.

use foreword_proto::limits::HF3FS_KEYS_MAX;

use crate::state::hf3fs::PageIndex;

/// Reads kept; then the oldest are forgotten, which costs their pages some of their place in the order.
const KEPT_MAX: usize = 4 * HF3FS_KEYS_MAX;
/// Touches that wait for no time.
pub(super) const TOUCHES_SOON: usize = 8192;
/// Touches are committed this long after the last ones.
pub(super) const TOUCH_EVERY_MS: u64 = 1000;

/// What was read.
#[derive(Default)]
pub(super) struct Touches {
    pages: Vec<PageIndex>,
    taken_ms: u64,
    /// One bit a page; all 0 between calls.
    seen: Vec<u64>,
}

impl Touches {
    /// A page was read.
    pub(super) fn push(&mut self, page: PageIndex) {
        if self.pages.len() == KEPT_MAX {
            self.keep_last(HF3FS_KEYS_MAX);
        }
        self.pages.push(page);
    }

    /// The pages that wait: the oldest read first, each once.
    pub(super) fn waiting(&mut self) -> &[PageIndex] {
        self.keep_last(HF3FS_KEYS_MAX);
        &self.pages
    }

    /// Takes the pages for one command, at most as many as it may have: the oldest read first, each once.
    pub(super) fn take(&mut self, now_ms: u64) -> Vec<PageIndex> {
        self.taken_ms = now_ms;
        self.keep_last(HF3FS_KEYS_MAX);
        std::mem::take(&mut self.pages)
    }

    /// Whether they should be committed without waiting for a command that goes to the group anyway.
    pub(super) fn are_due(&self, now_ms: u64) -> bool {
        self.pages.len() >= TOUCHES_SOON || !self.pages.is_empty() && self.taken_ms + TOUCH_EVERY_MS <= now_ms
    }

    /// Keeps each page once, where it stands last; of more than `count`, the last ones.
    fn keep_last(&mut self, count: usize) {
        let pages = &mut self.pages;
        let words = pages.iter().max().map_or(0, |page| *page as usize / 64 + 1);
        if self.seen.len() < words {
            self.seen.resize(words, 0);
        }
        let mut kept = pages.len();
        for at in (0..pages.len()).rev() {
            let (word, bit) = (pages[at] as usize / 64, 1 << (pages[at] % 64));
            if self.seen[word] & bit != 0 {
                continue;
            }
            self.seen[word] |= bit;
            kept -= 1;
            pages[kept] = pages[at];
            if pages.len() - kept == count {
                break;
            }
        }
        pages.drain(..kept);
        pages.iter().for_each(|page| self.seen[*page as usize / 64] = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_stands_where_it_was_read_last() {
        let mut touches = Touches::default();
        [7, 1, 7, 200, 1].into_iter().for_each(|page| touches.push(page));
        assert_eq!(touches.take(0), [7, 200, 1]);
        touches.push(7);
        assert_eq!(touches.take(0), [7]);
        assert!(touches.take(0).is_empty());
    }

    #[test]
    fn the_latest_reads_are_kept() {
        let mut touches = Touches::default();
        let pages = 3 * KEPT_MAX as u32 + 5;
        (0..pages).for_each(|page| touches.push(page));
        assert!(touches.pages.len() <= KEPT_MAX);
        let taken = touches.take(0);
        assert_eq!(taken.len(), HF3FS_KEYS_MAX);
        assert!(taken.iter().copied().eq(pages - HF3FS_KEYS_MAX as u32..pages));
        assert!(touches.seen.iter().all(|word| *word == 0));
    }

    #[test]
    fn they_wait_for_their_time_or_their_number() {
        let mut touches = Touches::default();
        assert!(!touches.are_due(5 * TOUCH_EVERY_MS));
        touches.push(3);
        assert!(!touches.are_due(TOUCH_EVERY_MS - 1) && touches.are_due(TOUCH_EVERY_MS));
        touches.take(TOUCH_EVERY_MS);
        (0..TOUCHES_SOON - 1).for_each(|_| touches.push(3));
        assert!(!touches.are_due(TOUCH_EVERY_MS + 1));
        touches.push(3);
        assert!(touches.are_due(TOUCH_EVERY_MS + 1));
    }
}
