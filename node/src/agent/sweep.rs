//! What has to be looked at now and then: pages whose shards did not all come in time, the arena's state, and whether mirrors keep up.

use std::sync::Arc;
use std::time::Duration;

use foreword_seams::{Marker, sometimes};

use super::Core;
use super::open::OpenNamespace;
use super::page_work::PageWork;

/// Looks this often in one gather deadline.
const LOOKS_PER_DEADLINE: u32 = 10;

/// Sweeps until the agent stops.
pub(super) async fn sweep(core: Arc<Core>) {
    let deadline = Duration::from_millis(core.config.gather_deadline_ms);
    loop {
        tokio::time::sleep(deadline / LOOKS_PER_DEADLINE).await;
        core.memory.keep_up();
        let namespaces: Vec<Arc<OpenNamespace>> = core.namespaces.read().values().cloned().collect();
        core.feed.group_has(core.sessions.revision());
        for open in namespaces {
            let late: Vec<Arc<PageWork>> = {
                let works = open.works.lock();
                works
                    .values()
                    .filter(|work| work.started.elapsed() >= deadline && work.is_gathering())
                    .cloned()
                    .collect()
            };
            for work in late {
                sometimes(Marker::GatherTimedOut);
                core.abort_gather(&open, &work);
            }
        }
    }
}
