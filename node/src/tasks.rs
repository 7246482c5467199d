//! The agent's tasks.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs tasks until they end or the agent stops.
#[derive(Clone)]
pub(crate) struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// None yet; `stop` ends them all.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { stop, tracker: TaskTracker::new() }
    }

    /// Runs a task until it ends or the agent stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Stopped when the agent is.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until all have ended; none is spawned after that.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
