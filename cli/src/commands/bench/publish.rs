//! How many pages a second become known, and how soon one batch does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Bench;
use super::figure::{Figure, quantile};
use super::load::{Load, Shape, latencies_ms, pages_per_s};
use super::session::Session;
use super::stage::Stage;

pub(super) const NAMES: [&str; 3] = ["publish_pages_per_s", "publish_p50_ms", "publish_p99_ms"];

/// 256-page batches, 64 of them in flight.
pub(super) const FULL: Shape = Shape { pages: 256, in_flight: 64, pages_per_s: None };
/// One batch of 32 pages at a time.
pub(super) const ONE: Shape = Shape { pages: 32, in_flight: 1, pages_per_s: None };
const RUN: Duration = Duration::from_secs(2);
/// Long enough that the 99th of a hundred is not the slowest of few.
const LATENCY_RUN: Duration = Duration::from_secs(3);

/// Measures publishing at the leader, with everything flushed on a majority. Answers with the median of pages a second.
pub(super) async fn measure(bench: &Bench, stage: &Stage) -> anyhow::Result<f64> {
    let sessions = stage.sessions("publish", 2).await?;
    bench.say("publishing as fast as the group takes it");
    let mut rates = Vec::new();
    for run in 0..=bench.runs {
        let rate = burst(&sessions, RUN).await?;
        bench.say(&format!("  {rate:.0} pages a second"));
        // The first warms up.
        if run > 0 {
            rates.push(rate);
        }
    }
    let path = format!("256-page batches, 64 in flight at the leader, {} agents watching", stage.scale.agents);
    let figure = Figure::new(NAMES[0], "pages/s", path, rates);
    bench.print(&figure)?;
    let most = figure.median.unwrap_or_default();
    if bench.wants(&NAMES[1..]) {
        latency(bench, stage, &sessions, most / 2.0).await?;
    }
    Ok(most)
}

/// Pages a second over a time; what is in flight at its end counts as far as it was acknowledged in time.
pub(super) async fn burst(sessions: &[Arc<Session>], span: Duration) -> anyhow::Result<f64> {
    for session in sessions {
        session.stocked().await?;
    }
    let from = Instant::now();
    let load = Load::start(sessions, FULL);
    sleep(span).await;
    let acks = load.take_acks();
    let took = from.elapsed();
    load.finish().await?;
    Ok(pages_per_s(&acks, took))
}

/// How long one batch takes while others publish at a rate.
async fn latency(bench: &Bench, stage: &Stage, sessions: &[Arc<Session>], rate: f64) -> anyhow::Result<()> {
    let one = stage.sessions("latency", 1).await?;
    let load = Load::start(sessions, Shape { pages_per_s: Some(rate), ..FULL });
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for run in 0..=bench.runs {
        let probe = Load::start(&one, ONE);
        sleep(LATENCY_RUN).await;
        let mut latencies = latencies_ms(&probe.finish().await?);
        if run > 0 {
            p50.extend(quantile(&mut latencies, 0.5));
            p99.extend(quantile(&mut latencies, 0.99));
        }
    }
    load.finish().await?;
    let path = format!("one 32-page batch at a time while others publish {rate:.0} pages a second");
    bench.print(&Figure::new(NAMES[1], "ms", path.clone(), p50))?;
    bench.print(&Figure::new(NAMES[2], "ms", path, p99))
}
