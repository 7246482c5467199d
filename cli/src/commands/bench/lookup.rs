//! How fast a replica, and an agent from its mirror, answer which pages they know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use foreword_proto::Location;
use foreword_proto::limits::PAGE_KEY_BYTES;
use foreword_proto::records::Record;
use foreword_proto::wire::{meta as m, node as n};
use foreword_proto::workload::SplitMix;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::Bench;
use super::figure::Figure;
use super::stage::Stage;
use crate::clients::{self, Agent, Replica, said_no};

pub(super) const NAMES: [&str; 5] = [
    "lookup_replica_1_keys_per_s",
    "lookup_replica_32_keys_per_s",
    "lookup_replica_256_keys_per_s",
    "lookup_replica_1024_keys_per_s",
    "lookup_agent_1024_keys_per_s",
];
/// Keys of a call; the last is asked of an agent.
const KEYS: [usize; 5] = [1, 32, 256, 1024, 1024];
/// The best of these many calls under way counts.
const IN_FLIGHT: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Connections that calls are spread over, at most.
const CONNECTIONS: usize = 4;
/// Different batches, so that no cache holds what they touch: a million keys and more of 1,024 a call.
const BATCHES: usize = 1024;
const TRY: Duration = Duration::from_millis(300);
const RUN: Duration = Duration::from_millis(700);

/// Measures local lookups at a follower, and at an agent.
pub(super) async fn measure(bench: &Bench, stage: &Stage) -> anyhow::Result<()> {
    let follower = stage.leader_first().await?.pop().context("a follower")?;
    let agent = stage.cluster.agent_endpoints().pop().context("an agent")?;
    for (name, keys) in NAMES.into_iter().zip(KEYS) {
        if !bench.wants(&[name]) {
            continue;
        }
        bench.say(&format!("looking up {keys} keys a call"));
        let of_agent = name == NAMES[4];
        let server = || match of_agent {
            true => Server::Agent(clients::agent(&agent)),
            false => Server::Replica(clients::replica(&follower)),
        };
        let asked = Arc::new(Asked {
            connections: (0..CONNECTIONS).map(|_| server()).collect(),
            namespace_id: stage.namespace_id(0),
            batches: batches(stage, 0, keys, BATCHES),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
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
        let who = if of_agent { "an agent's mirror, on its socket" } else { "a follower" };
        let pages = stage.scale.namespaces[0];
        let path = format!("{who}, {pages} pages, {} calls in flight, half of the keys absent", best.1);
        bench.print(&Figure::new(name, "keys/s", path, rates))?;
    }
    Ok(())
}

/// `count` batches of so many random keys of a namespace, every second of which is not there.
pub(super) fn batches(stage: &Stage, at: usize, keys: usize, count: usize) -> Vec<Bytes> {
    let pages = stage.scale.namespaces[at];
    let mut numbers = SplitMix::new(keys as u64);
    let mut batch = || {
        let mut wire = BytesMut::with_capacity(keys * PAGE_KEY_BYTES);
        for place in 0..keys {
            // Numbers far above all that are ever published.
            let number = numbers.below(pages) + if place % 2 == 0 { 0 } else { 1 << 40 };
            wire.put_slice(&stage.keys(at).page(number).0);
        }
        wire.freeze()
    };
    (0..count).map(|_| batch()).collect()
}

/// Who is asked.
#[derive(Clone)]
enum Server {
    Replica(Replica),
    Agent(Agent),
}

impl Server {
    /// Looks at every key; how many are there.
    async fn found(&mut self, namespace_id: u32, keys: Bytes) -> Result<usize, Status> {
        match self {
            Self::Replica(replica) => {
                let request = m::LookupRequest {
                    namespace_id,
                    keys,
                    with_locations: true,
                    every_key: true,
                    ..Default::default()
                };
                Ok(replica.lookup(request).await?.into_inner().locations.len() / Location::bytes(1))
            }
            Self::Agent(agent) => {
                let request = n::LocateRequest { namespace_id, keys, ..Default::default() };
                let tiers = agent.locate(request).await?.into_inner().tiers;
                Ok(tiers.iter().filter(|tiers| **tiers != 0).count())
            }
        }
    }
}

/// A server that is asked, and what it is asked for.
struct Asked {
    connections: Vec<Server>,
    namespace_id: u32,
    batches: Vec<Bytes>,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Asked {
    /// Calls a second, with so many under way.
    async fn rate(self: &Arc<Self>, in_flight: usize, span: Duration) -> anyhow::Result<f64> {
        self.stop.store(false, Ordering::Relaxed);
        let mut tasks = JoinSet::new();
        let from = Instant::now();
        for number in 0..in_flight {
            let (asked, server) = (self.clone(), self.connections[number % CONNECTIONS].clone());
            tasks.spawn(async move { asked.ask(server).await });
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
    async fn ask(&self, mut server: Server) -> anyhow::Result<u64> {
        let mut calls = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let at = self.next.fetch_add(1, Ordering::Relaxed) as usize % self.batches.len();
            let keys = &self.batches[at];
            let expected = (keys.len() / PAGE_KEY_BYTES).div_ceil(2);
            let found = server.found(self.namespace_id, keys.clone()).await;
            let found = found.map_err(|status| said_no("bench: lookup", &status))?;
            ensure!(found == expected, "lookup: expected {expected} keys to be there, {found} are");
            calls += 1;
        }
        Ok(calls)
    }
}
