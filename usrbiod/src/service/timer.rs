//! What a fault holds back, and a thread that lets it go when its time has come.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::clock;
use super::limits::HELD_MAX;

/// Things held until a time. At most [`HELD_MAX`].
#[derive(Debug)]
pub(super) struct Timer<T> {
    held: Mutex<Held<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Held<T> {
    /// By time, and in the order they came; the next one last.
    until: BTreeMap<Reverse<(Duration, u64)>, T>,
    number: u64,
    stopped: bool,
}

impl<T> Timer<T> {
    pub(super) fn new() -> Self {
        let held = Held { until: BTreeMap::new(), number: 0, stopped: false };
        Self { held: Mutex::new(held), changed: Condvar::new() }
    }

    /// Holds something back for so long; gives it back if too much is held.
    pub(super) fn hold(&self, time: Duration, thing: T) -> Result<(), T> {
        let mut held = self.held.lock();
        if held.stopped || held.until.len() >= HELD_MAX {
            return Err(thing);
        }
        held.number += 1;
        let key = Reverse((clock::now() + time, held.number));
        held.until.insert(key, thing);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for the next thing whose time has come; None once stopped.
    pub(super) fn next(&self) -> Option<T> {
        let mut held = self.held.lock();
        loop {
            if held.stopped {
                return None;
            }
            let now = clock::now();
            match held.until.last_key_value().map(|(Reverse((until, _)), _)| *until) {
                Some(until) if until <= now => return held.until.pop_last().map(|(_, thing)| thing),
                Some(until) => {
                    self.changed.wait_for(&mut held, until - now);
                }
                None => self.changed.wait(&mut held),
            }
        }
    }

    /// Lets everything go for good.
    pub(super) fn stop(&self) {
        let mut held = self.held.lock();
        held.stopped = true;
        held.until.clear();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_come_in_the_order_of_their_times() {
        let timer = Timer::new();
        for (ms, thing) in [(30, 'c'), (0, 'a'), (10, 'b'), (0, 'A')] {
            timer.hold(Duration::from_millis(ms), thing).unwrap();
        }
        let started = clock::now();
        assert_eq!([timer.next(), timer.next(), timer.next(), timer.next()], ['a', 'A', 'b', 'c'].map(Some));
        assert!(clock::now() - started > Duration::from_millis(15), "the last one was held");
        timer.stop();
        assert_eq!(timer.next(), None);
        assert_eq!(timer.hold(Duration::ZERO, 'x'), Err('x'));
    }

    #[test]
    fn what_is_held_has_a_limit() {
        let timer = Timer::new();
        for number in 0..HELD_MAX {
            timer.hold(Duration::from_secs(9), number).unwrap();
        }
        assert_eq!(timer.hold(Duration::ZERO, 7), Err(7));
    }
}
