//! What the service's threads do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use foreword_usrbio::Priority;

use super::Shared;
use super::clock;
use super::counters::Count;
use super::limits::JOBS_PER_TURN;
use super::pool::Task;

impl Shared {
    /// Looks at all rings of a priority on each submit, and never without one.
    pub(super) fn watch(&self, priority: Priority) {
        let mut turn = 0;
        while !self.stopping.load(Ordering::SeqCst) {
            if self.submit(priority).wait() {
                while self.take_jobs(priority, &mut turn) && !self.stopping.load(Ordering::SeqCst) {}
            }
        }
    }

    /// Takes some jobs of each ring, beginning with ring number `turn`. True: a ring may have more, that were submitted
    /// before. When all was taken nobody looks again, lest I/Os are taken that their client has not submitted yet.
    fn take_jobs(&self, priority: Priority, turn: &mut usize) -> bool {
        let rings = Arc::clone(&self.rings.lock());
        let mut more = false;
        for number in 0..rings.len() {
            let at = (*turn + number) % rings.len();
            let ring = &rings[at];
            if ring.priority != priority {
                continue;
            }
            let room = self.pool.room(priority);
            if room == 0 {
                // This ring is the first when there is room again, which wakes us.
                *turn = at;
                return false;
            }
            let most = room.min(JOBS_PER_TURN);
            match ring.take(most, clock::now()) {
                Ok(jobs) => {
                    more |= jobs.len() == most;
                    jobs.into_iter().for_each(|job| self.pool.put_job(job));
                }
                Err(_) => self.tally.add(Count::Rejected, 1),
            }
        }
        *turn += 1;
        more
    }

    /// Does what the queues hold, until the service stops.
    pub(super) fn do_tasks(&self) {
        while let Some((task, woken)) = self.pool.next() {
            if let Some(priority) = woken {
                self.wake(priority);
            }
            match task {
                Task::Late(batch) => self.begin(&batch),
                Task::Help(batch) => self.do_ios(&batch),
                Task::Job(job) => self.do_job(job),
            }
        }
    }

    /// Lets go what was held back, when its time has come.
    pub(super) fn release_held(&self) {
        while let Some(held) = self.timer.next() {
            self.release(held);
        }
    }
}
