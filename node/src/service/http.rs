//! /metrics, /healthz, /readyz and /status.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::get;
use foreword_proto::status::AgentStatus;
use foreword_seams::Telemetry;
use metrics::Gauge;

use crate::agent::Agent;
use crate::api::EngineApi;

#[derive(Clone)]
struct Page {
    agent: Agent,
    telemetry: Telemetry,
    gauges: Gauges,
}

#[derive(Clone)]
struct Gauges {
    mirror_age_seconds: Gauge,
    mirror_pages: Gauge,
    overlay_pages: Gauge,
    arena_bytes_used: Gauge,
    l1_pages: Gauge,
    quarantined_bytes: Gauge,
    fenced: Gauge,
    breaker_open: Gauge,
    write_breaker_open: Gauge,
}

impl Gauges {
    fn new(telemetry: &Telemetry) -> Self {
        let gauge = |name, help| telemetry.gauge(name, help);
        Self {
            mirror_age_seconds: gauge(
                "foreword_agent_mirror_age_seconds",
                "How far behind the group the oldest mirror is",
            ),
            mirror_pages: gauge("foreword_agent_mirror_pages", "Pages in all mirrors"),
            overlay_pages: gauge("foreword_agent_overlay_pages", "Own publishes the mirrors have not seen"),
            arena_bytes_used: gauge("foreword_agent_arena_bytes_used", "Bytes of frames in use"),
            l1_pages: gauge("foreword_agent_l1_pages", "Pages in L1"),
            quarantined_bytes: gauge(
                "foreword_agent_quarantined_bytes",
                "Bytes of frames whose I/O was never answered",
            ),
            fenced: gauge("foreword_agent_fenced", "1 while no L3 write is submitted"),
            breaker_open: gauge("foreword_agent_l3_breaker_open", "1 while L3 is not read"),
            write_breaker_open: gauge("foreword_agent_l3_write_breaker_open", "1 while L3 is not written to"),
        }
    }

    fn set(&self, status: &AgentStatus) {
        let age_ms = status.namespaces.iter().map(|namespace| namespace.mirror_age_ms).max().unwrap_or(0);
        self.mirror_age_seconds.set(age_ms as f64 / 1000.0);
        self.mirror_pages.set(status.namespaces.iter().map(|namespace| namespace.pages).sum::<u64>() as f64);
        self.overlay_pages.set(status.namespaces.iter().map(|namespace| namespace.overlay_pages).sum::<u64>() as f64);
        self.arena_bytes_used.set(status.arena.frame_bytes_used as f64);
        self.l1_pages.set(status.arena.pages as f64);
        self.quarantined_bytes.set(status.arena.quarantined_bytes as f64);
        self.fenced.set(f64::from(u8::from(status.fenced)));
        self.breaker_open.set(f64::from(u8::from(status.l3_breaker == "open")));
        self.write_breaker_open.set(f64::from(u8::from(status.l3_write_breaker == "open")));
    }
}

/// The agent's pages.
pub fn router(agent: Agent, telemetry: Telemetry) -> Router {
    let gauges = Gauges::new(&telemetry);
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(Page { agent, telemetry, gauges })
}

async fn metrics(State(page): State<Page>) -> String {
    page.gauges.set(&page.agent.stats());
    page.telemetry.render()
}

async fn readyz(State(page): State<Page>) -> (StatusCode, &'static str) {
    match page.agent.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false if page.agent.is_refused() => (StatusCode::SERVICE_UNAVAILABLE, "another agent has this one's name\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not yet\n"),
    }
}

async fn status(State(page): State<Page>) -> Json<AgentStatus> {
    Json(page.agent.stats())
}
