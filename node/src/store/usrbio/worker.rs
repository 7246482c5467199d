//! A thread for work that may block for ever: calls into the mount, whose daemon may hang.
//!
//! Who posts work never waits for it; who calls waits for a limited time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::clock;

/// Pieces of work that wait in one worker. Each stands for a link, a ring or a descriptor that exists, or for a caller
/// that waits, so a healthy mount never comes near.
pub(super) const WORK_QUEUED_MAX: usize = 65_536;

type Work = Box<dyn FnOnce() + Send>;
type Tick = Box<dyn FnMut() + Send>;

/// The thread; dropping it lets what is queued be done, then ends it, without waiting.
pub(super) struct Worker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    some: Condvar,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    tick: Option<(Duration, Tick)>,
    closed: bool,
    /// Since when the present piece of work is being done.
    busy_since: Option<Instant>,
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || serving.serve())?;
        Ok(Self { shared })
    }

    /// Has `tick` called about every `interval`, between other work.
    pub(super) fn set_tick(&self, interval: Duration, tick: impl FnMut() + Send + 'static) {
        self.shared.queue.lock().tick = Some((interval, Box::new(tick)));
        self.shared.some.notify_one();
    }

    /// Queues work. False, and the work is forgotten with what it owns: far too much is queued.
    pub(super) fn post(&self, work: impl FnOnce() + Send + 'static) -> bool {
        let mut queue = self.shared.queue.lock();
        if queue.work.len() >= WORK_QUEUED_MAX {
            drop(queue);
            // Dropping it here could block the caller, which is what a worker is there to prevent.
            std::mem::forget(work);
            tracing::error!(WORK_QUEUED_MAX, "the 3FS mount does not answer; work for it was dropped");
            return false;
        }
        queue.work.push_back(Box::new(work));
        drop(queue);
        self.shared.some.notify_one();
        true
    }

    /// Has work done and waits for its result. After the timeout the work is still done, and its result dropped there.
    ///
    /// Errors: TimedOut, at once if the work before it has been under way for longer than the timeout.
    pub(super) fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let busy_since = self.shared.queue.lock().busy_since;
        if busy_since.is_some_and(|since| clock::now().duration_since(since) > timeout) {
            return Err(unanswered());
        }
        let (sender, receiver) = sync_channel(1);
        let posted = self.post(move || drop(sender.send(work())));
        match receiver.recv_timeout(if posted { timeout } else { Duration::ZERO }) {
            Ok(result) => Ok(result),
            Err(RecvTimeoutError::Timeout) => Err(unanswered()),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the work for the 3FS mount panicked")),
        }
    }
}

fn unanswered() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the 3FS mount does not answer")
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.some.notify_one();
    }
}

impl Shared {
    /// The thread's life.
    fn serve(&self) {
        let mut ticked = clock::now();
        loop {
            let mut queue = self.queue.lock();
            queue.busy_since = None;
            if queue.closed && queue.work.is_empty() {
                return;
            }
            let now = clock::now();
            let due = queue.tick.as_ref().map(|(interval, _)| ticked + *interval);
            if due.is_some_and(|due| due <= now) {
                let tick = queue.tick.take();
                queue.busy_since = Some(now);
                drop(queue);
                ticked = now;
                self.tick(tick);
            } else if let Some(work) = queue.work.pop_front() {
                queue.busy_since = Some(now);
                drop(queue);
                work();
            } else if let Some(due) = due {
                self.some.wait_for(&mut queue, due - now);
            } else {
                self.some.wait(&mut queue);
            }
        }
    }

    fn tick(&self, tick: Option<(Duration, Tick)>) {
        let Some((interval, mut tick)) = tick else { return };
        tick();
        // Another may have been set meanwhile.
        self.queue.lock().tick.get_or_insert((interval, tick));
    }
}
