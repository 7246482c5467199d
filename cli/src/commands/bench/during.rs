//! The slowest publish while the group has something large to do besides.

use std::time::Duration;

use foreword_proto::records::{PageRecord, Record};
use foreword_proto::wire::meta as m;
use foreword_seams::Endpoint;
use foreword_seams::rpc::held_open;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Bench;
use super::figure::Figure;
use super::load::{Load, Shape, latencies_ms};
use super::publish::{FULL, ONE};
use super::stage::{SLOT_BYTES, Stage};
use crate::clients;

pub(super) const SLOWEST: &str = "publish_max_ms_during";
pub(super) const SNAPSHOT: &str = "snapshot_5m_s";

/// What is published all the time: what is looked at is how much slower it gets.
const PAGES_PER_S: f64 = 10_000.0;
const LOAD: Shape = Shape { pages: 256, in_flight: 16, pages_per_s: Some(PAGES_PER_S) };
const EVICTED_PER_S: f64 = 100_000.0;
const EVICTING: Duration = Duration::from_secs(10);
const WATCHERS: usize = 50;
/// Fifty watchers read what this machine can carry; what they do to a publish is seen in this time.
const RESYNC: Duration = Duration::from_secs(20);
/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(200);

/// The slowest of single batches, in milliseconds, while `event` happens.
async fn slowest_during<T>(stage: &Stage, event: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(f64, T)> {
    let (others, one) = (stage.sessions("others", 2).await?, stage.sessions("one", 1).await?);
    let load = Load::start(&others, LOAD);
    let probe = Load::start(&one, ONE);
    let happened = timeout(PATIENCE, event).await??;
    let latencies = latencies_ms(&probe.finish().await?);
    load.finish().await?;
    Ok((latencies.into_iter().fold(0.0, f64::max), happened))
}

fn path(what: &str, stage: &Stage) -> String {
    format!("{what}; {} pages; one 32-page batch at a time, others publish {PAGES_PER_S} pages/s", stage.scale.pages())
}

/// Snapshots of the leader.
pub(super) async fn snapshots(bench: &Bench, stage: &Stage) -> anyhow::Result<()> {
    bench.say("publishing during snapshots");
    let (mut slowest, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        let leader = stage.leader_first().await?[0].clone();
        let (ms, took) = slowest_during(stage, async {
            let from = Instant::now();
            let asked = clients::admin(&leader).trigger_snapshot(m::TriggerSnapshotRequest {}).await;
            asked.map_err(|status| clients::said_no("snapshot", &status))?;
            Ok(from.elapsed())
        })
        .await?;
        slowest.push(ms);
        seconds.push(took.as_secs_f64());
    }
    bench.print(&Figure::new(SLOWEST, "ms", path("snapshot", stage), slowest))?;
    bench.print(&Figure::new(SNAPSHOT, "s", path("snapshot", stage), seconds))
}

/// A clear of the second namespace, until its last page is reclaimed. Once: there is one such namespace.
pub(super) async fn clear(bench: &Bench, stage: &Stage) -> anyhow::Result<()> {
    let pages = stage.scale.namespaces[1];
    bench.say(&format!("publishing while a namespace of {pages} pages is cleared"));
    let endpoints = stage.leader_first().await?;
    let published = async || anyhow::Ok(stage.leader_status().await?.l3.published_bytes);
    let before = published().await?;
    let (ms, ()) = slowest_during(stage, async {
        let request = m::ClearRequest { namespace_id: stage.namespace_id(1) };
        let cleared = clients::replica(&endpoints[0]).clear(request).await;
        cleared.map_err(|status| clients::said_no("clear", &status))?;
        // Nine tenths: others publish meanwhile.
        while before.saturating_sub(published().await?) < pages * SLOT_BYTES / 10 * 9 {
            sleep(LOOK).await;
        }
        Ok(())
    })
    .await?;
    let what = format!("clear_2m ({pages} pages, until they are reclaimed)");
    bench.print(&Figure::new(SLOWEST, "ms", path(&what, stage), vec![ms]))
}

/// Fifty watchers that start over at once, at the leader.
pub(super) async fn resync(bench: &Bench, stage: &Stage) -> anyhow::Result<()> {
    bench.say(&format!("publishing while {WATCHERS} watchers start over"));
    let mut slowest = Vec::new();
    for _ in 0..bench.runs.min(2) {
        let leader = stage.leader_first().await?[0].clone();
        let (ms, pages) = slowest_during(stage, watch_from_the_start(&leader, stage.namespace_id(0))).await?;
        bench.say(&format!("  {pages} pages were read"));
        slowest.push(ms);
    }
    bench.print(&Figure::new(SLOWEST, "ms", path("resync_50", stage), slowest))
}

/// Pages that all watchers together were sent.
async fn watch_from_the_start(endpoint: &Endpoint, namespace_id: u32) -> anyhow::Result<u64> {
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut replica = clients::replica(endpoint);
        watchers.spawn(async move {
            let mut pages = 0;
            let reading = async {
                let open = m::WatchOpen { namespace_id, ..Default::default() };
                let first = m::WatchRequest {
                    kind: Some(m::watch_request::Kind::Open(open)),
                    node: "bench".into(),
                    ..Default::default()
                };
                let requests = held_open(vec![first], m::WatchRequest::default());
                let mut stream = replica.watch(requests).await?.into_inner();
                while let Some(message) = stream.message().await? {
                    match message.kind {
                        Some(m::watch_response::Kind::Bucket(bucket)) => {
                            pages += (bucket.entries.len() / PageRecord::bytes(1)) as u64
                        }
                        Some(m::watch_response::Kind::End(_)) => break,
                        _ => {}
                    }
                }
                Ok::<_, tonic::Status>(())
            };
            // A watcher that is put off has not finished: that is no error of the group's.
            let _ = timeout(RESYNC, reading).await;
            pages
        });
    }
    Ok(watchers.join_all().await.into_iter().sum())
}

/// Evictions as fast as the aim asks: L3 is full, and others publish as many pages a second.
pub(super) async fn evictions(bench: &Bench, stage: &Stage) -> anyhow::Result<()> {
    bench.say("publishing while pages are evicted");
    let (others, one) = (stage.sessions("evict", 2).await?, stage.sessions("one", 1).await?);
    let load = Load::start(&others, Shape { pages_per_s: Some(EVICTED_PER_S), ..FULL });
    let (mut slowest, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        let (from, before) = (Instant::now(), stage.leader_status().await?.l3.slots_reused);
        let probe = Load::start(&one, ONE);
        sleep(EVICTING).await;
        slowest.push(latencies_ms(&probe.finish().await?).into_iter().fold(0.0, f64::max));
        let reused = stage.leader_status().await?.l3.slots_reused - before;
        rates.push(reused as f64 / from.elapsed().as_secs_f64());
    }
    load.finish().await?;
    let rate = Figure::new("", "", "", rates).median.unwrap_or_default();
    let what = format!("evict_100k_per_s ({rate} slots/s were used again)");
    bench.print(&Figure::new(SLOWEST, "ms", path(&what, stage), slowest))
}
