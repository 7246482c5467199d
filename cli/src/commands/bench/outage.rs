//! What everybody sees when the leader dies, with L3 full: until the next acknowledgement, and for half a minute after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foreword_proto::wire::meta as m;
use foreword_seams::Endpoint;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Bench;
use super::figure::Figure;
use super::load::{Load, Shape, ms};
use super::locks::Locks;
use super::session::Ack;
use super::stage::{Scale, Stage};
use crate::clients::{self, Replica};

pub(super) const NAMES: [&str; 4] =
    ["outage_5m_ms", "terms_per_kill", "lookup_max_during_outage_ms", "publish_gap_max_ms"];

/// A share of L3 that pages take at the start: below the mark from which eviction works, by little.
const FULL_PERCENT: u64 = 96;
const PAGES_PER_S: f64 = 20_000.0;
const LOAD: Shape = Shape { pages: 256, in_flight: 16, pages_per_s: Some(PAGES_PER_S) };
/// What ends an outage is a publish submitted after the kill: there is always one on its way.
const PROBE: Shape = Shape { pages: 1, in_flight: 48, pages_per_s: Some(200.0) };
/// How long what follows a kill is watched.
const WATCHED: Duration = Duration::from_secs(30);
const CALM: Duration = Duration::from_secs(2);
const LOOKUP_KEYS: u64 = 32;
const LOOKUP_PAUSE: Duration = Duration::from_millis(5);
/// A lookup that takes longer has failed the figure whatever it takes.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);

/// A scale whose L3 is full before much is published.
pub(super) fn full(pages: u64, agents: usize) -> Scale {
    Scale { namespaces: vec![pages], room: pages * (100 - FULL_PERCENT) / FULL_PERCENT, agents }
}

/// What one kill did.
struct Kill {
    outage_ms: f64,
    gap_ms: f64,
    terms: f64,
    lookup_ms: f64,
}

/// Kills the leader again and again under a load of publishes.
pub(super) async fn measure(bench: &Bench, stage: &mut Stage, locks: &mut Locks) -> anyhow::Result<()> {
    let sessions = stage.sessions("load", 2).await?;
    let probing = stage.sessions("probe", 1).await?;
    let (load, probe) = (Load::start(&sessions, LOAD), Load::start(&probing, PROBE));
    evicting(bench, stage).await?;
    let mut kills = Vec::new();
    for number in 1..=bench.runs {
        sleep(CALM).await;
        let kill = kill(stage, &load, &probe, locks).await?;
        bench.say(&format!(
            "  kill {number}: outage {:.0} ms, longest gap {:.0} ms, {} terms, slowest lookup {:.1} ms",
            kill.outage_ms, kill.gap_ms, kill.terms, kill.lookup_ms
        ));
        kills.push(kill);
    }
    load.finish().await?;
    probe.finish().await?;
    let pages = stage.scale.namespaces[0];
    let path = format!("{pages} pages, L3 full, {PAGES_PER_S} pages a second published");
    let of = |take: fn(&Kill) -> f64| kills.iter().map(take).collect();
    bench.print(&Figure::new(NAMES[0], "ms", path.clone(), of(|kill| kill.outage_ms)))?;
    bench.print(&Figure::new(NAMES[1], "terms", path.clone(), of(|kill| kill.terms)))?;
    bench.print(&Figure::new(
        NAMES[2],
        "ms",
        path.clone() + ", local, at both survivors",
        of(|kill| kill.lookup_ms),
    ))?;
    bench.print(&Figure::new(NAMES[3], "ms", path + ", 30 s after the kill", of(|kill| kill.gap_ms)))
}

/// Waits until the load has filled L3, so that every further page needs another one's room.
async fn evicting(bench: &Bench, stage: &Stage) -> anyhow::Result<()> {
    bench.say("filling L3 until pages are evicted");
    let (mut least, until) = (u64::MAX, Instant::now() + WATCHED * 4);
    while Instant::now() < until {
        let status = stage.leader_status().await?;
        if status.l3.slots_reused > 0 {
            return Ok(());
        }
        least = least.min(status.l3.free_bytes);
        sleep(CALM / 4).await;
    }
    anyhow::bail!("l3: expected slots to be used again within {:?}, {least} bytes were free at least", WATCHED * 4)
}

async fn kill(stage: &mut Stage, load: &Load, probe: &Load, locks: &mut Locks) -> anyhow::Result<Kill> {
    let endpoints = stage.leader_first().await?;
    let (leader, term) = (stage.cluster.leader().await?, stage.leader_status().await?.term);
    let lookups = Lookups::start(stage, &endpoints[1..]);
    load.take_acks();
    probe.take_acks();
    let before = Instant::now();
    sleep(CALM).await;
    locks.note(&stage.cluster, leader).await?;
    let killed = Instant::now();
    stage.cluster.kill_replica(leader)?;
    sleep(WATCHED).await;
    let watched = killed + WATCHED;
    let lookup = lookups.finish().await?;
    let acks: Vec<Ack> = [load.take_acks(), probe.take_acks()].concat();
    let terms = stage.leader_status().await?.term - term;
    stage.cluster.restart_replica(leader).await?;
    stage.cluster.replica_ready(leader).await?;
    stage.cluster.converged().await?;
    let first = acks.iter().filter(|ack| ack.submitted > killed).map(|ack| ack.acked).min();
    Ok(Kill {
        outage_ms: ms(first.unwrap_or(watched) - killed),
        gap_ms: ms(longest_gap(&acks, before, watched)),
        terms: terms as f64,
        lookup_ms: ms(lookup),
    })
}

/// The longest time without an acknowledgement.
pub(super) fn longest_gap(acks: &[Ack], from: Instant, to: Instant) -> Duration {
    let mut times: Vec<Instant> = acks.iter().map(|ack| ack.acked).filter(|at| (from..=to).contains(at)).collect();
    times.extend([from, to]);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Local lookups at some replicas, one after the other.
pub(super) struct Lookups {
    stop: Arc<AtomicBool>,
    slowest: Arc<Mutex<Duration>>,
    tasks: JoinSet<()>,
}

impl Lookups {
    pub(super) fn start(stage: &Stage, endpoints: &[Endpoint]) -> Self {
        let (stop, slowest) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Duration::ZERO)));
        let mut tasks = JoinSet::new();
        let keys = stage.keys(0);
        let keys: Vec<_> = (0..LOOKUP_KEYS).map(|number| keys.page(number)).collect();
        let request = m::LookupRequest {
            namespace_id: stage.namespace_id(0),
            keys: foreword_proto::key::page_keys_to_wire(&keys),
            every_key: true,
            ..Default::default()
        };
        for endpoint in endpoints {
            let replica = clients::replica(endpoint);
            let (stop, slowest, request) = (stop.clone(), slowest.clone(), request.clone());
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let took = answered(&replica, &request).await;
                    {
                        let mut slowest = slowest.lock();
                        *slowest = took.max(*slowest);
                    }
                    sleep(LOOKUP_PAUSE).await;
                }
            });
        }
        Self { stop, slowest, tasks }
    }

    /// The slowest of them.
    pub(super) async fn finish(mut self) -> anyhow::Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(*self.slowest.lock())
    }
}

/// How long it takes until a lookup is answered. One that fails is tried again: whoever asked still waits.
async fn answered(replica: &Replica, request: &m::LookupRequest) -> Duration {
    let from = Instant::now();
    while from.elapsed() < LOOKUP_TIMEOUT {
        let mut replica = replica.clone();
        if let Ok(Ok(_)) = tokio::time::timeout(LOOKUP_TIMEOUT, replica.lookup(request.clone())).await {
            break;
        }
        sleep(LOOKUP_PAUSE).await;
    }
    from.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_gap_is_between_two_acknowledgements_or_at_an_end() {
        let from = Instant::now();
        let at = |ms| from + Duration::from_millis(ms);
        let acks: Vec<Ack> = [10, 500, 20]
            .map(|ms| Ack { submitted: from, acked: at(ms), first: 0, pages: 1, revision: 1 })
            .into_iter()
            .collect();
        assert_eq!(longest_gap(&acks, from, at(600)), Duration::from_millis(480));
        assert_eq!(longest_gap(&acks, from, at(2000)), Duration::from_millis(1500));
        assert_eq!(longest_gap(&[], from, at(7)), Duration::from_millis(7));
    }
}
