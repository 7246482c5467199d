//! Makes the segments that were ordered, apart from everybody who serves calls: it takes tens of milliseconds, and
//! seconds with a hung 3FS daemon.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use foreword_seams::seldom::Seldom;
use foreword_seams::{Marker, sometimes};
use tokio_util::sync::CancellationToken;

use crate::arena::{Arena, Made};
use crate::counters::Counters;

/// A segment that could not be made is tried again after this, then after twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// How often it is looked whether somebody still holds frames of retired segments.
const LOOK_AT_RETIRED: Duration = Duration::from_secs(1);

/// Makes and gives back segments of one arena. Blocks while it does: it has a thread of its own, or the simulator's
/// memory.
pub(crate) struct SegmentMaker {
    arena: Arena,
    counters: Arc<Counters>,
    retry: Duration,
    said: Seldom,
}

impl SegmentMaker {
    pub(crate) fn new(arena: Arena, counters: Arc<Counters>) -> Self {
        Self { arena, counters, retry: RETRY_FIRST, said: Seldom::default() }
    }

    /// Runs until stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let wait = self.make();
            tokio::select! {
                () = wait.over(&self.arena) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Makes what is ordered, until nothing is or one cannot be made.
    fn make(&mut self) -> Wait {
        loop {
            let all_forgotten = self.arena.forget_retired();
            match self.arena.make_next() {
                Made::Segment => self.retry = RETRY_FIRST,
                Made::Nothing if all_forgotten => return Wait::ForOrders,
                Made::Nothing => return Wait::ForOrdersOr(LOOK_AT_RETIRED),
                Made::Failed(error) => return Wait::For(self.failed(&error)),
            }
        }
    }

    /// How long until the next try.
    fn failed(&mut self, error: &io::Error) -> Duration {
        sometimes(Marker::SegmentNotMade);
        self.counters.segments_failed.add(1);
        if let Some(left_out) = self.said.due() {
            tracing::warn!(%error, left_out, "no memory for an arena segment: L1 stays as it is, and it is tried again");
        }
        let wait = self.retry;
        self.retry = (wait * 2).min(RETRY_LAST);
        wait
    }
}

/// Until when there is nothing to do.
enum Wait {
    ForOrders,
    ForOrdersOr(Duration),
    For(Duration),
}

impl Wait {
    async fn over(self, arena: &Arena) {
        match self {
            Self::ForOrders => arena.ordered().await,
            Self::ForOrdersOr(time) => _ = tokio::time::timeout(time, arena.ordered()).await,
            Self::For(time) => tokio::time::sleep(time).await,
        }
    }
}
