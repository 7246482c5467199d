//! What one tenant feels of another one's misfortune: its lookups and its gets from L1, quiet and disturbed.
//!
//! One agent, one replica, each a process; L3 is a small tmpfs, then the stand-in for a 3FS mount. The tenant that is
//! measured asks every millisecond or so, on a thread of its own: what is compared is what the agent does to it, not
//! how far two cores go.

mod neighbour;
mod tenant;

use std::time::Duration;

use anyhow::Context;
use foreword_seams::Endpoint;

use self::neighbour::Neighbour;
use self::tenant::{Sample, Tenant};
use super::Bench;
use super::figure::{Figure, quantile};
use super::one_agent::OneAgent;
use crate::cluster::{Cluster, L3Spec};
use crate::human::Span;

pub(super) const NAMES: [&str; 3] = ["neighbour_lookup_p99_ratio", "neighbour_l1_get_p99_ratio", "neighbour_max_ms"];

const L3_BYTES: u64 = 1 << 30;
const SLAB_BYTES: u64 = 64 << 20;
/// Room for the pages of both tenants; the group believes that there are [`L3_BYTES`].
const TMPFS_BYTES: u64 = 256 << 20;
const CHUNK_BYTES: u64 = 4096;
const REST: Span = Span(Duration::from_secs(1));
/// Every job of L3, reads and writes.
const SLOW: &str = "latency=2s";
/// How long trouble goes on before it is measured.
const ONSET: Duration = Duration::from_millis(100);

/// What the neighbour meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// It opens its first namespace and puts into it, under a new name each time.
    NewTenant,
    /// It reads from an L3 at 2 s a read.
    SlowL3,
    /// It writes to an L3 whose filesystem is full.
    FullL3,
    /// It reads and writes through a daemon that stands still.
    StoppedDaemon,
}

impl Trouble {
    fn path(self) -> &'static str {
        match self {
            Self::NewTenant => "new_tenant",
            Self::SlowL3 => "slow_l3",
            Self::FullL3 => "full_l3",
            Self::StoppedDaemon => "stopped_daemon",
        }
    }
}

/// How often and how long it is measured.
struct Extent {
    runs: usize,
    quiet: Duration,
    disturbed: Duration,
}

/// Measures all four; what needs root and is not to be had is null.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<()> {
    let extent = match bench.quick {
        true => Extent { runs: 1, quiet: Duration::from_millis(600), disturbed: Duration::from_millis(1200) },
        false => Extent { runs: bench.runs, quiet: Duration::from_secs(1), disturbed: Duration::from_secs(3) },
    };
    let rooted = bench.own_mounts.is_ok();
    let posix = if rooted { L3Spec::Tmpfs { bytes: TMPFS_BYTES } } else { L3Spec::Posix };
    let stage = Neighbours::start(bench, posix).await?;
    stage.measure(bench, &extent, Trouble::NewTenant).await?;
    if let Err(missing) = &bench.own_mounts {
        bench.say(&format!("skipped: neighbours of an L3 in trouble: {missing}"));
        let troubles = [Trouble::FullL3, Trouble::SlowL3, Trouble::StoppedDaemon];
        return troubles.into_iter().try_for_each(|trouble| Runs::default().print(bench, trouble));
    }
    stage.cluster.fill_l3()?;
    stage.measure(bench, &extent, Trouble::FullL3).await?;
    drop(stage);
    let mut stage = Neighbours::start(bench, L3Spec::Usrbio { faults: None, lib: None, direct: false }).await?;
    stage.measure(bench, &extent, Trouble::StoppedDaemon).await?;
    stage.cluster.change_faults(Some(SLOW.into())).await?;
    stage.measure(bench, &extent, Trouble::SlowL3).await
}

/// Two tenants of one agent.
struct Neighbours {
    // The neighbour's calls end before the cluster does.
    neighbour: Neighbour,
    tenant: Tenant,
    cluster: Cluster,
}

impl Neighbours {
    async fn start(bench: &Bench, l3: L3Spec) -> anyhow::Result<Self> {
        let (l3_bytes, slab_bytes, chunk_bytes, rest) = (L3_BYTES, SLAB_BYTES, CHUNK_BYTES, REST);
        let cluster = OneAgent { l3, l3_bytes, slab_bytes, chunk_bytes, rest }.start(bench).await?;
        let agent: Endpoint = cluster.agent_endpoints().pop().context("an agent")?;
        let (tenant, neighbour) = (Tenant::start(&agent).await?, Neighbour::start(&agent).await?);
        Ok(Self { neighbour, tenant, cluster })
    }

    /// Quiet and disturbed, in turns, and the figures of it.
    async fn measure(&self, bench: &Bench, extent: &Extent, trouble: Trouble) -> anyhow::Result<()> {
        bench.say(&format!("neighbours: {}", trouble.path()));
        self.tenant.sample(extent.quiet / 2).await?;
        let mut runs = Runs::default();
        for _ in 0..extent.runs {
            let quiet = self.tenant.sample(extent.quiet).await?;
            let stopped = match trouble {
                Trouble::StoppedDaemon => Some(self.cluster.stop_standin()?),
                _ => None,
            };
            let load = self.neighbour.meet(trouble);
            tokio::time::sleep(ONSET).await;
            let disturbed = self.tenant.sample(extent.disturbed).await?;
            drop(stopped);
            let calls = load.end().await?;
            let told = format!("quiet {}, disturbed {}", quiet.told(), disturbed.told());
            bench.say(&format!("  {told}, {calls} calls of the neighbour"));
            runs.add(quiet, disturbed);
        }
        runs.print(bench, trouble)
    }
}

/// One value a run.
#[derive(Default)]
struct Runs {
    lookup_ratios: Vec<f64>,
    get_ratios: Vec<f64>,
    max_ms: Vec<f64>,
}

impl Runs {
    fn add(&mut self, mut quiet: Sample, mut disturbed: Sample) {
        let slowest = disturbed.lookups_ms.iter().chain(&disturbed.gets_ms).copied().fold(0.0, f64::max);
        self.max_ms.push(slowest);
        self.lookup_ratios.extend(p99_ratio(&mut quiet.lookups_ms, &mut disturbed.lookups_ms));
        self.get_ratios.extend(p99_ratio(&mut quiet.gets_ms, &mut disturbed.gets_ms));
    }

    fn print(self, bench: &Bench, trouble: Trouble) -> anyhow::Result<()> {
        bench.print(&Figure::new(NAMES[0], "", trouble.path(), self.lookup_ratios))?;
        bench.print(&Figure::new(NAMES[1], "", trouble.path(), self.get_ratios))?;
        bench.print(&Figure::new(NAMES[2], "ms", trouble.path(), self.max_ms))
    }
}

/// How many times the quiet p99 the disturbed one is; None without a quiet one.
fn p99_ratio(quiet: &mut [f64], disturbed: &mut [f64]) -> Option<f64> {
    let (quiet, disturbed) = (quantile(quiet, 0.99)?, quantile(disturbed, 0.99)?);
    (quiet > 0.0).then(|| disturbed / quiet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_its_p99s_beside_each_other_and_its_slowest_call() {
        let values = |scale: f64| (1..=100).map(|value| f64::from(value) * scale).collect::<Vec<_>>();
        let mut runs = Runs::default();
        let quiet = Sample { lookups_ms: values(1.0), gets_ms: values(2.0) };
        runs.add(quiet, Sample { lookups_ms: values(2.0), gets_ms: values(3.0) });
        assert_eq!((runs.lookup_ratios, runs.get_ratios, runs.max_ms), (vec![2.0], vec![1.5], vec![300.0]));
        let mut none = Runs::default();
        none.add(Sample::default(), Sample::default());
        assert!(none.lookup_ratios.is_empty() && none.get_ratios.is_empty(), "not measured is no ratio");
    }
}
