//! Which pages were asked for lately, told to the group, which evicts by it.

use std::sync::Arc;
use std::time::Duration;

use foreword_client::Group;
use foreword_proto::records;
use foreword_proto::wire::meta as wire;
use tokio::time::Instant;

use crate::reading::Reading;
use crate::session::Sessions;

/// Reports every namespace's accesses until the agent stops. An agent without any says so: a new leader evicts nothing
/// before all agents have spoken, and a full L3 leaves nothing to access.
pub(super) async fn report(reading: Arc<Reading>, sessions: Arc<Sessions>, meta: Group, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(session) = sessions.current() else { continue };
        let mut requests: Vec<wire::ReportHeatRequest> = reading
            .take_heat()
            .into_iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(open, keys)| wire::ReportHeatRequest {
                session: session.id.to_wire(),
                namespace_id: open.id,
                epoch: open.mirror.read(|view| view.epoch()),
                keys: records::encode(&keys, 0),
            })
            .collect();
        if requests.is_empty() {
            requests
                .push(wire::ReportHeatRequest { session: session.id.to_wire(), ..wire::ReportHeatRequest::default() });
        }
        for request in requests {
            let reported = meta.retry(Instant::now() + every, |mut client| {
                let request = request.clone();
                async move { client.report_heat(request).await }
            });
            // A lost report costs a worse eviction, nothing else.
            if let Err(status) = reported.await {
                tracing::debug!(%status, "heat could not be reported");
            }
        }
    }
}
