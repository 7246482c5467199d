//! /metrics, /healthz, /readyz, /status.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use foreword_proto::status::{ReplicaRole, ReplicaStatus};
use foreword_seams::Telemetry;

use super::status::StatusSource;
use crate::hf3fs::PageFileGauges;

/// The HTTP surface of a replica.
pub fn router(source: StatusSource, telemetry: Telemetry) -> Router {
    let gauges = Gauges::new(&telemetry);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/status", get(async |State(source): State<StatusSource>| Json(source.status())))
        .route(
            "/metrics",
            get(async move |State(source): State<StatusSource>| {
                gauges.set(&source.status());
                telemetry.render()
            }),
        )
        .with_state(source)
}

async fn readyz(State(source): State<StatusSource>) -> (StatusCode, String) {
    match source.standing.not_ready() {
        None => (StatusCode::OK, "ready\n".into()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

const FOLLOWERS_BEHIND: &str = "foreword_meta_follower_behind_entries";

/// What is read off the state when Prometheus asks.
#[derive(Clone)]
struct Gauges {
    telemetry: Telemetry,
    leader: metrics::Gauge,
    term: metrics::Gauge,
    resident_bytes: metrics::Gauge,
    disk_free_bytes: metrics::Gauge,
    revision: metrics::Gauge,
    pages: metrics::Gauge,
    sessions: metrics::Gauge,
    log_bytes: metrics::Gauge,
    free_bytes: metrics::Gauge,
    granted_bytes: metrics::Gauge,
    published_bytes: metrics::Gauge,
    resting_bytes: metrics::Gauge,
    page_files: PageFileGauges,
}

impl Gauges {
    fn new(telemetry: &Telemetry) -> Self {
        Self {
            telemetry: telemetry.clone(),
            term: telemetry.gauge("foreword_meta_term", "Raft's term: it rises with each election"),
            resident_bytes: telemetry.gauge("foreword_meta_resident_bytes", "Memory of this process"),
            disk_free_bytes: telemetry.gauge("foreword_meta_disk_free_bytes", "Free on the data directory's disk"),
            leader: telemetry.gauge("foreword_meta_leader", "1 while this replica leads and lately heard a quorum"),
            revision: telemetry.gauge("foreword_meta_revision", "Log index applied here"),
            pages: telemetry.gauge("foreword_meta_pages", "Published pages"),
            sessions: telemetry.gauge("foreword_meta_sessions", "Open sessions"),
            log_bytes: telemetry.gauge("foreword_meta_log_bytes", "Bytes of the log that are not purged"),
            free_bytes: telemetry.gauge("foreword_meta_l3_free_bytes", "L3 bytes no slot holds"),
            granted_bytes: telemetry.gauge("foreword_meta_l3_granted_bytes", "Slot bytes leased to sessions"),
            published_bytes: telemetry.gauge("foreword_meta_l3_published_bytes", "Slot bytes of published pages"),
            resting_bytes: telemetry.gauge("foreword_meta_l3_resting_bytes", "Slot bytes at rest"),
            page_files: PageFileGauges::new(telemetry),
        }
    }

    fn set(&self, status: &ReplicaStatus) {
        self.leader.set(if status.role == ReplicaRole::Leader { 1.0 } else { 0.0 });
        self.term.set(status.term as f64);
        for (gauge, bytes) in
            [(&self.resident_bytes, status.resident_bytes), (&self.disk_free_bytes, status.disk_free_bytes)]
        {
            bytes.into_iter().for_each(|bytes| gauge.set(bytes as f64));
        }
        let help = "Entries that a replica is known to lack, at the leader";
        for (replica, entries) in &status.followers_behind {
            let gauge = self.telemetry.gauge_with(FOLLOWERS_BEHIND, help, "replica", replica.to_string());
            gauge.set(*entries as f64);
        }
        self.revision.set(status.revision as f64);
        self.pages.set(status.pages as f64);
        self.sessions.set(status.sessions.len() as f64);
        self.log_bytes.set(status.log_bytes as f64);
        self.free_bytes.set(status.l3.free_bytes as f64);
        self.granted_bytes.set(status.l3.granted_bytes as f64);
        self.published_bytes.set(status.l3.published_bytes as f64);
        self.resting_bytes.set(status.l3.resting_bytes as f64);
        self.page_files.set(status.hf3fs.as_ref());
    }
}
