//! How fast an agent moves pages of 4 MiB: through gRPC, and in process, where nothing lies between its caller and its
//! tiers.
//!
//! What a get gives was verified; what a put says was published. Beside each: what plain reads and writes of the page
//! cache do in the same minute, since no agent can be faster.

mod pages;
mod raw;
mod way;

use std::time::Duration;

use anyhow::Context;
use foreword_proto::Namespace;
use foreword_proto::wire::meta as m;
use tokio::time::{Instant, sleep};

use self::pages::{PAGE_BYTES, Pages, SET_PAGES};
use self::way::Way;
use super::Bench;
use super::figure::Figure;
use super::one_agent::OneAgent;
use crate::clients;
use crate::cluster::{Cluster, L3Spec};
use crate::human::Span;

pub(super) const NAMES: [&str; 9] = [
    "page_cache_read_4m_gib_per_s",
    "page_cache_write_4m_gib_per_s",
    "l1_get_4m_gib_per_s",
    "l1_get_4m_cpu_s_per_gib",
    "l3_get_4m_gib_per_s",
    "l3_get_4m_gib_per_s_cold",
    "l3_get_4m_cpu_s_per_gib",
    "l3_put_4m_gib_per_s",
    "l3_put_4m_cpu_s_per_gib",
];

/// Room for the pages that are read, those that are put, and as many that rest.
const L3_BYTES: u64 = 4 << 30;
const SLAB_BYTES: u64 = 256 << 20;
const CHUNK_BYTES: u64 = 256 << 10;
const REST: Span = Span(Duration::from_millis(200));
/// How long what was put may take to be cleared away.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
const GIB: f64 = (1u64 << 30) as f64;

/// What one run moved, in how long, and what the processor did for it.
#[derive(Debug, Clone, Copy)]
struct Moved {
    bytes: u64,
    took: Duration,
    cpu: Duration,
}

/// Values of several runs.
#[derive(Debug, Default)]
struct Runs {
    gib_per_s: Vec<f64>,
    cpu_s_per_gib: Vec<f64>,
}

impl Runs {
    fn add(&mut self, moved: Moved) {
        let gib = moved.bytes as f64 / GIB;
        self.gib_per_s.push(gib / moved.took.as_secs_f64());
        self.cpu_s_per_gib.push(moved.cpu.as_secs_f64() / gib);
    }
}

/// Measures posix, and USRBIO where the machine has what the stand-in needs.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<()> {
    one_store(bench, "posix", L3Spec::Posix).await?;
    match &bench.own_mounts {
        Ok(()) => {
            one_store(bench, "usrbio", standin(false)).await?;
            cold_usrbio(bench).await
        }
        Err(missing) => {
            bench.say(&format!("skipped: pages through USRBIO: {missing}"));
            Ok(())
        }
    }
}

/// All ways to the pages of one store.
async fn one_store(bench: &Bench, store: &str, l3: L3Spec) -> anyhow::Result<()> {
    bench.say(&format!("pages of 4 MiB through {store}"));
    let stage = Stage::start(bench, l3).await?;
    raw::measure(bench, store, &stage.cluster.backing()).await?;
    for way in [Way::grpc(&stage.cluster).await?, Way::in_process(&stage.cluster).await?] {
        let path = format!("{store}, {}, {} in flight", way.name(), pages::IN_FLIGHT);
        let set = Pages::put(&way, &namespace("read"), SET_PAGES).await?;
        if way.is_grpc() {
            let few = set.first(pages::L1_PAGES);
            let runs = few.get_runs(&way, bench.runs, false).await?;
            bench.print(&Figure::new(NAMES[2], "GiB/s", path.clone(), runs.gib_per_s))?;
            bench.print(&Figure::new(NAMES[3], "s/GiB", path.clone(), runs.cpu_s_per_gib))?;
        }
        let runs = set.get_runs(&way, bench.runs, true).await?;
        bench.print(&Figure::new(NAMES[4], "GiB/s", format!("{path}, verified, page cache"), runs.gib_per_s))?;
        bench.print(&Figure::new(NAMES[6], "s/GiB", format!("{path}, verified, page cache"), runs.cpu_s_per_gib))?;
        let runs = stage.put_runs(&way, bench.runs).await?;
        bench.print(&Figure::new(NAMES[7], "GiB/s", format!("{path}, published, page cache"), runs.gib_per_s))?;
        bench.print(&Figure::new(NAMES[8], "s/GiB", format!("{path}, published, page cache"), runs.cpu_s_per_gib))?;
        stage.clear(set.namespace_id()).await?;
        way.end().await;
    }
    Ok(())
}

/// Reads from the disk: the stand-in's rings go around the page cache.
async fn cold_usrbio(bench: &Bench) -> anyhow::Result<()> {
    bench.say("pages of 4 MiB from the disk");
    let stage = Stage::start(bench, standin(true)).await?;
    let way = Way::in_process(&stage.cluster).await?;
    let set = Pages::put(&way, &namespace("read"), SET_PAGES).await?;
    let runs = set.get_runs(&way, bench.runs, true).await?;
    let path = format!("usrbio, {}, {} in flight, verified, O_DIRECT", way.name(), pages::IN_FLIGHT);
    bench.print(&Figure::new(NAMES[5], "GiB/s", path, runs.gib_per_s))?;
    way.end().await;
    Ok(())
}

fn standin(direct: bool) -> L3Spec {
    L3Spec::Usrbio { faults: None, lib: None, direct }
}

fn namespace(name: &str) -> Namespace {
    Namespace::simple(&format!("foreword-bench-{name}"), 64, vec![PAGE_BYTES as u64])
}

/// A group of one replica, one agent as a process, and a place for another in this one.
struct Stage {
    cluster: Cluster,
}

impl Stage {
    async fn start(bench: &Bench, l3: L3Spec) -> anyhow::Result<Self> {
        let (l3_bytes, slab_bytes, chunk_bytes, rest) = (L3_BYTES, SLAB_BYTES, CHUNK_BYTES, REST);
        Ok(Self { cluster: OneAgent { l3, l3_bytes, slab_bytes, chunk_bytes, rest }.start(bench).await? })
    }

    /// Puts, each run into an L3 that has room for it; the first run warms up.
    async fn put_runs(&self, way: &Way, runs: usize) -> anyhow::Result<Runs> {
        let mut values = Runs::default();
        for run in 0..=runs {
            let from = (Instant::now(), way.cpu()?);
            let put = Pages::put(way, &namespace("put"), SET_PAGES).await?;
            if run > 0 {
                let bytes = (SET_PAGES * PAGE_BYTES) as u64;
                values.add(Moved { bytes, took: from.0.elapsed(), cpu: way.cpu()?.saturating_sub(from.1) });
            }
            self.clear(put.namespace_id()).await?;
        }
        Ok(values)
    }

    /// Clears a namespace and waits until its slots can be granted again.
    async fn clear(&self, namespace_id: u32) -> anyhow::Result<()> {
        let endpoint = self.cluster.meta_endpoints().pop().context("a replica")?;
        let in_use = async || {
            let l3 = clients::replica_status(&endpoint).await?.l3;
            anyhow::Ok((l3.published_bytes, l3.resting_bytes))
        };
        let before = in_use().await?.0;
        let cleared = clients::replica(&endpoint).clear(m::ClearRequest { namespace_id }).await;
        cleared.map_err(|status| clients::said_no("clear", &status))?;
        let until = Instant::now() + PATIENCE;
        loop {
            let (published, resting) = in_use().await?;
            if published < before && resting == 0 {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "bench: what was cleared still takes room after {PATIENCE:?}");
            sleep(LOOK).await;
        }
    }
}
