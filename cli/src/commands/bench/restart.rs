//! How soon a replica that was killed is ready again, and what a replica takes of memory.

use std::time::Duration;

use anyhow::Context;
use foreword_proto::wire::meta as m;
use tokio::time::{Instant, sleep};

use super::Bench;
use super::figure::Figure;
use super::load::Load;
use super::publish::FULL;
use super::stage::Stage;
use crate::clients;

pub(super) const RESTART: &str = "restart_5m_s";
pub(super) const RSS: &str = "replica_rss_bytes_per_page";

/// Log that is read behind the snapshot, at least.
const LOG_BYTES: u64 = 32 << 20;
const LOOK: Duration = Duration::from_millis(100);

/// Kills a follower and starts it again; the page cache is warm.
pub(super) async fn measure(bench: &Bench, stage: &mut Stage) -> anyhow::Result<()> {
    bench.say("killing a follower and starting it again");
    let (mut seconds, mut log_bytes) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        let follower = follower(stage).await?;
        log_bytes.push(grow_log(stage, follower).await?);
        stage.cluster.kill_replica(follower)?;
        let from = Instant::now();
        stage.cluster.restart_replica(follower).await?;
        stage.cluster.replica_ready(follower).await?;
        seconds.push(from.elapsed().as_secs_f64());
    }
    let (pages, least) = (stage.leader_status().await?.pages, log_bytes.iter().min().copied().unwrap_or_default());
    let path =
        format!("exec to /readyz, {pages} pages in the snapshot or behind it, at least {} MiB of log", least >> 20);
    bench.print(&Figure::new(RESTART, "s", path, seconds))
}

async fn follower(stage: &Stage) -> anyhow::Result<u64> {
    let leader = stage.cluster.leader().await?;
    stage.cluster.replica_ids().into_iter().find(|id| *id != leader).context("a follower")
}

/// Publishes until a replica has so much log behind its snapshot; how much it has.
async fn grow_log(stage: &Stage, id: u64) -> anyhow::Result<u64> {
    let endpoint = stage.cluster.meta_endpoints()[id as usize - 1].clone();
    let sessions = stage.sessions("log", 2).await?;
    let load = Load::start(&sessions, FULL);
    let bytes = loop {
        let bytes = clients::replica_status(&endpoint).await?.log_bytes;
        if bytes >= LOG_BYTES {
            break bytes;
        }
        sleep(LOOK).await;
    };
    load.finish().await?;
    Ok(bytes)
}

/// Resident memory of each replica after a snapshot and the purge behind it.
pub(super) async fn memory(bench: &Bench, stage: &Stage) -> anyhow::Result<()> {
    bench.say("memory of the replicas");
    let mut per_page = Vec::new();
    for (id, endpoint) in stage.cluster.replica_ids().into_iter().zip(stage.cluster.meta_endpoints()) {
        let snapshot = clients::admin(&endpoint).trigger_snapshot(m::TriggerSnapshotRequest {}).await;
        snapshot.map_err(|status| clients::said_no(format!("replica {id}: snapshot"), &status))?;
        let status = clients::replica_status(&endpoint).await?;
        let pid = stage.cluster.replica_announced(id).with_context(|| format!("replica {id}"))?.pid;
        per_page.push(resident_bytes(pid)? as f64 / status.pages as f64);
    }
    let path = format!("each of 3 replicas with {} pages, after a snapshot", stage.leader_status().await?.pages);
    bench.print(&Figure::new(RSS, "B", path, per_page))
}

/// A process's resident memory, by /proc/PID/status.
fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("VmRSS of a process")?.trim().parse::<u64>()? << 10)
}
