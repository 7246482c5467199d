//! Restart and stalls with many pages: both servers start from one file that SGLang's server could have saved.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use foreword_cli::clients;
use foreword_cli::cluster::Cluster;
use foreword_proto::wire::meta::TriggerSnapshotRequest;
use serde_json::json;
use tokio::time::Instant;

use foreword_cli::commands::bench::sglang::load::{Operation, Target, key};
use foreword_cli::commands::bench::sglang::{Sglang, Venv};

use crate::servers;

/// How often SGLang's server saves here: it must come up in between.
const SAVE_S: u32 = 30;
/// Long enough to see two saves.
const WATCHED: Duration = Duration::from_secs(75);
/// Pages that are free in the file.
const FREE: u64 = 500_000;
const DEPLOYMENT: &str = "large";

pub(crate) async fn run(venv: &Venv, dir: &Path, pages: u64) -> anyhow::Result<()> {
    let saved = dir.join("saved.json");
    write_saved(&saved, pages)?;
    eprintln!("{}: {} MiB", saved.display(), std::fs::metadata(&saved)?.len() >> 20);
    foreword(&saved, dir, pages).await?;
    let began = Instant::now();
    let sglang = Sglang::start(&venv.python, &venv.launcher, Some((&saved, SAVE_S))).await?;
    say("restart", "sglang", json!({ "unit": "s", "value": began.elapsed().as_secs_f64(), "pages": pages }));
    let target = Target::filled(sglang.address.clone(), "", pages);
    stalls("sglang", "saving", &target, WATCHED).await?;
    std::fs::remove_file(&saved)?;
    Ok(())
}

fn say(name: &str, server: &str, mut figures: serde_json::Value) {
    figures["name"] = name.into();
    figures["server"] = server.into();
    println!("{figures}");
}

fn write_saved(path: &Path, pages: u64) -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let free: Vec<u64> = (pages..pages + FREE).collect();
    write!(out, "{{\"0:kv\": {{\"num_pages\": {}, \"free_pages\": {free:?}, \"key_to_index\": [", pages + FREE)?;
    for page in 0..pages {
        let comma = if page == 0 { "" } else { "," };
        write!(out, "{comma}\n[\"{}\", {page}]", key(page))?;
    }
    writeln!(out, "]}}}}")?;
    Ok(out.into_inner().map_err(|error| error.into_error())?.sync_all()?)
}

async fn foreword(saved: &Path, dir: &Path, pages: u64) -> anyhow::Result<()> {
    let mut cluster = servers::foreword(&crate::binary()?, dir).await?;
    let meta: Vec<String> = cluster.meta_endpoints().iter().map(ToString::to_string).collect();
    let began = Instant::now();
    let imported = tokio::process::Command::new(crate::binary()?)
        .arg("import-hf3fs")
        .arg(saved)
        .args(["--deployment", DEPLOYMENT, "--meta", &meta.join(",")])
        .stdin(Stdio::null())
        .status()
        .await?;
    ensure!(imported.success(), "import-hf3fs: {imported}");
    say("import", "foreword", json!({ "unit": "s", "value": began.elapsed().as_secs_f64(), "pages": pages }));
    let leader = cluster.leader().await?;
    let target = Target::filled(servers::address_of(&cluster, leader)?, &format!("/{DEPLOYMENT}"), pages);
    let quiet = stalls("foreword", "quiet", &target, Duration::from_secs(10));
    quiet.await?;
    let snapshots = async {
        // As many as the other server saves meanwhile.
        for _ in 0..2 {
            snapshot(&cluster, leader).await?;
        }
        anyhow::Ok(())
    };
    let watched = stalls("foreword", "snapshots", &target, WATCHED);
    let (snapshots, watched) = tokio::join!(snapshots, watched);
    snapshots?;
    watched?;
    for replica in cluster.replica_ids() {
        snapshot(&cluster, replica).await?;
        let rss = rss_bytes(&cluster, replica)?;
        say("rss", "foreword", json!({ "unit": "bytes/page", "value": rss as f64 / pages as f64, "replica": replica }));
    }
    restart(&mut cluster, leader, pages).await
}

/// One follower killed, until it is ready again.
async fn restart(cluster: &mut Cluster, leader: u64, pages: u64) -> anyhow::Result<()> {
    let follower = cluster.replica_ids().into_iter().find(|id| *id != leader).context("a follower")?;
    for _ in 0..3 {
        cluster.kill_replica(follower)?;
        let began = Instant::now();
        cluster.restart_replica(follower).await?;
        cluster.replica_ready(follower).await?;
        say("restart", "foreword", json!({ "unit": "s", "value": began.elapsed().as_secs_f64(), "pages": pages }));
    }
    Ok(())
}

async fn snapshot(cluster: &Cluster, replica: u64) -> anyhow::Result<()> {
    let endpoints = cluster.meta_endpoints();
    let endpoint = endpoints.get(replica as usize - 1).context("an endpoint")?;
    let began = Instant::now();
    clients::admin(endpoint).trigger_snapshot(TriggerSnapshotRequest {}).await?;
    say("snapshot", "foreword", json!({ "unit": "s", "value": began.elapsed().as_secs_f64(), "replica": replica }));
    Ok(())
}

fn rss_bytes(cluster: &Cluster, replica: u64) -> anyhow::Result<u64> {
    let pid = cluster.replica_announced(replica).context("a replica that runs")?.pid;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// One client of each operation; what the slowest call took.
async fn stalls(server: &str, during: &str, target: &Target, span: Duration) -> anyhow::Result<()> {
    let exists = target.run(Operation::Exists, 32, 1, span);
    let reserves = target.run(Operation::ReserveConfirm, 32, 1, span);
    let (exists, reserves) = tokio::try_join!(exists, reserves)?;
    for (operation, mut figures) in [(Operation::Exists, exists), (Operation::ReserveConfirm, reserves)] {
        say(
            "stall",
            server,
            json!({ "during": during, "operation": format!("{}_32", operation.name()), "unit": "ms",
                    "max": figures.quantile_ms(1.0), "p999": figures.quantile_ms(0.999), "p99": figures.quantile_ms(0.99),
                    "p50": figures.quantile_ms(0.5), "calls": figures.latencies.len() }),
        );
    }
    Ok(())
}
