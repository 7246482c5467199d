//! Who waits for a frame, in the order of asking within each frame class.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::arena::{FrameClass, FrameMut};

/// Those who wait. One that left stays until it is passed over.
#[derive(Default)]
pub(super) struct Waiters(Mutex<Queues>);

#[derive(Default)]
struct Queues {
    last: u64,
    by_class: BTreeMap<FrameClass, VecDeque<Waiter>>,
}

struct Waiter {
    number: u64,
    frame_bytes: u64,
    frame: oneshot::Sender<FrameMut>,
}

impl Waiters {
    /// Waits behind the others of this class from now on.
    pub(super) fn join(&self, class: FrameClass, frame_bytes: u64) -> oneshot::Receiver<FrameMut> {
        let (frame, waiting) = oneshot::channel();
        let mut queues = self.0.lock();
        queues.last += 1;
        let number = queues.last;
        queues.by_class.entry(class).or_default().push_back(Waiter { number, frame_bytes, frame });
        waiting
    }

    /// Forgets who left; gives their number.
    pub(super) fn forget_left(&self) -> usize {
        let mut queues = self.0.lock();
        let count = |queues: &Queues| queues.by_class.values().map(VecDeque::len).sum::<usize>();
        let before = count(&queues);
        queues.by_class.retain(|_, queue| {
            queue.retain(|waiter| !waiter.frame.is_closed());
            !queue.is_empty()
        });
        before - count(&queues)
    }

    /// The classes that somebody waits for, who has waited longest first.
    pub(super) fn classes(&self) -> Vec<FrameClass> {
        let queues = self.0.lock();
        let first = |(class, queue): (&FrameClass, &VecDeque<Waiter>)| Some((queue.front()?.number, *class));
        let mut classes: Vec<(u64, FrameClass)> = queues.by_class.iter().filter_map(first).collect();
        classes.sort_unstable();
        classes.into_iter().map(|(_, class)| class).collect()
    }

    /// What the first of a class wants, in bytes.
    pub(super) fn first(&self, class: FrameClass) -> Option<u64> {
        self.0.lock().by_class.get(&class)?.front().map(|waiter| waiter.frame_bytes)
    }

    /// Gives the first of a class its frame. One that left lets it go again.
    pub(super) fn give(&self, class: FrameClass, frame: FrameMut) {
        let waiter = self.0.lock().by_class.get_mut(&class).and_then(VecDeque::pop_front);
        if let Some(waiter) = waiter {
            let _ = waiter.frame.send(frame);
        }
    }
}
