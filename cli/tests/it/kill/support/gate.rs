//! Two clusters at a time in the whole test binary: with more on two cores, elections flap.

use tokio::sync::{Semaphore, SemaphorePermit};

const CLUSTERS_MAX: usize = 2;

static CLUSTERS: Semaphore = Semaphore::const_new(CLUSTERS_MAX);

/// Waits for room for one more cluster; the room is taken until the permit is dropped.
pub(crate) async fn enter() -> SemaphorePermit<'static> {
    CLUSTERS.acquire().await.expect("the gate is never closed")
}
