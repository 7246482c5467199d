//! One ring: what is taken from it and what goes back.
//!
//! Our own cursors are kept here and only written to the shared memory; the client's are read once and checked. So
//! whatever a client writes there, at most its own I/Os are wrong.

use std::sync::Arc;
use std::time::Duration;

use foreword_usrbio::{Cqe, Cursor, IoArgs, Mapping, Priority, RingMemory, RingName, Sqe};
use parking_lot::Mutex;
use rustix::io::Errno;

use super::batch::{Depth, TailOrder};
use super::guard::Guard;

/// The flag of a ring's name that makes a hole an error.
const FORBID_READ_HOLES: u64 = 2;

/// A linked ring. Its jobs hold it, so it outlives its link.
#[derive(Debug)]
pub(super) struct Ring {
    // Dropped before the memory is unmapped.
    guard: Guard,
    memory: RingMemory,
    depth: Depth,
    pub(super) for_read: bool,
    pub(super) holes_forbidden: bool,
    pub(super) priority: Priority,
    pub(super) uid: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the next submission is taken.
    taken: u32,
    /// Where the next completion goes.
    cqe_head: u32,
    /// I/Os taken that are to be completed.
    under_way: u32,
    tail: TailOrder,
    waiting_since: Option<Duration>,
    /// Its link is gone: nothing more is taken, though a watcher may still know it.
    unlinked: bool,
}

/// Consecutive submissions of a ring that are served together.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ring: Arc<Ring>,
    /// The ring's number for it.
    pub(super) number: u64,
    first: u32,
    count: u32,
}

/// An impossible cursor, or memory that is gone: not an honest client's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hostile;

impl Ring {
    /// A ring in this memory, empty, its semaphore made. Errors: no room for an I/O; io_depth beyond the ring; too many
    /// guards.
    pub(super) fn new(mapping: Mapping, name: RingName, uid: u32) -> Result<Self, Errno> {
        let memory = RingMemory::new(mapping).ok_or(Errno::INVAL)?;
        let guard = Guard::new(memory.mapping().base(), memory.mapping().bytes())?;
        if name.io_depth > 0 && name.io_depth.unsigned_abs() > memory.layout().entries() {
            return Err(Errno::INVAL);
        }
        memory.init_semaphore();
        memory.store(Cursor::SqeTail, 0);
        memory.store(Cursor::CqeHead, 0);
        Ok(Self {
            guard,
            memory,
            depth: Depth { io_depth: name.io_depth, timeout: Duration::from_millis(u64::from(name.timeout_ms)) },
            for_read: name.for_read,
            holes_forbidden: name.flags & FORBID_READ_HOLES != 0,
            priority: name.priority,
            uid,
            state: Mutex::default(),
        })
    }

    /// Takes jobs, `most` of them at most. A ring that lies is left alone.
    pub(super) fn take(self: &Arc<Self>, most: usize, now: Duration) -> Result<Vec<Job>, Hostile> {
        let layout = self.memory.layout();
        let mut state = self.state.lock();
        if state.unlinked {
            return Ok(Vec::new());
        }
        let (head, reaped) = (self.clients(Cursor::SqeHead)?, self.clients(Cursor::CqeTail)?);
        let mut submitted = layout.distance(state.taken, head);
        let unreaped = layout.distance(reaped, state.cqe_head);
        let mut room = layout.entries().saturating_sub(state.under_way).saturating_sub(unreaped);
        let mut jobs = Vec::new();
        while jobs.len() < most {
            let count = self.depth.next_job(submitted, room, &mut state.waiting_since, now);
            if count == 0 {
                break;
            }
            let first = state.taken;
            state.taken = (first + count) % layout.cells();
            state.under_way += count;
            let end = state.taken;
            jobs.push(Job { ring: Arc::clone(self), number: state.tail.take(end), first, count });
            submitted -= count;
            room -= count;
        }
        Ok(jobs)
    }

    /// Takes nothing more from it; what was taken is finished.
    pub(super) fn retire(&self) {
        self.state.lock().unlinked = true;
    }

    /// Writes a finished job's completions at once, and announces them. `dropped` more I/Os will have none, ever.
    pub(super) fn finish(&self, job: u64, completions: &[Cqe], dropped: u32) {
        let mut state = self.state.lock();
        // Before the completions: a client that sees one finds its place in the ring free.
        self.memory.store(Cursor::SqeTail, state.tail.finish(job) as i32);
        self.complete(&mut state, completions);
        state.under_way -= dropped;
    }

    fn complete(&self, state: &mut State, completions: &[Cqe]) {
        let layout = self.memory.layout();
        for completion in completions {
            self.memory.set_cqe(state.cqe_head, completion);
            state.cqe_head = layout.next(state.cqe_head);
        }
        state.under_way -= completions.len() as u32;
        if !completions.is_empty() {
            self.memory.store(Cursor::CqeHead, state.cqe_head as i32);
            self.memory.post();
        }
    }

    /// A cursor of the client's, if it is one.
    fn clients(&self, cursor: Cursor) -> Result<u32, Hostile> {
        let value = u32::try_from(self.memory.load(cursor)).ok().filter(|value| *value < self.memory.layout().cells());
        value.filter(|_| !self.guard.is_cut()).ok_or(Hostile)
    }
}

impl Job {
    /// The I/Os, copied once: a submission, and its arguments if it names some.
    pub(super) fn ios(&self) -> impl Iterator<Item = (Sqe, Option<IoArgs>)> {
        let (memory, layout) = (&self.ring.memory, self.ring.memory.layout());
        (0..self.count).map(move |number| {
            let sqe = memory.sqe((self.first + number) % layout.cells());
            let index = u32::try_from(sqe.index).ok().filter(|index| *index < layout.cells());
            (sqe, index.map(|index| memory.args(index)))
        })
    }
}
