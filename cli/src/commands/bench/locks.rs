//! How long replicas hold the lock of what they have applied, from the histograms on their /metrics.

use super::Bench;
use super::figure::Figure;
use super::metrics::{gauge, metrics_of};
use crate::cluster::Cluster;

pub(super) const NAMES: [&str; 2] = ["lock_held_cpu_ms", "lock_held_ms"];

const WALL: &str = "foreword_meta_lock_held_seconds";
const WALL_MAX: &str = "foreword_meta_lock_held_max_seconds";
const CPU_MAX: &str = "foreword_meta_lock_held_cpu_max_seconds";

/// A histogram of seconds: how many values were at most each bound, and how many there were.
#[derive(Debug, Clone, Default, PartialEq)]
struct Histogram(Vec<(f64, u64)>);

impl Histogram {
    /// Adds what a replica's /metrics shows under a name, over all labels.
    fn add(&mut self, metrics: &str, name: &str) {
        let prefix = format!("{name}_bucket{{");
        for line in metrics.lines().filter_map(|line| line.strip_prefix(&prefix)) {
            let bound = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            let count = line.rsplit(' ').next().and_then(|count| count.parse().ok());
            if let Some((bound, count)) = bound.and_then(|bound| bound.parse::<f64>().ok()).zip(count) {
                match self.0.iter_mut().find(|(known, _)| *known == bound) {
                    Some((_, sum)) => *sum += count,
                    None => self.0.push((bound, count)),
                }
            }
        }
        self.0.sort_by(|a, b| a.0.total_cmp(&b.0));
    }

    /// The bound, in milliseconds, below which this share of the values is; None without values, or above the last
    /// bound.
    fn below_ms(&self, share: f64) -> Option<f64> {
        let all = self.0.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
        let (bound, _) = self.0.iter().find(|(_, count)| *count as f64 >= all as f64 * share)?;
        bound.is_finite().then_some(bound * 1e3)
    }
}

/// What was seen of locks in this run.
#[derive(Debug, Default)]
pub(super) struct Locks {
    wall: Histogram,
    /// The longest of each replica that was asked, in milliseconds.
    wall_max_ms: Vec<f64>,
    cpu_max_ms: Vec<f64>,
}

impl Locks {
    /// Adds what a replica says that is about to end.
    pub(super) async fn note(&mut self, cluster: &Cluster, id: u64) -> anyhow::Result<()> {
        let metrics = metrics_of(cluster, id).await?;
        self.wall.add(&metrics, WALL);
        self.wall_max_ms.extend(gauge(&metrics, WALL_MAX).map(|seconds| seconds * 1e3));
        self.cpu_max_ms.extend(gauge(&metrics, CPU_MAX).map(|seconds| seconds * 1e3));
        Ok(())
    }

    /// Adds what all replicas say.
    pub(super) async fn note_all(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        for id in cluster.replica_ids() {
            self.note(cluster, id).await?;
        }
        Ok(())
    }

    /// Prints both figures; p99.9 is the upper bound of the bucket that it fell into.
    pub(super) fn print(&self, bench: &Bench) -> anyhow::Result<()> {
        let path = "the longest of each replica, thread CPU time";
        bench.print(&Figure::new(NAMES[0], "ms", path, self.cpu_max_ms.clone()))?;
        let wall: Vec<f64> = self.wall.below_ms(0.999).into_iter().collect();
        bench.print(&Figure::new(NAMES[1], "ms", "p99.9 over all replicas, wall time", wall))?;
        bench.print(&Figure::new(NAMES[1], "ms", "the longest of each replica, wall time", self.wall_max_ms.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# TYPE foreword_meta_lock_held_seconds histogram
foreword_meta_lock_held_seconds_bucket{what=\"apply\",le=\"0.001\"} 990
foreword_meta_lock_held_seconds_bucket{what=\"apply\",le=\"0.003\"} 999
foreword_meta_lock_held_seconds_bucket{what=\"apply\",le=\"0.01\"} 1000
foreword_meta_lock_held_seconds_bucket{what=\"apply\",le=\"+Inf\"} 1000
foreword_meta_lock_held_seconds_sum 0.5
";

    #[test]
    fn quantiles_are_bounds_of_buckets_over_all_replicas() {
        let mut seen = Histogram::default();
        assert_eq!(seen.below_ms(1.0), None);
        seen.add(METRICS, WALL);
        assert_eq!((seen.below_ms(0.99), seen.below_ms(0.999), seen.below_ms(1.0)), (Some(1.0), Some(3.0), Some(10.0)));
        seen.add("foreword_meta_lock_held_seconds_bucket{le=\"+Inf\"} 1", WALL);
        assert_eq!(seen.below_ms(1.0), None, "above the last bound there is none to name");
        assert_eq!(seen.below_ms(0.98), Some(1.0));
    }
}
