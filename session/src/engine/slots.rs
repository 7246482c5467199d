//! Slots: claimed, filled, submitted, waited for, given back.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::keeper::Line;
use super::staging::Staged;
use super::{CallError, Deadline, clock};
use crate::wire::control::DONE;
use crate::wire::ops::{Op, Status};
use crate::wire::spin::Spin;
use crate::wire::{Control, SLOTS, SlotRef, futex};

/// How long a sleeper does not look whether the session has ended.
const LOOK: Duration = Duration::from_millis(50);
/// What an answer is given to come, of the time that a call may take.
const ANSWER_RESERVE: Duration = Duration::from_millis(100);
/// Looks at the word between looks at the clock.
const LOOKS_PER_CLOCK: u32 = 32;

/// The slots of one session.
pub(super) struct Slots {
    control: Control,
    doorbell: OwnedFd,
    state: Mutex<State>,
    freed: Condvar,
    /// Of questions that are answered at once, and of those whose bytes have to be moved or read first.
    at_once: Spin,
    with_bytes: Spin,
}

struct State {
    /// Bit i: slot i is nobody's.
    free: u64,
    /// Calls that ended before the agent was done with their slot, and the staging memory that it may still read.
    left: Vec<(usize, Option<Staged>)>,
}

impl Slots {
    pub(super) fn new(control: Control, doorbell: OwnedFd) -> Self {
        let state = State { free: u64::MAX >> (64 - SLOTS), left: Vec::new() };
        let (at_once, with_bytes) = (Spin::default(), Spin::default());
        Self { control, doorbell, state: Mutex::new(state), freed: Condvar::new(), at_once, with_bytes }
    }

    /// A slot; waits for one while all are under way.
    pub(super) fn claim(&self, line: &Line, deadline: Deadline) -> Result<Slot<'_>, CallError> {
        let mut state = self.state.lock();
        loop {
            self.take_back_left(&mut state);
            if state.free != 0 {
                let index = state.free.trailing_zeros() as usize;
                state.free &= !(1 << index);
                return Ok(Slot { slots: self, index, op: None, staged: None });
            }
            if !line.is_open() {
                return Err(CallError::Ended);
            }
            let left = deadline.left().ok_or(CallError::Busy(SLOTS))?;
            self.freed.wait_until(&mut state, clock::now() + left.min(LOOK));
        }
    }

    /// Slots that were left, and with which the agent is done by now.
    pub(super) fn take_back(&self) {
        self.take_back_left(&mut self.state.lock());
    }

    fn take_back_left(&self, state: &mut State) {
        let mut free = 0;
        state.left.retain(|(index, _)| {
            let done = self.control.slot(*index).head().progress.0.load(Ordering::Acquire) & DONE != 0;
            free |= u64::from(done) << index;
            !done
        });
        state.free |= free;
    }

    /// Sets a slot's bit in one of the two words, and rings if the agent sleeps.
    fn tell(&self, index: usize, released: bool) {
        let head = self.control.head();
        let word = if released { &head.released.0 } else { &head.submitted.0 };
        word.fetch_or(1 << index, Ordering::SeqCst);
        if head.agent_sleeps.0.load(Ordering::SeqCst) != 0 && head.agent_sleeps.0.swap(0, Ordering::SeqCst) != 0 {
            // Full: it has been rung already.
            let _ = rustix::io::write(&self.doorbell, &1u64.to_ne_bytes());
        }
    }
}

/// A slot in use by one call. Dropped, it goes back; if the agent still works on it, when that is done.
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    index: usize,
    op: Option<Op>,
    /// Staging memory that its question names.
    staged: Option<Staged>,
}

impl<'a> Slot<'a> {
    pub(super) fn shared(&self) -> SlotRef<'a> {
        self.slots.control.slot(self.index)
    }

    /// Asks. What the question is made of has been written.
    pub(super) fn submit(&mut self, op: Op, staged: Option<Staged>, wait: Duration) {
        let head = self.shared().head();
        head.op.store(op as u32, Ordering::Relaxed);
        // The agent answers with what it has before this side gives up.
        let wait = wait - (wait / 8).min(ANSWER_RESERVE);
        head.wait_us.store(u32::try_from(wait.as_micros()).unwrap_or(u32::MAX), Ordering::Relaxed);
        head.left.0.store(0, Ordering::Relaxed);
        head.engine_sleeps.0.store(0, Ordering::Relaxed);
        head.progress.0.store(0, Ordering::Release);
        (self.op, self.staged) = (Some(op), staged);
        self.slots.tell(self.index, false);
    }

    /// Waits until more than `seen` is answered; answers with how many records are, and whether that is all.
    pub(super) fn wait(&self, seen: u32, line: &Line, deadline: Deadline) -> Result<(u32, bool), CallError> {
        let head = self.shared().head();
        let started = clock::now();
        let spin = match self.op {
            Some(Op::Get | Op::Put) => &self.slots.with_bytes,
            _ => &self.slots.at_once,
        };
        // A put's copies need the core that a spin would take.
        let budget = if self.op == Some(Op::Put) { Duration::ZERO } else { spin.budget() };
        let changed = |progress: u32| (progress & !DONE > seen || progress & DONE != 0).then_some(progress);
        let (mut looks, mut slept) = (0, false);
        let progress = loop {
            if let Some(progress) = changed(head.progress.0.load(Ordering::Acquire)) {
                break progress;
            }
            looks += 1;
            if looks % LOOKS_PER_CLOCK != 0 || started.elapsed() < budget {
                std::hint::spin_loop();
                continue;
            }
            let left = deadline.left().ok_or(CallError::Deadline)?;
            if !line.is_open() {
                return Err(CallError::Ended);
            }
            slept = true;
            head.engine_sleeps.0.store(1, Ordering::SeqCst);
            let progress = head.progress.0.load(Ordering::SeqCst);
            if changed(progress).is_none() {
                futex::wait(&head.progress.0, progress, left.min(LOOK));
            }
        };
        if slept {
            spin.slept_after(budget)
        } else {
            spin.saw(started.elapsed())
        }
        Ok((progress & !DONE, progress & DONE != 0))
    }

    /// Waits for the whole answer. Errors: the agent's own.
    pub(super) fn finish(&self, line: &Line, deadline: Deadline) -> Result<(), CallError> {
        let mut seen = 0;
        loop {
            let (answered, done) = self.wait(seen, line, deadline)?;
            if done {
                return self.outcome();
            }
            seen = answered;
        }
    }

    /// How a call that is done went.
    pub(super) fn outcome(&self) -> Result<(), CallError> {
        match Status::from_u32(self.shared().head().status.0.load(Ordering::Relaxed)) {
            Status::Ok => Ok(()),
            status => Err(CallError::refused(status, self.shared().detail())),
        }
    }

    /// Has the agent look at what was taken of a get so far.
    pub(super) fn took_some(&self) {
        self.slots.tell(self.index, true);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let head = self.shared().head();
        let mut state = self.slots.state.lock();
        let done = self.op.is_none() || head.progress.0.load(Ordering::Acquire) & DONE != 0;
        if !done {
            head.left.0.store(1, Ordering::SeqCst);
            state.left.push((self.index, self.staged.take()));
            self.slots.tell(self.index, true);
            return;
        }
        if self.op == Some(Op::Get) {
            // Its pins are wanted no more.
            head.left.0.store(1, Ordering::SeqCst);
            self.slots.tell(self.index, true);
        }
        state.free |= 1 << self.index;
        self.slots.freed.notify_one();
    }
}
