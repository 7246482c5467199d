//! Pages found bad, told to the group in the background.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::NamespaceId;
use foreword_proto::limits::SUSPECTS_PER_REPORT_MAX;
use foreword_proto::records::{self, SuspectRecord};
use foreword_proto::wire::meta as wire;
use foreword_seams::{Marker, sometimes};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Core;

/// Reports waiting; more are dropped, since the agent avoids the pages anyway and the next reader reports again.
const WAITING_MAX: usize = 4 * SUSPECTS_PER_REPORT_MAX;
const REPORT: Duration = Duration::from_secs(5);

/// Reports that wait to be sent.
#[derive(Default)]
pub(super) struct Suspects {
    waiting: Mutex<Vec<(NamespaceId, SuspectRecord)>>,
    added: Notify,
}

impl Suspects {
    pub(super) fn add(&self, namespace: NamespaceId, suspect: SuspectRecord) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push((namespace, suspect));
        }
        drop(waiting);
        self.added.notify_one();
    }
}

/// Sends reports until the agent stops.
pub(super) async fn report(core: Arc<Core>) {
    loop {
        core.suspects.added.notified().await;
        core.sessions.opened().await;
        let waiting = std::mem::take(&mut *core.suspects.waiting.lock());
        let mut by_namespace: BTreeMap<NamespaceId, Vec<SuspectRecord>> = BTreeMap::new();
        for (namespace, suspect) in waiting {
            by_namespace.entry(namespace).or_default().push(suspect);
        }
        for (namespace, suspects) in by_namespace {
            for batch in suspects.chunks(SUSPECTS_PER_REPORT_MAX) {
                send(&core, namespace, batch).await;
            }
        }
    }
}

async fn send(core: &Core, namespace: NamespaceId, batch: &[SuspectRecord]) {
    let Some(session) = core.sessions.current() else { return };
    let suspects = records::encode(batch, 0);
    let request = wire::SuspectRequest { session: session.id.to_wire(), namespace_id: namespace, suspects };
    let reported = core.meta.retry(Instant::now() + REPORT, |mut client| {
        let request = request.clone();
        async move { client.suspect(request).await }
    });
    match reported.await {
        Ok(_) => {
            sometimes(Marker::SuspectReported);
            core.counters.suspects_reported.add(batch.len() as u64);
        }
        Err(status) => tracing::warn!(namespace, pages = batch.len(), %status, "bad pages could not be reported"),
    }
}
