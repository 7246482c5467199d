//! One ring at work: I/Os go in under its mutex, one thread takes the completions out.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::attachment::Attachment;
use super::client::{Port, Prepared, Reaped, Refused, RegisteredFile};
use super::clock;
use super::outlet::Outlet;
use super::regions::RegionTicket;
use super::slots::{Completed, Slots};
use crate::arena::Quarantined;
use crate::store::{Io, StoreError};

/// How long a ring's thread waits at once: after this it sees that the daemon died, or that it is to end.
const WAIT: Duration = Duration::from_millis(250);

/// An I/O with all that a ring needs for it, and what must live until it is done.
pub(super) struct Ready {
    pub(super) io: Io,
    pub(super) ticket: Arc<RegionTicket>,
    pub(super) region_offset: u64,
    pub(super) file: Arc<RegisteredFile>,
    /// When it came to this ring.
    pub(super) since: Instant,
}

/// What is left of an I/O that was given up.
struct Lost {
    /// None once its segment was retired: the frame will never be used again.
    frame: Option<Quarantined>,
    ticket: Arc<RegionTicket>,
}

/// Who a ring works for; a ring whose owner is gone ends.
pub(super) trait Owner: Send + Sync {
    /// Too much of the ring is lost: another one should take its place.
    fn replace_later(self: Arc<Self>);
}

/// A ring, its slots, and the I/Os that wait for one.
pub(super) struct Ring {
    port: Box<dyn Port>,
    attachment: Arc<Attachment>,
    outlet: Arc<Outlet>,
    state: Mutex<State>,
}

struct State {
    slots: Slots<Ready, Lost>,
    backlog: VecDeque<Ready>,
    /// Takes no more I/Os; ends when the last slot is free.
    replaced: bool,
    /// As `replaced`, and lost I/Os are not waited for.
    closed: bool,
}

impl Ring {
    /// Starts a ring with its thread.
    pub(super) fn start(
        port: Box<dyn Port>,
        entries: u32,
        attachment: Arc<Attachment>,
        outlet: Arc<Outlet>,
        owner: Weak<dyn Owner>,
        name: &str,
    ) -> io::Result<Arc<Self>> {
        let slots = Slots::new(entries);
        let state = Mutex::new(State { slots, backlog: VecDeque::new(), replaced: false, closed: false });
        let ring = Arc::new(Self { port, attachment, outlet, state });
        let served = ring.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || served.serve(&owner))?;
        Ok(ring)
    }

    /// I/Os under way and waiting.
    pub(super) fn load(&self) -> usize {
        let state = self.state.lock();
        state.slots.busy() + state.slots.lost() + state.backlog.len()
    }

    /// Takes I/Os, or gives them all back: it was replaced.
    pub(super) fn submit(&self, batch: Vec<Ready>) -> Result<(), Vec<Ready>> {
        let mut refused = Vec::new();
        let failed = {
            let mut state = self.state.lock();
            if state.replaced || state.closed {
                return Err(batch);
            }
            for ready in batch {
                if self.outlet.enqueue() {
                    state.backlog.push_back(ready);
                } else {
                    refused.push(ready);
                }
            }
            self.fill(&mut state)
        };
        self.answer(failed);
        for ready in refused {
            self.outlet.finish(ready.io, Err(StoreError::Errno(libc::EAGAIN)));
        }
        Ok(())
    }

    /// Moves what waits into free slots and wakes the daemon; gives the I/Os that the ring would not take.
    fn fill(&self, state: &mut State) -> Vec<(Io, i32)> {
        let mut failed = Vec::new();
        let (mut prepared, now) = (0, clock::now());
        while let Some(userdata) = state.slots.next() {
            let Some(ready) = state.backlog.front() else { break };
            let io = Prepared {
                userdata,
                region: &ready.ticket.pass,
                region_offset: ready.region_offset,
                file: &ready.file,
                file_offset: ready.io.offset,
                len: ready.io.len,
            };
            let answer = self.port.prepare(&io);
            if answer == Err(Refused::Full) {
                break;
            }
            let Some(ready) = state.backlog.pop_front() else { break };
            self.outlet.dequeue(1);
            match answer {
                Err(Refused::Errno(errno)) => failed.push((ready.io, errno)),
                _ => {
                    state.slots.take(now, ready);
                    prepared += 1;
                }
            }
        }
        if prepared > 0 {
            self.port.submit();
        }
        failed
    }

    /// Takes no more I/Os; gives those that wait.
    pub(super) fn replace(&self) -> Vec<Ready> {
        let mut state = self.state.lock();
        state.replaced = true;
        self.take_backlog(&mut state)
    }

    /// Ends when what is under way has ended; frames that wait are free at once.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.closed = true;
            self.take_backlog(&mut state)
        };
        drop(waiting);
        self.port.wake();
    }

    /// Lets its thread look up.
    pub(super) fn wake(&self) {
        self.port.wake();
    }

    fn take_backlog(&self, state: &mut State) -> Vec<Ready> {
        self.outlet.dequeue(state.backlog.len());
        state.backlog.drain(..).collect()
    }

    /// The thread's life.
    fn serve(&self, owner: &Weak<dyn Owner>) {
        let wait = WAIT.min(self.outlet.patience / 4);
        let (mut finished, mut tended) = (Vec::new(), clock::now());
        loop {
            self.port.reap(wait, &mut finished);
            let idle = finished.is_empty();
            self.settle(&mut finished);
            if self.attachment.is_over() {
                self.end_epoch();
                return;
            }
            let now = clock::now();
            if !idle && now < tended + wait {
                continue;
            }
            tended = now;
            if owner.strong_count() == 0 {
                self.close();
            }
            let (ended, worn) = self.tend(now, idle);
            if ended {
                return;
            }
            if worn && let Some(owner) = owner.upgrade() {
                owner.replace_later();
            }
        }
    }

    /// Hands completions on, each to the I/O that its userdata names.
    fn settle(&self, finished: &mut Vec<Reaped>) {
        if finished.is_empty() {
            return;
        }
        let mut done = Vec::with_capacity(finished.len());
        let failed = {
            let mut state = self.state.lock();
            for reaped in finished.drain(..) {
                match state.slots.complete(reaped.userdata) {
                    Completed::UnderWay(ready) => done.push((ready, reaped.result)),
                    Completed::Lost(lost) => {
                        self.outlet.counts.late.add(1);
                        if let Some(frame) = lost.frame {
                            frame.completed();
                        }
                    }
                    Completed::Stray => self.outlet.counts.strays.add(1),
                }
            }
            if state.replaced || state.closed { Vec::new() } else { self.fill(&mut state) }
        };
        for (ready, result) in done {
            let result = self.result_of(result, ready.io.len);
            self.outlet.finish(ready.io, result);
        }
        self.answer(failed);
    }

    fn result_of(&self, result: i64, len: u64) -> Result<u64, StoreError> {
        match u64::try_from(result) {
            Ok(bytes) if bytes <= len => Ok(bytes),
            Ok(_) => {
                self.outlet.counts.overlong.add(1);
                Err(StoreError::Errno(libc::EIO))
            }
            Err(_) => Err(StoreError::Errno(i32::try_from(result.unsigned_abs()).unwrap_or(libc::EIO))),
        }
    }

    fn answer(&self, failed: Vec<(Io, i32)>) {
        for (io, errno) in failed {
            self.outlet.finish(io, Err(StoreError::Errno(errno)));
        }
    }

    /// Gives up what is overdue. Gives whether the ring has ended, and whether it should be replaced.
    fn tend(&self, now: Instant, idle: bool) -> (bool, bool) {
        let Some(overdue) = now.checked_sub(self.outlet.patience) else { return (false, false) };
        let mut state = self.state.lock();
        let lost = state
            .slots
            .lose(overdue, |ready| Lost { frame: Some(ready.io.transfer.quarantine()), ticket: ready.ticket });
        if lost > 0 {
            tracing::warn!(lost, "I/Os got no completion: their frames are set aside");
            self.outlet.counts.lost.add(lost);
        }
        for lost in state.slots.lost_mut() {
            // Nobody will use the frame again: let its memory go.
            drop(lost.frame.take_if(|frame| frame.segment_is_retired()));
        }
        let waited = state.backlog.iter().take_while(|ready| ready.since <= overdue).count();
        let never_submitted: Vec<_> = state.backlog.drain(..waited).collect();
        self.outlet.dequeue(never_submitted.len());
        if idle && state.slots.busy() > 0 {
            // In case the daemon has missed a wake.
            self.port.submit();
        }
        let failed = if idle && !state.replaced { self.fill(&mut state) } else { Vec::new() };
        let worn = !state.replaced && !state.closed && is_worn(&state);
        let ended = state.slots.busy() == 0 && (state.closed || state.replaced && state.slots.lost() == 0);
        drop(state);
        for ready in never_submitted {
            self.outlet.finish(ready.io, Err(StoreError::Errno(libc::EAGAIN)));
        }
        self.answer(failed);
        (ended, worn)
    }

    /// The daemon is dead: everything comes back.
    fn end_epoch(&self) {
        let (busy, lost, waiting) = {
            let mut state = self.state.lock();
            state.replaced = true;
            let (busy, lost) = state.slots.drain();
            (busy, lost, self.take_backlog(&mut state))
        };
        for lost in lost {
            match lost.frame {
                Some(frame) if lost.ticket.is_released() => frame.completed(),
                frame => drop(frame),
            }
        }
        for ready in busy {
            if ready.ticket.is_released() {
                self.outlet.finish(ready.io, Err(StoreError::Gone));
                continue;
            }
            // Whoever has the memory may still serve the I/O: as lost as the others.
            self.outlet.counts.lost.add(1);
            drop(ready.io.transfer.quarantine());
        }
        for ready in waiting {
            self.outlet.finish(ready.io, Err(StoreError::Gone));
        }
    }
}

/// Half of the slots lost, or one lost that keeps the daemon's cursor, so that I/Os wait beside free slots.
fn is_worn(state: &State) -> bool {
    let (lost, entries) = (state.slots.lost(), state.slots.entries());
    let stuck = lost > 0 && !state.backlog.is_empty() && state.slots.busy() + lost < entries;
    lost > 0 && lost * 2 >= entries || stuck
}
