//! Which request may start: it waits only for earlier requests that still write a page it asks for. Pure.
//!
//! A request is submitted in file order. Of the pages it asks for it *writes* those that nobody is known to have
//! published and no earlier request writes; it *waits* for those an earlier one writes. When a lookup shows that a page
//! is gone after all, the request becomes a writer of it then ([`Schedule::missed`]), and later submissions wait for
//! it. Waits point only to smaller indices and are fixed at submission, so there is no cycle.

use std::collections::{BTreeSet, HashMap};

use super::plan::PageIndex;

/// Index of a request in the trace.
pub type RequestIndex = usize;

/// What became of a page a request wrote or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub page: PageIndex,
    /// The revision at which it is known to be present; None: it was declined or refused.
    pub revision: Option<u64>,
}

#[derive(Debug, Default)]
struct Page {
    /// The largest revision at which somebody was told that it is present.
    revision: u64,
    present: bool,
    writers: BTreeSet<RequestIndex>,
    waiters: BTreeSet<RequestIndex>,
}

#[derive(Debug, Default)]
struct Request {
    pages: Vec<PageIndex>,
    writes: BTreeSet<PageIndex>,
    waits: BTreeSet<PageIndex>,
}

/// The requests under way and the pages they share.
#[derive(Debug, Default)]
pub struct Schedule {
    pages: HashMap<PageIndex, Page>,
    requests: HashMap<RequestIndex, Request>,
}

impl Schedule {
    /// Adds a request, in file order. True: it may start now; else a later [`Schedule::finish`] releases it.
    pub fn submit(&mut self, index: RequestIndex, pages: &[PageIndex]) -> bool {
        let mut request = Request { pages: pages.to_vec(), ..Request::default() };
        for id in pages {
            let page = self.pages.entry(*id).or_default();
            if page.writers.iter().any(|writer| *writer < index) {
                page.waiters.insert(index);
                request.waits.insert(*id);
            } else if !page.present {
                page.writers.insert(index);
                request.writes.insert(*id);
            }
        }
        let ready = request.waits.is_empty();
        self.requests.insert(index, request);
        ready
    }

    /// The largest revision acknowledged for the pages of a request: what its lookup must see.
    pub fn min_revision(&self, index: RequestIndex) -> u64 {
        let pages = self.requests.get(&index).map_or(&[][..], |request| &request.pages);
        pages.iter().filter_map(|id| self.pages.get(id)).map(|page| page.revision).max().unwrap_or(0)
    }

    /// The request's lookup or get found these pages missing: it writes them from now on.
    pub fn missed(&mut self, index: RequestIndex, pages: &[PageIndex]) {
        let Some(request) = self.requests.get_mut(&index) else { return };
        for id in pages {
            let page = self.pages.entry(*id).or_default();
            page.present = false;
            page.writers.insert(index);
            request.writes.insert(*id);
        }
    }

    /// The request found these pages at this revision and does not write them: returns who may start.
    pub fn found(&mut self, index: RequestIndex, pages: &[PageIndex], revision: u64) -> Vec<RequestIndex> {
        let mut ready = Vec::new();
        for id in pages {
            let claimed = self.requests.get_mut(&index).is_some_and(|request| request.writes.remove(id));
            if claimed {
                self.release(index, Written { page: *id, revision: Some(revision) }, &mut ready);
            }
        }
        ready
    }

    /// The request is over; returns who may start.
    pub fn finish(&mut self, index: RequestIndex, written: &[Written]) -> Vec<RequestIndex> {
        let mut ready = Vec::new();
        let Some(mut request) = self.requests.remove(&index) else { return ready };
        for one in written {
            request.writes.remove(&one.page);
            self.release(index, *one, &mut ready);
        }
        for page in request.writes {
            self.release(index, Written { page, revision: None }, &mut ready);
        }
        ready
    }

    fn release(&mut self, index: RequestIndex, written: Written, ready: &mut Vec<RequestIndex>) {
        let Some(page) = self.pages.get_mut(&written.page) else { return };
        page.writers.remove(&index);
        if let Some(revision) = written.revision {
            page.present = true;
            page.revision = page.revision.max(revision);
        } else if page.writers.is_empty() {
            page.present = false;
        }
        let released: Vec<RequestIndex> = if page.present {
            std::mem::take(&mut page.waiters).into_iter().collect()
        } else if page.writers.is_empty() {
            // Nobody wrote it: the first that waits will, and the others go on waiting for that one.
            let first = page.waiters.pop_first();
            page.writers.extend(first);
            first.into_iter().collect()
        } else {
            Vec::new()
        };
        let handed_on = !page.present;
        for waiter in released {
            let Some(request) = self.requests.get_mut(&waiter) else { continue };
            request.waits.remove(&written.page);
            if handed_on {
                request.writes.insert(written.page);
            }
            if request.waits.is_empty() {
                ready.push(waiter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn present(page: PageIndex, revision: u64) -> Written {
        Written { page, revision: Some(revision) }
    }

    #[test]
    fn a_request_waits_for_the_first_writer_of_a_page_only() {
        let mut schedule = Schedule::default();
        assert!(schedule.submit(0, &[1, 2]));
        assert!(!schedule.submit(1, &[1, 3]));
        assert!(schedule.submit(2, &[4]));
        assert!(!schedule.submit(3, &[3]), "request 1 will write page 3 when it starts");
        assert_eq!(schedule.finish(0, &[present(1, 10), present(2, 11)]), [1]);
        assert_eq!(schedule.min_revision(1), 10);
        assert!(schedule.submit(4, &[1, 2]), "published pages are waited for by nobody");
        assert_eq!(schedule.finish(1, &[present(3, 12)]), [3]);
    }

    #[test]
    fn a_refused_page_is_handed_to_one_waiter() {
        let mut schedule = Schedule::default();
        assert!(schedule.submit(0, &[1]));
        assert!(!schedule.submit(1, &[1]));
        assert!(!schedule.submit(2, &[1]));
        assert_eq!(schedule.finish(0, &[Written { page: 1, revision: None }]), [1]);
        assert_eq!(schedule.finish(1, &[present(1, 5)]), [2]);
    }

    #[test]
    fn a_page_found_gone_has_a_writer_again() {
        let mut schedule = Schedule::default();
        assert!(schedule.submit(0, &[1]));
        schedule.finish(0, &[present(1, 5)]);
        assert!(schedule.submit(1, &[1]));
        schedule.missed(1, &[1]);
        assert!(!schedule.submit(2, &[1]));
        assert_eq!(schedule.finish(1, &[present(1, 9)]), [2]);
        assert_eq!(schedule.min_revision(2), 9);
    }

    proptest! {
        /// Whatever becomes of the writes: everyone starts exactly once, and no two ready requests write one page that
        /// was submitted while unknown.
        #[test]
        fn everyone_starts_once(
            asked in prop::collection::vec(prop::collection::vec(0u32..12, 1..6), 1..40),
            fates in prop::collection::vec(any::<bool>(), 64),
            window in 1usize..9,
        ) {
            let mut schedule = Schedule::default();
            let (mut running, mut started, mut next, mut under_way) = (BTreeSet::new(), BTreeSet::new(), 0, 0);
            let mut turn = 0;
            while next < asked.len() || under_way > 0 {
                while next < asked.len() && under_way < window {
                    if schedule.submit(next, &asked[next]) {
                        prop_assert!(started.insert(next));
                        running.insert(next);
                    }
                    next += 1;
                    under_way += 1;
                }
                prop_assert!(!running.is_empty(), "someone can always go on");
                for a in &running {
                    for b in running.range(a + 1..) {
                        let (a, b) = (&schedule.requests[a], &schedule.requests[b]);
                        prop_assert!(a.writes.is_disjoint(&b.writes));
                    }
                }
                let index = *running.iter().nth(turn % running.len()).unwrap();
                running.remove(&index);
                let written: Vec<Written> = schedule.requests[&index]
                    .writes
                    .iter()
                    .map(|page| Written { page: *page, revision: fates[turn % 64].then_some(turn as u64) })
                    .collect();
                for ready in schedule.finish(index, &written) {
                    prop_assert!(started.insert(ready));
                    running.insert(ready);
                }
                under_way -= 1;
                turn += 1;
            }
            prop_assert_eq!(started.len(), asked.len());
        }
    }
}
