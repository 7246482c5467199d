//! Keeps the proposer going: tells a group that stands still from one that waits for its disk or its quorum.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foreword_proto::Revision;
use tokio::time::{MissedTickBehavior, interval};

use super::Parts;
use super::log::Progress;
use super::run::run;
use crate::replica::supervise::{Failing, Failure};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks in a row that find the same entry standing, for no reason, before something is done: 5 s of them. They are
/// counted, not timed, so that a machine that was paused is not taken for a group that stood still.
const LOOKS_MAX: u32 = 10;

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It moves, or it is known what it waits for.
    Fine,
    /// It stands still: what is in flight is let go of, and the task begins anew.
    Restart,
    /// It stood still again after that.
    Fail,
}

/// What the looks before saw.
#[derive(Debug, Default)]
pub(super) struct Stall {
    looks: u32,
    applied: Revision,
    restarted: bool,
}

impl Stall {
    /// Judges one more look.
    pub(super) fn look(&mut self, in_flight: usize, progress: Progress) -> Verdict {
        if progress.applied != self.applied {
            *self = Self { applied: progress.applied, ..Self::default() };
        }
        if in_flight == 0 || !progress.quorum_heard || progress.flushing {
            self.looks = 0;
            return Verdict::Fine;
        }
        self.looks += 1;
        if self.looks < LOOKS_MAX {
            return Verdict::Fine;
        }
        self.looks = 0;
        match std::mem::replace(&mut self.restarted, true) {
            false => Verdict::Restart,
            true => Verdict::Fail,
        }
    }
}

/// Answers everybody who waits when the task is dropped.
struct Closing(Parts);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.queue.close("the proposer has ended");
    }
}

/// Runs the proposer, begins it anew when it stands still, and ends the replica when that does not help.
pub(super) async fn keep(parts: Parts, failing: Failing) {
    let closing = Closing(parts);
    let parts = &closing.0;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stall = Stall::default();
    let in_flight = AtomicUsize::new(0);
    let mut running = Box::pin(run(parts.clone(), &in_flight));
    loop {
        tokio::select! {
            biased;
            () = &mut running => return,
            _ = looks.tick() => {}
        }
        let (entries, progress) = (in_flight.load(Ordering::Relaxed), parts.log.progress());
        match stall.look(entries, progress) {
            Verdict::Fine => {}
            Verdict::Restart => {
                tracing::error!(
                    entries,
                    revision = progress.applied,
                    "nothing was applied for 5 s, with a quorum and an idle disk"
                );
                parts.queue.meters.restarts.increment(1);
                running = Box::pin(run(parts.clone(), &in_flight));
            }
            Verdict::Fail => {
                let applied = progress.applied;
                let why = format!("nothing was applied after entry {applied}, with a quorum and an idle disk");
                failing.fail(Failure::Stopped(why));
                return;
            }
        }
    }
}
