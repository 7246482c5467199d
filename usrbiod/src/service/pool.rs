//! The threads that do I/O, and the bounded queues in front of them.

use std::collections::VecDeque;
use std::sync::Arc;

use foreword_usrbio::Priority;
use parking_lot::{Condvar, Mutex};

use super::limits::{HELPERS_QUEUED_MAX, JOBS_QUEUED_MAX, LATE_QUEUED_MAX};
use super::ring::Job;
use super::work::Batch;

/// Every so many picks begin with the lowest priority, so that it is served too.
const PICKS_BEFORE_LOW: u64 = 7;

/// Something for a thread to do.
#[derive(Debug)]
pub(super) enum Task {
    /// A job that was held back.
    Late(Arc<Batch>),
    /// A job that another thread works on already.
    Help(Arc<Batch>),
    Job(Job),
}

/// The queues. Whoever puts a job in has asked for room before.
#[derive(Debug, Default)]
pub(super) struct Pool {
    queues: Mutex<Queues>,
    changed: Condvar,
    late_taken: Condvar,
}

#[derive(Debug, Default)]
struct Queues {
    late: VecDeque<Arc<Batch>>,
    help: VecDeque<Arc<Batch>>,
    jobs: [VecDeque<Job>; 3],
    /// Rings of this priority were left alone for want of room.
    left_alone: [bool; 3],
    picks: u64,
    stopped: bool,
}

/// The order of the queues by priority.
fn at(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

impl Pool {
    /// Jobs that find room now. Only the priority's one watcher puts them in, so the room is still there when it does.
    /// 0: it is to be woken when half of the queue is free.
    pub(super) fn room(&self, priority: Priority) -> usize {
        let mut queues = self.queues.lock();
        let room = JOBS_QUEUED_MAX.saturating_sub(queues.jobs[at(priority)].len());
        queues.left_alone[at(priority)] = room == 0;
        room
    }

    pub(super) fn put_job(&self, job: Job) {
        let mut queues = self.queues.lock();
        queues.jobs[at(job.ring.priority)].push_back(job);
        self.changed.notify_one();
    }

    /// Asks up to `most` threads to help; fewer are asked when many calls wait already.
    pub(super) fn call_help(&self, batch: &Arc<Batch>, most: usize) {
        let mut queues = self.queues.lock();
        for _ in 0..most.min(HELPERS_QUEUED_MAX.saturating_sub(queues.help.len())) {
            queues.help.push_back(Arc::clone(batch));
            self.changed.notify_one();
        }
    }

    /// Puts a job that is worked on behind the others; false: nobody else waits, or there is no room for it.
    pub(super) fn give_way(&self, batch: &Arc<Batch>) -> bool {
        let mut queues = self.queues.lock();
        let others = queues.jobs.iter().any(|jobs| !jobs.is_empty()) || !queues.late.is_empty();
        let gives = others && queues.help.len() < HELPERS_QUEUED_MAX;
        if gives {
            queues.help.push_back(Arc::clone(batch));
        }
        gives
    }

    /// A job whose time has come. Waits for room.
    pub(super) fn put_late(&self, late: Arc<Batch>) {
        let mut queues = self.queues.lock();
        while queues.late.len() >= LATE_QUEUED_MAX {
            self.late_taken.wait(&mut queues);
        }
        queues.late.push_back(late);
        self.changed.notify_one();
    }

    /// Waits for something to do, and says whose watcher is to be woken; None once stopped.
    pub(super) fn next(&self) -> Option<(Task, Option<Priority>)> {
        let mut queues = self.queues.lock();
        loop {
            if queues.stopped {
                return None;
            }
            if let Some(next) = queues.pick() {
                if matches!(next.0, Task::Late(_)) {
                    self.late_taken.notify_one();
                }
                return Some(next);
            }
            self.changed.wait(&mut queues);
        }
    }

    /// Ends the threads; what waits is let go.
    pub(super) fn stop(&self) {
        let mut queues = self.queues.lock();
        *queues = Queues { stopped: true, ..Queues::default() };
        self.changed.notify_all();
        self.late_taken.notify_all();
    }
}

impl Queues {
    fn pick(&mut self) -> Option<(Task, Option<Priority>)> {
        if let Some(late) = self.late.pop_front() {
            return Some((Task::Late(late), None));
        }
        self.picks += 1;
        // In turn, so that a long job's helpers do not keep the others waiting.
        let help = |queues: &mut Self| Some((Task::Help(queues.help.pop_front()?), None));
        if self.picks.is_multiple_of(2) {
            help(self).or_else(|| self.pick_job())
        } else {
            self.pick_job().or_else(|| help(self))
        }
    }

    fn pick_job(&mut self) -> Option<(Task, Option<Priority>)> {
        let mut order = Priority::ALL;
        if self.picks.is_multiple_of(PICKS_BEFORE_LOW) {
            order.reverse();
        }
        order.into_iter().find_map(|priority| {
            let jobs = &mut self.jobs[at(priority)];
            let job = jobs.pop_front()?;
            let wake = self.left_alone[at(priority)] && jobs.len() <= JOBS_QUEUED_MAX / 2;
            self.left_alone[at(priority)] &= !wake;
            Some((Task::Job(job), wake.then_some(priority)))
        })
    }
}
