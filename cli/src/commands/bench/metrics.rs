//! What replicas say on their /metrics.

use std::time::Duration;

use anyhow::Context;
use foreword_seams::{Endpoint, Net, TokioNet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;

const CAUGHT_UP: &str = "foreword_meta_policy_caught_up";
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that policies may take to learn of all pages.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);

/// The text of a replica's metrics.
pub(super) async fn metrics_of(cluster: &Cluster, id: u64) -> anyhow::Result<String> {
    let http = cluster.replica_announced(id).and_then(|announced| announced.http.clone());
    let endpoint: Endpoint = http.with_context(|| format!("replica {id}: HTTP"))?.parse()?;
    timeout(TIMEOUT, get(&endpoint, "/metrics")).await.context("/metrics")?
}

/// Waits until every replica knows what may be evicted: after a start of all of them nothing is evicted before.
pub(super) async fn policies_caught_up(cluster: &Cluster) -> anyhow::Result<()> {
    let all = async {
        for id in cluster.replica_ids() {
            while gauge(&metrics_of(cluster, id).await?, CAUGHT_UP) != Some(1.0) {
                sleep(LOOK).await;
            }
        }
        Ok(())
    };
    timeout(PATIENCE, all).await.context("the eviction policies have not caught up")?
}

/// A metric without labels.
pub(super) fn gauge(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The body of what an HTTP server answers, its head included.
async fn get(endpoint: &Endpoint, path: &str) -> anyhow::Result<String> {
    let mut stream = TokioNet.connect(endpoint).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: foreword\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_found_by_its_whole_name() {
        assert_eq!(gauge("# TYPE a gauge\na_b 2\na 0.5\n", "a"), Some(0.5));
        assert_eq!(gauge("a_b 2\n", "a"), None);
    }
}
