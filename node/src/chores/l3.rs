//! What failed on L3, tried again by the agent itself.

use std::sync::Arc;
use std::time::Duration;

use crate::reading::Reading;

/// How often it is looked whether a try is due.
const LOOK: Duration = Duration::from_millis(100);

/// Probes slabs until the agent stops.
pub(super) async fn probe(reading: Arc<Reading>) {
    loop {
        tokio::time::sleep(LOOK).await;
        reading.probe_slabs().await;
    }
}

/// Tries pages until the agent stops.
pub(super) async fn try_unreadable(reading: Arc<Reading>) {
    loop {
        tokio::time::sleep(LOOK).await;
        reading.try_unreadable().await;
    }
}
