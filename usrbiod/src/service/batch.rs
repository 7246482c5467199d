//! How many submissions make a job, where the tail of a ring stands, which reads overlap. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use super::limits::JOB_IOS_MAX;

/// What a ring's name says about its jobs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    /// 0: what is there; more: exactly so many; less: at most so many, and fewer only once `timeout` is over.
    pub(super) io_depth: i32,
    pub(super) timeout: Duration,
}

impl Depth {
    /// I/Os of the next job; 0: none yet.
    ///
    /// `submitted` I/Os wait and `room` completions have a place. A partial batch is first seen, which `waiting_since`
    /// keeps, and taken by a later look once the timeout is over: nobody looks without a submit.
    pub(super) fn next_job(
        self,
        submitted: u32,
        room: u32,
        waiting_since: &mut Option<Duration>,
        now: Duration,
    ) -> u32 {
        let possible = submitted.min(room);
        let batch = self.io_depth.unsigned_abs();
        match self.io_depth {
            0 => possible.min(JOB_IOS_MAX),
            1.. if possible < batch => 0,
            1.. => batch,
            _ if possible == 0 => 0,
            _ if possible < batch && !self.timeout.is_zero() => match *waiting_since {
                Some(since) if since + self.timeout <= now => {
                    *waiting_since = None;
                    possible
                }
                Some(_) => 0,
                None => {
                    *waiting_since = Some(now);
                    0
                }
            },
            _ => {
                *waiting_since = None;
                possible.min(batch)
            }
        }
    }
}

/// The tail of a ring's submissions: it moves in the order in which jobs were taken, though they finish in any.
#[derive(Debug, Default)]
pub(super) struct TailOrder {
    /// Number of the job at the front.
    first: u64,
    /// Where each job ends, and whether it is finished.
    jobs: VecDeque<(u32, bool)>,
    tail: u32,
}

impl TailOrder {
    /// Takes a job that ends before the cursor `end`; returns its number.
    pub(super) fn take(&mut self, end: u32) -> u64 {
        self.jobs.push_back((end, false));
        self.first + self.jobs.len() as u64 - 1
    }

    /// Finishes a job, once; returns where the tail stands now.
    pub(super) fn finish(&mut self, job: u64) -> u32 {
        let at = usize::try_from(job - self.first).unwrap_or(usize::MAX);
        self.jobs[at].1 = true;
        while let Some((end, true)) = self.jobs.front().copied() {
            self.jobs.pop_front();
            self.first += 1;
            self.tail = end;
        }
        self.tail
    }
}

/// A range of registered memory: which memory, start and end.
pub(super) type Range<Id> = (Id, u64, u64);

/// True if two of the ranges share a byte. Sorts them.
pub(super) fn overlap<Id: Ord>(ranges: &mut [Range<Id>]) -> bool {
    ranges.sort_unstable();
    // The one before ends last among those before, or there was an overlap already; empty ones are in nobody's way.
    let mut furthest: Option<&Range<Id>> = None;
    for range in ranges.iter().filter(|range| range.1 < range.2) {
        if furthest.is_some_and(|before| before.0 == range.0 && before.2 > range.1) {
            return true;
        }
        furthest = Some(range);
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn depth(io_depth: i32, timeout_ms: u64) -> Depth {
        Depth { io_depth, timeout: Duration::from_millis(timeout_ms) }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn depth_says_how_many() {
        let none = &mut None;
        assert_eq!(depth(0, 0).next_job(5, 9, none, at(0)), 5);
        assert_eq!(depth(0, 0).next_job(5, 3, none, at(0)), 3);
        assert_eq!(depth(0, 0).next_job(JOB_IOS_MAX + 9, JOB_IOS_MAX + 1, none, at(0)), JOB_IOS_MAX);
        assert_eq!(depth(4, 10).next_job(3, 9, none, at(99)), 0, "waits for four");
        assert_eq!(depth(4, 10).next_job(9, 3, none, at(99)), 0, "no place for four");
        assert_eq!(depth(4, 10).next_job(9, 9, none, at(0)), 4);
        assert_eq!(depth(-4, 0).next_job(3, 9, none, at(0)), 3, "no timeout: at once");
        assert_eq!(depth(-4, 10).next_job(9, 9, none, at(0)), 4);
        assert_eq!(depth(-4, 10).next_job(9, 0, none, at(0)), 0);
        assert_eq!(depth(i32::MIN, 0).next_job(9, 9, none, at(0)), 9);
        assert_eq!(*none, None);
    }

    #[test]
    fn a_partial_batch_waits_for_a_later_look() {
        let since = &mut None;
        assert_eq!(depth(-4, 10).next_job(3, 9, since, at(100)), 0);
        assert_eq!(depth(-4, 10).next_job(3, 9, since, at(109)), 0);
        assert_eq!(depth(-4, 10).next_job(3, 9, since, at(110)), 3);
        assert_eq!(depth(-4, 10).next_job(1, 9, since, at(200)), 0, "the wait begins anew");
        assert_eq!(depth(-4, 10).next_job(5, 9, since, at(201)), 4, "a full one does not wait");
        assert_eq!(*since, None);
    }

    #[test]
    fn overlaps_are_seen() {
        assert!(!overlap::<u8>(&mut []));
        assert!(!overlap(&mut [(1, 10, 20), (1, 0, 10), (2, 5, 15)]));
        assert!(overlap(&mut [(1, 10, 20), (1, 0, 11)]));
        assert!(overlap(&mut [(1, 0, 100), (2, 0, 1), (1, 50, 60)]));
        assert!(!overlap(&mut [(1, 0, 100), (1, 50, 50)]), "an empty range overlaps nothing");
        assert!(overlap(&mut [(1, 0, 10), (1, 5, 5), (1, 9, 12)]));
    }

    proptest! {
        #[test]
        fn overlap_is_what_comparing_all_pairs_says(
            ranges in prop::collection::vec((0u8..3, 0u64..60, 0u64..8), 0..12),
        ) {
            let mut ranges: Vec<Range<u8>> = ranges.into_iter().map(|(id, start, len)| (id, start, start + len)).collect();
            let model = ranges.iter().enumerate().any(|(at, one)| {
                ranges[at + 1..].iter().any(|other| {
                    one.0 == other.0 && one.1.max(other.1) < one.2.min(other.2)
                })
            });
            prop_assert_eq!(overlap(&mut ranges), model);
        }

        #[test]
        fn the_tail_is_the_end_of_the_last_job_before_an_unfinished_one(
            order in Just((0..12u64).collect::<Vec<_>>()).prop_shuffle(), sizes in prop::collection::vec(1u32..9, 12),
        ) {
            let mut tail = TailOrder::default();
            let mut ends = Vec::new();
            for size in sizes {
                ends.push(ends.last().copied().unwrap_or(0) + size);
                prop_assert_eq!(tail.take(*ends.last().unwrap()), ends.len() as u64 - 1);
            }
            let mut finished = [false; 12];
            for job in order {
                finished[job as usize] = true;
                let before = finished.iter().position(|done| !done).unwrap_or(12);
                let model = before.checked_sub(1).map_or(0, |last| ends[last]);
                prop_assert_eq!(tail.finish(job), model);
            }
            prop_assert!(tail.jobs.is_empty());
        }

        #[test]
        fn jobs_never_exceed_what_is_there(
            io_depth in -300i32..300, timeout_ms in 0u64..3, submitted in 0u32..600, room in 0u32..600, now in 0u64..9,
            since in prop::option::of(0u64..9),
        ) {
            let mut since = since.map(at);
            let job = depth(io_depth, timeout_ms).next_job(submitted, room, &mut since, at(now));
            prop_assert!(job <= submitted.min(room));
            prop_assert!(io_depth <= 0 || job == 0 || job == io_depth as u32);
            prop_assert!(io_depth >= 0 || job <= io_depth.unsigned_abs());
        }
    }
}
