//! Finished I/Os on their way to whoever waits for them.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::Completion;

/// As long as the I/Os that are under way, each of which owns a frame.
#[derive(Default)]
pub(super) struct Completions {
    done: Mutex<VecDeque<Completion>>,
    some: Notify,
}

impl Completions {
    pub(super) fn push(&self, completion: Completion) {
        self.done.lock().push_back(completion);
        self.some.notify_one();
    }

    /// What is there now; perhaps nothing.
    pub(super) fn take(&self) -> Vec<Completion> {
        self.done.lock().drain(..).collect()
    }

    /// Lets a waiter look again.
    pub(super) fn wake(&self) {
        self.some.notify_one();
    }

    /// Ends after the next push or wake, or at once after one that nobody waited for. Ask for it, then look, then await
    /// it.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.some.notified()
    }

    /// Waits for at least one. A future dropped on the way has taken none.
    pub(super) async fn wait(&self) -> Vec<Completion> {
        loop {
            let woken = self.woken();
            let done = self.take();
            if !done.is_empty() {
                return done;
            }
            woken.await;
        }
    }
}
