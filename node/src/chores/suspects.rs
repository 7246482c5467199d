//! Pages found bad, told to the group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_client::Group;
use foreword_proto::NamespaceId;
use foreword_proto::limits::SUSPECTS_PER_REPORT_MAX;
use foreword_proto::records::{self, SuspectRecord};
use foreword_proto::wire::meta as wire;
use foreword_seams::{Marker, sometimes};
use tokio::time::Instant;

use crate::counters::Counters;
use crate::reading::Suspects;
use crate::session::Sessions;

/// How long one report is tried.
const REPORT: Duration = Duration::from_secs(5);

/// Sends reports until the agent stops.
pub(super) async fn report(suspects: Arc<Suspects>, sessions: Arc<Sessions>, meta: Group, counters: Arc<Counters>) {
    loop {
        suspects.added().await;
        sessions.opened().await;
        let mut by_namespace: BTreeMap<NamespaceId, Vec<SuspectRecord>> = BTreeMap::new();
        for (namespace, suspect) in suspects.take() {
            by_namespace.entry(namespace).or_default().push(suspect);
        }
        for (namespace, suspects) in by_namespace {
            for batch in suspects.chunks(SUSPECTS_PER_REPORT_MAX) {
                send(&sessions, &meta, &counters, namespace, batch).await;
            }
        }
    }
}

async fn send(sessions: &Sessions, meta: &Group, counters: &Counters, namespace: NamespaceId, batch: &[SuspectRecord]) {
    let Some(session) = sessions.current() else { return };
    let suspects = records::encode(batch, 0);
    let request = wire::SuspectRequest { session: session.id.to_wire(), namespace_id: namespace, suspects };
    let reported = meta.retry(Instant::now() + REPORT, |mut client| {
        let request = request.clone();
        async move { client.suspect(request).await }
    });
    match reported.await {
        Ok(_) => {
            sometimes(Marker::SuspectReported);
            counters.suspects_reported.add(batch.len() as u64);
        }
        Err(status) => tracing::warn!(namespace, pages = batch.len(), %status, "bad pages could not be reported"),
    }
}
