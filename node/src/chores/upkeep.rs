//! What has to be looked at now and then: pages whose shards did not all come in time, the arena's state, and whether
//! mirrors keep up.

use std::sync::Arc;
use std::time::Duration;

use crate::memory::Memory;
use crate::namespaces::Namespaces;
use crate::session::Sessions;
use crate::writing::Writing;

/// Looks this often in one gather deadline.
const LOOKS_PER_DEADLINE: u32 = 10;

/// Looks until the agent stops.
pub(super) async fn keep_up(
    memory: Arc<Memory>,
    writing: Arc<Writing>,
    namespaces: Arc<Namespaces>,
    sessions: Arc<Sessions>,
    gather_deadline: Duration,
) {
    loop {
        tokio::time::sleep(gather_deadline / LOOKS_PER_DEADLINE).await;
        memory.keep_up();
        if let Some((revision, at)) = sessions.heard() {
            namespaces.group_had(revision, at);
        }
        writing.give_up_late(gather_deadline);
        namespaces.close_idle();
    }
}

/// A page that was evicted is looked for that long at least, and twice as long at most: shorter than slots rest by
/// default.
const DEPARTED_SPAN: Duration = Duration::from_secs(10);

/// Forgets evicted pages until the agent stops.
pub(super) async fn keep_forgetting(namespaces: Arc<Namespaces>) {
    loop {
        tokio::time::sleep(DEPARTED_SPAN).await;
        namespaces.forget_departed();
    }
}

/// Saves mirrors now and then until the agent stops.
pub(super) async fn keep_saving(namespaces: Arc<Namespaces>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        namespaces.save_mirrors().await;
    }
}
