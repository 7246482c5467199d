//! How fast a replica answers which pages it knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use bytes::{BufMut, BytesMut};
use foreword_proto::wire::meta as m;
use foreword_proto::workload::SplitMix;
use foreword_seams::Endpoint;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Bench;
use super::figure::Figure;
use super::stage::Stage;
use crate::clients::{self, Replica, said_no};

pub(super) const NAMES: [&str; 4] = [
    "lookup_replica_1_keys_per_s",
    "lookup_replica_32_keys_per_s",
    "lookup_replica_256_keys_per_s",
    "lookup_replica_1024_keys_per_s",
];
const KEYS: [usize; 4] = [1, 32, 256, 1024];
/// The best of these many calls under way counts.
const IN_FLIGHT: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Connections that calls are spread over, at most.
const CONNECTIONS: usize = 4;
/// Different requests, so that no cache holds what they touch: a million keys and more of 1,024 a call.
const REQUESTS: usize = 1024;
const TRY: Duration = Duration::from_millis(300);
const RUN: Duration = Duration::from_millis(700);

/// Measures local lookups at a follower.
pub(super) async fn measure(bench: &Bench, stage: &Stage) -> anyhow::Result<()> {
    let follower = stage.leader_first().await?.pop().expect("three replicas");
    for (name, keys) in NAMES.into_iter().zip(KEYS) {
        if !bench.wants(&[name]) {
            continue;
        }
        bench.say(&format!("looking up {keys} keys a call"));
        let asked = Arc::new(Asked::new(&follower, requests(stage, keys)));
        let mut best = (0.0, 0);
        for in_flight in IN_FLIGHT {
            let rate = asked.rate(in_flight, TRY).await? * keys as f64;
            if rate > best.0 {
                best = (rate, in_flight);
            }
        }
        let mut rates = Vec::new();
        for _ in 0..bench.runs {
            rates.push(asked.rate(best.1, RUN).await? * keys as f64);
        }
        let path = format!(
            "a follower of {} pages, {} calls in flight, half of the keys absent",
            stage.scale.namespaces[0], best.1
        );
        bench.print(&Figure::new(name, "keys/s", path, rates))?;
    }
    Ok(())
}

/// Requests of so many random keys, every second of which is not there.
fn requests(stage: &Stage, keys: usize) -> Vec<m::LookupRequest> {
    let pages = stage.scale.namespaces[0];
    let mut numbers = SplitMix::new(keys as u64);
    let mut request = || {
        let mut wire = BytesMut::with_capacity(keys * 32);
        for at in 0..keys {
            // Numbers far above all that are ever published.
            let number = numbers.below(pages) + if at % 2 == 0 { 0 } else { 1 << 40 };
            wire.put_slice(&stage.keys(0).page(number).0);
        }
        m::LookupRequest {
            namespace_id: stage.namespace_id(0),
            keys: wire.freeze(),
            with_locations: true,
            every_key: true,
            ..Default::default()
        }
    };
    (0..REQUESTS).map(|_| request()).collect()
}

/// A replica that is asked, and what it is asked for.
struct Asked {
    connections: Vec<Replica>,
    requests: Vec<m::LookupRequest>,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Asked {
    fn new(endpoint: &Endpoint, requests: Vec<m::LookupRequest>) -> Self {
        let connections = (0..CONNECTIONS).map(|_| clients::replica(endpoint)).collect();
        Self { connections, requests, next: AtomicU64::new(0), stop: AtomicBool::new(false) }
    }

    /// Calls a second, with so many under way.
    async fn rate(self: &Arc<Self>, in_flight: usize, span: Duration) -> anyhow::Result<f64> {
        self.stop.store(false, Ordering::Relaxed);
        let mut tasks = JoinSet::new();
        let from = Instant::now();
        for number in 0..in_flight {
            let (asked, replica) = (self.clone(), self.connections[number % CONNECTIONS].clone());
            tasks.spawn(async move { asked.ask(replica).await });
        }
        sleep(span).await;
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = 0;
        while let Some(counted) = tasks.join_next().await {
            calls += counted??;
        }
        Ok(calls as f64 / from.elapsed().as_secs_f64())
    }

    /// Asks until it is stopped; how often.
    async fn ask(&self, mut replica: Replica) -> anyhow::Result<u64> {
        let mut calls = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed) as usize % self.requests.len();
            let request = &self.requests[at];
            let answer = replica.lookup(request.clone()).await.map_err(|status| said_no("bench: lookup", &status))?;
            let (asked, found) = (request.keys.len() / 32, answer.into_inner().locations.len() / 20);
            ensure!(found == asked.div_ceil(2), "lookup: expected {} keys to be there, {found} are", asked.div_ceil(2));
            calls += 1;
        }
        Ok(calls)
    }
}
