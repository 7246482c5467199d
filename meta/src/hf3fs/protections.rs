//! Which pages of one file a reader was told of, and until when nobody else may have them.
//!
//! Told again and again, a page still has one end and one place in the queue of ends, so memory goes with the pages of
//! the file and not with the reads: 8 B a page in chunks that are there while one of their pages is protected, and 4 B
//! a protected page.

use std::collections::VecDeque;

use crate::state::hf3fs::PageIndex;

const CHUNK_PAGES: usize = 256;
/// Ends are kept in this many steps of a protection.
const STEPS: u64 = 64;
/// Pages whose end is looked at in one sweep: what a sweep costs is bounded.
const SWEEP_PAGES_MAX: usize = 4096;

struct Chunk {
    /// 0: not protected.
    until_ms: [u64; CHUNK_PAGES],
    protected: u32,
}

/// Ends of protections, in milliseconds of its owner's time, which must not go back.
pub(super) struct Protections {
    protection_ms: u64,
    chunks: Vec<Option<Box<Chunk>>>,
    /// Pages by the step in which their end comes, or came to be looked at; the earliest first.
    ends: VecDeque<(u64, Vec<PageIndex>)>,
    pages: u64,
}

impl Protections {
    /// Nothing is protected.
    pub(super) fn new(protection_ms: u64) -> Self {
        Self { protection_ms, chunks: Vec::new(), ends: VecDeque::new(), pages: 0 }
    }

    /// Protects a page from now on.
    pub(super) fn protect(&mut self, page: PageIndex, now_ms: u64) {
        // One more: `now_ms` is rounded down.
        let until_ms = now_ms + self.protection_ms + 1;
        let (chunk, at) = place(page);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk =
            self.chunks[chunk].get_or_insert_with(|| Box::new(Chunk { until_ms: [0; CHUNK_PAGES], protected: 0 }));
        let known = chunk.until_ms[at] > 0;
        chunk.until_ms[at] = until_ms;
        if !known {
            chunk.protected += 1;
            self.pages += 1;
            self.queue(page, until_ms);
        }
    }

    /// Whether a page is protected at `now_ms`.
    pub(super) fn covers(&self, page: PageIndex, now_ms: u64) -> bool {
        let (chunk, at) = place(page);
        self.chunks.get(chunk).and_then(Option::as_ref).is_some_and(|chunk| chunk.until_ms[at] > now_ms)
    }

    /// Pages that are protected, as far as they have been swept.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Forgets protections that ended, a bounded number of them.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        for _ in 0..SWEEP_PAGES_MAX {
            let step_ms = self.step_ms();
            let Some((step, pages)) = self.ends.front_mut() else { return };
            if *step * step_ms > now_ms {
                return;
            }
            match pages.pop() {
                None => {
                    self.ends.pop_front();
                }
                Some(page) => self.look_at(page, now_ms),
            }
        }
    }

    fn look_at(&mut self, page: PageIndex, now_ms: u64) {
        let (at_chunk, at) = place(page);
        let Some(chunk) = self.chunks.get_mut(at_chunk).and_then(Option::as_mut) else { return };
        let until_ms = chunk.until_ms[at];
        if until_ms > now_ms {
            // It was read again meanwhile.
            return self.queue(page, until_ms);
        }
        chunk.until_ms[at] = 0;
        chunk.protected -= 1;
        self.pages -= 1;
        if chunk.protected == 0 {
            self.chunks[at_chunk] = None;
        }
    }

    fn queue(&mut self, page: PageIndex, until_ms: u64) {
        // Rounded up: whoever is looked at in its step has ended by then, unless it was read again.
        let step = until_ms.div_ceil(self.step_ms());
        match self.ends.back_mut() {
            Some((last, pages)) if *last >= step => pages.push(page),
            _ => self.ends.push_back((step, vec![page])),
        }
    }

    fn step_ms(&self) -> u64 {
        (self.protection_ms / STEPS).max(1)
    }
}

fn place(page: PageIndex) -> (usize, usize) {
    (page as usize / CHUNK_PAGES, page as usize % CHUNK_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_protected_for_a_whole_protection_after_it_was_last_read() {
        let mut protections = Protections::new(1000);
        protections.protect(7, 100);
        assert!(protections.covers(7, 100) && protections.covers(7, 1100) && !protections.covers(7, 1101));
        assert!(!protections.covers(6, 100) && !protections.covers(1 << 27, 100));
        protections.protect(7, 600);
        assert!(protections.covers(7, 1600) && !protections.covers(7, 1601));
        assert_eq!(protections.pages(), 1);
    }

    #[test]
    fn what_ended_is_forgotten_and_what_was_read_again_is_not() {
        let mut protections = Protections::new(1000);
        for page in 0..2000 {
            protections.protect(page, u64::from(page) / 10);
        }
        for round in 0..50 {
            protections.protect(5, 200 + round * 10);
        }
        protections.sweep(990);
        assert_eq!(protections.pages(), 2000);
        protections.sweep(1300);
        assert_eq!(protections.pages(), 1);
        assert!(protections.covers(5, 1300) && !protections.covers(4, 1300));
        assert_eq!(protections.ends.iter().map(|(_, pages)| pages.len()).sum::<usize>(), 1, "one place in the queue");
        assert_eq!(protections.chunks.iter().flatten().count(), 1);
        protections.sweep(5000);
        assert_eq!((protections.pages(), protections.ends.len()), (0, 0));
        assert_eq!(protections.chunks.iter().flatten().count(), 0);
    }

    #[test]
    fn a_sweep_is_bounded() {
        let mut protections = Protections::new(10);
        let pages = 3 * SWEEP_PAGES_MAX as u32;
        (0..pages).for_each(|page| protections.protect(page, 0));
        protections.sweep(1000);
        assert!(
            protections.pages() > u64::from(pages) - SWEEP_PAGES_MAX as u64 - 1
                && protections.pages() < u64::from(pages)
        );
        (0..4).for_each(|_| protections.sweep(1000));
        assert_eq!(protections.pages(), 0);
    }
}
