//! The outage probe: publishes one tiny page every 5 ms through one agent and remembers when each was acknowledged.
//!
//! Its pages live in a namespace of their own, are deleted again in small batches, and count nowhere else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use foreword_proto::wire::meta as m;
use foreword_proto::wire::node as n;
use foreword_proto::{Namespace, PageKey};
use foreword_seams::Endpoint;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::transfer::{ShardPut, put};
use crate::clients::{self, Agent, Group};

const PERIOD: Duration = Duration::from_millis(5);
/// Bytes of a probe's page.
const PAGE_BYTES: u64 = 64;
/// Probes under way at once: ten seconds of an outage. Above it, probes are left out, which can only make an outage
/// longer.
const UNDER_WAY_MAX: usize = 2000;
/// Pages deleted in one call.
const DELETE_BATCH: usize = 32;
/// How long one probe may take, and the deletion of the last pages.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// One acknowledged probe.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub submitted: Instant,
    pub acked: Instant,
}

/// A probe under way.
pub struct Probe {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Vec<Sample>>,
}

/// From the kill to the first acknowledgement of a publish submitted after it; None when there is none.
pub fn outage(samples: &[Sample], killed: Instant) -> Option<Duration> {
    let after = samples.iter().filter(|sample| sample.submitted > killed);
    after.map(|sample| sample.acked).min().map(|acked| acked - killed)
}

impl Probe {
    /// Opens the probe's namespace on an agent and starts.
    pub async fn start(endpoint: &Endpoint, group: Group, seed: u64) -> anyhow::Result<Self> {
        let mut agent = clients::agent(endpoint);
        let namespace = Namespace::simple("foreword-demo-probe", 1, vec![PAGE_BYTES]);
        let request = n::OpenNamespaceRequest { namespace: Some((&namespace).into()) };
        let namespace_id = agent.open_namespace(request).await?.into_inner().namespace_id;
        let (stop, stopped) = watch::channel(false);
        let prober =
            Arc::new(Prober { agent, group, namespace_id, seed, samples: Mutex::default(), acked: Mutex::default() });
        Ok(Self { stop, task: tokio::spawn(run(prober, stopped)) })
    }

    /// Stops probing, waits for what is under way, deletes the last pages and returns the samples.
    pub async fn finish(self) -> anyhow::Result<Vec<Sample>> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

struct Prober {
    agent: Agent,
    group: Group,
    namespace_id: u32,
    seed: u64,
    samples: Mutex<Vec<Sample>>,
    /// Published and not deleted yet.
    acked: Mutex<VecDeque<PageKey>>,
}

async fn run(prober: Arc<Prober>, mut stopped: watch::Receiver<bool>) -> Vec<Sample> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut tasks = JoinSet::new();
    let deleting = tokio::spawn(delete_as_they_come(Arc::clone(&prober), stopped.clone()));
    for number in 0u64.. {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => break,
            _ = ticks.tick() => {}
        }
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&under_way).try_acquire_owned() else { continue };
        let prober = Arc::clone(&prober);
        tasks.spawn(async move {
            prober.probe(number).await;
            drop(permit);
        });
    }
    while tasks.join_next().await.is_some() {}
    // It ended with the stop signal; what was acknowledged since goes now.
    let _ = deleting.await;
    prober.delete(1).await;
    std::mem::take(&mut prober.samples.lock())
}

async fn delete_as_they_come(prober: Arc<Prober>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = interval(PERIOD * DELETE_BATCH as u32);
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        prober.delete(DELETE_BATCH).await;
    }
}

impl Prober {
    async fn probe(&self, number: u64) {
        let mut name = BytesMut::from(&self.seed.to_le_bytes()[..]);
        name.extend_from_slice(&number.to_le_bytes());
        let key = PageKey::opaque(&name);
        let ask = ShardPut::whole(self.namespace_id, (0, PAGE_BYTES as usize), None, number);
        let mut agent = self.agent.clone();
        let submitted = Instant::now();
        let outcome = timeout(PROBE_TIMEOUT, put(&mut agent, ask, [key].into())).await;
        let Ok(Ok(pages)) = outcome else { return };
        if pages[0].outcome() == n::PutOutcome::Published {
            self.samples.lock().push(Sample { submitted, acked: Instant::now() });
            self.acked.lock().push_back(key);
        }
    }

    /// Deletes what is acknowledged, batch by batch, while at least `keys_min` are.
    async fn delete(&self, keys_min: usize) {
        loop {
            let keys: Vec<PageKey> = {
                let mut acked = self.acked.lock();
                if acked.len() < keys_min {
                    return;
                }
                let batch = acked.len().min(DELETE_BATCH);
                acked.drain(..batch).collect()
            };
            let request = m::DeleteRequest {
                namespace_id: self.namespace_id,
                keys: foreword_proto::key::page_keys_to_wire(&keys),
            };
            let deleted = self
                .group
                .retry(Instant::now() + PROBE_TIMEOUT, |mut replica| {
                    let request = request.clone();
                    async move { replica.delete(request).await }
                })
                .await;
            if let Err(status) = deleted {
                tracing::warn!(%status, "the probe's pages could not be deleted");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_was_submitted_after_the_kill_ends_the_outage() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let sample = |submitted, acked| Sample { submitted: at(submitted), acked: at(acked) };
        let samples = [sample(1, 3), sample(9, 12), sample(11, 1500), sample(20, 1400)];
        assert_eq!(outage(&samples, at(10)), Some(Duration::from_millis(1390)));
        assert_eq!(outage(&samples[..2], at(10)), None);
    }
}
