//! The outage figure: how long nothing is acknowledged when the leader is killed, ten times over.
//!
//! ```text
//! cargo build --release && cargo run --release --example outage [-- KILLS]
//! ```
//!
//! Three replicas and one agent as processes; a probe publishes one tiny page every 5 ms the whole time. The leader is
//! killed with SIGKILL, started again, and the next kill waits until all replicas agree. An outage is the time from the
//! kill to the first acknowledgement of a publish submitted after it. Progress goes to stderr, one JSON object to
//! stdout; exit 1 when an outage had no end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use foreword_cli::clients;
use foreword_cli::cluster::{Cluster, L3Spec, Spec};
use foreword_cli::driver::probe::{Probe, outage};
use foreword_cli::human::Span;
use foreword_seams::{Entropy, OsEntropy};
use serde_json::json;
use tokio::time::{Instant, sleep};

const KILLS: usize = 10;
const L3_BYTES: u64 = 256 << 20;
const SLAB_BYTES: u64 = 16 << 20;
const ARENA_BYTES: u64 = 64 << 20;
const LEASE: Span = Span(Duration::from_secs(10));
const REST: Span = Span(Duration::from_millis(100));
/// A group that has just agreed works for so long before its leader is killed.
const CALM: Duration = Duration::from_secs(1);
/// Longer than any outage: the probe goes on for so long after the last restart.
const AFTER: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let kills = match std::env::args().nth(1) {
        Some(text) => text.parse().with_context(|| format!("kills: expected a number, got {text:?}"))?,
        None => KILLS,
    };
    let mut cluster = Cluster::start(spec()?, |what| eprintln!("{what}")).await?;
    let agent = cluster.agent_endpoints().into_iter().next().context("an agent")?;
    let probe = Probe::start(&agent, clients::group(&cluster.meta_endpoints())?, OsEntropy.u64()).await?;
    let mut killed = Vec::new();
    for number in 1..=kills {
        sleep(CALM).await;
        let leader = cluster.leader().await?;
        killed.push(Instant::now());
        cluster.kill_replica(leader)?;
        let next = cluster.leader().await?;
        eprintln!("kill {number}: replica {leader} led, replica {next} leads");
        cluster.restart_replica(leader).await?;
        cluster.replica_ready(leader).await?;
        cluster.converged().await?;
        cluster.check()?;
    }
    sleep(AFTER).await;
    let samples = probe.finish().await?;
    let outages: Vec<Option<u64>> =
        killed.iter().map(|at| outage(&samples, *at).map(|outage| outage.as_millis() as u64)).collect();
    let mut sorted: Vec<u64> = outages.iter().copied().flatten().collect();
    sorted.sort_unstable();
    println!(
        "{}",
        json!({
            "name": "outage_ms",
            "unit": "ms",
            "runs": kills,
            "outages": outages,
            "min": sorted.first(),
            "median": median(&sorted),
            "max": sorted.last(),
            "probes_acked": samples.len(),
        })
    );
    Ok(if sorted.len() == kills { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of two in the middle, their mean; None without outages.
fn median(sorted: &[u64]) -> Option<u64> {
    let (below, above) = (sorted.get(sorted.len().saturating_sub(1) / 2)?, sorted.get(sorted.len() / 2)?);
    Some((below + above) / 2)
}

fn spec() -> anyhow::Result<Spec> {
    Ok(Spec {
        binary: binary()?,
        dir: None,
        keep: false,
        replicas: 3,
        agents: 1,
        l3: L3Spec::Posix,
        l3_bytes: L3_BYTES,
        slab_bytes: SLAB_BYTES,
        chunk_bytes: 4096,
        arena_bytes: ARENA_BYTES,
        lease: LEASE,
        read_rest: REST,
        write_rest: REST,
        config: String::new(),
        generated: None,
    })
}

/// The binary of the same build: `target/release/foreword` beside `target/release/examples/outage`.
fn binary() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("this example's own path")?;
    let binary = this.ancestors().nth(2).context("a target directory")?.join("foreword");
    ensure!(binary.is_file(), "{}: not there; `cargo build` it first, in the same profile", binary.display());
    Ok(binary)
}
