//! One seed, from its first process to its verdict.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use foreword_seams::{Telemetry, sometimes};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::cluster::{Cluster, Seams};
use crate::faults::{Fault, Shape, generate};
use crate::history::{History, SharedHistory, Totals};
use crate::observe::{LIVENESS_BOUND, Observer};
use crate::profiles::Profile;
use crate::workload::{self, ClientParts, Load};
use crate::world::context::{self, Kind, SimTime};
use crate::world::{interpose, logs};

/// Clients and faults begin after this.
const WARM_UP_MS: u64 = 1_500;
/// Checks look at the cluster so often; at the end they look at everything.
const LOOK_EVERY_MS: u64 = 10;
/// A simulation that does not get through one quantum in this time of the real clock hangs.
const HANG: Duration = Duration::from_secs(20);
/// Lines that a report shows.
const LINES_SHOWN: usize = 120;

/// What to run.
#[derive(Clone)]
pub struct Options {
    pub seed: u64,
    pub profile: &'static Profile,
    /// Simulated seconds, at least [`SECONDS_MIN`].
    pub seconds: u64,
    /// Print each line of the trace.
    pub print: bool,
    /// The schedule; None: the seed's.
    pub schedule: Option<Vec<Fault>>,
    /// What a planted fault replaces.
    pub seams: Seams,
    /// Go on after a violation.
    pub to_the_end: bool,
    /// The data parcel whose first byte is changed.
    pub damage_parcel: Option<u64>,
}

/// Fewer simulated seconds leave no time for faults and for healing.
pub const SECONDS_MIN: u64 = 20;

/// How a run is divided, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phases {
    /// All faults are over.
    pub healed: u64,
    /// The load stops, and the last reads begin.
    pub load_ends: u64,
    pub end: u64,
}

impl Phases {
    /// Faults first, then room for leases and rests to end and for the last reads.
    pub fn of(seconds: u64) -> Self {
        let end = seconds * 1000;
        let tail = (end / 4).clamp(12_000, 15_000);
        Self { healed: end - tail, load_ends: end - tail + 1_500, end }
    }
}

impl Options {
    /// A seed as it runs by default.
    pub fn new(seed: u64, profile: &'static Profile, seconds: u64) -> Self {
        Self {
            seed,
            profile,
            seconds: seconds.max(SECONDS_MIN),
            print: false,
            schedule: None,
            seams: Seams::default(),
            to_the_end: false,
            damage_parcel: None,
        }
    }

    /// The faults of the seed.
    pub fn drawn_schedule(&self) -> Vec<Fault> {
        let phases = Phases::of(self.seconds);
        let Profile { replicas, agents, mix, .. } = self.profile;
        let shape = Shape { replicas: *replicas, agents: *agents, from_ms: WARM_UP_MS, until_ms: phases.healed };
        generate(self.seed, mix, shape)
    }
}

/// An invariant that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    pub invariant: String,
    pub at_ms: u64,
    pub detail: String,
}

/// What became of a seed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seed: u64,
    pub profile: &'static str,
    pub simulated_s: u64,
    pub wall_ms: u64,
    pub violations: Vec<Broken>,
    pub trace_digest: String,
    pub events: u64,
    /// Entries of the log.
    pub committed: u64,
    pub totals: Totals,
    /// The median time of a put whose pages were all published; 0: there was none.
    pub put_ms_p50: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub markers: BTreeMap<&'static str, u64>,
    pub schedule: Vec<Fault>,
    /// The last lines of the trace, when something was violated.
    pub lines: Vec<String>,
}

impl Report {
    /// The simulation has no end to report of: it hangs, or the simulator itself broke.
    fn cut_short(options: &Options, invariant: &str, at_ms: u64, detail: String) -> Self {
        Self {
            seed: options.seed,
            profile: options.profile.name,
            simulated_s: options.seconds,
            wall_ms: 0,
            violations: vec![Broken { invariant: invariant.to_owned(), at_ms, detail }],
            trace_digest: String::new(),
            events: 0,
            committed: 0,
            totals: Totals::default(),
            put_ms_p50: 0,
            faults: BTreeMap::new(),
            markers: BTreeMap::new(),
            schedule: options.schedule.clone().unwrap_or_else(|| options.drawn_schedule()),
            lines: Vec::new(),
        }
    }
}

/// Runs a seed on a thread of its own. One that makes no progress is reported as a hang, and its thread is left behind.
pub fn simulate(options: Options) -> Report {
    logs::catch_panics();
    // Its first use measures how fast this machine's cycle counter runs, which takes a clock that moves.
    drop(Telemetry::new());
    let asked = options.clone();
    #[expect(clippy::disallowed_methods, reason = "how long the machine takes, outside of the simulation")]
    let begun = Instant::now();
    let progress = Arc::new(AtomicU64::new(0));
    let (done, report) = mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("seed-{}", asked.seed)).stack_size(16 << 20);
    let stepped = progress.clone();
    let simulation = move || {
        // The metrics' recorder stamps what it is told by the cycle counter, unless it is given a clock; nobody asks
        // for the stamps.
        let (still, _) = quanta::Clock::mock();
        done.send(quanta::with_clock(&still, || run(options, &stepped)))
    };
    thread.spawn(simulation).expect("a thread for the simulation");
    let mut reached = 0;
    loop {
        match report.recv_timeout(HANG) {
            Ok(mut report) => {
                report.wall_ms = begun.elapsed().as_millis() as u64;
                return report;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let now = progress.load(Ordering::Relaxed);
                if now == reached {
                    let detail =
                        format!("a host has not given its turn back for {HANG:?}: it waits for a lock, or spins");
                    return Report::cut_short(&asked, "no-hangs", now, detail);
                }
                reached = now;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let detail = "the simulator itself panicked; stderr has its message".to_owned();
                return Report::cut_short(&asked, "no-panics", progress.load(Ordering::Relaxed), detail);
            }
        }
    }
}

fn run(options: Options, progress: &AtomicU64) -> Report {
    context::begin(options.seed, options.print);
    interpose::forbid_cycle_counter();
    let _logs = logs::capture(options.print);
    let schedule = options.schedule.clone().unwrap_or_else(|| options.drawn_schedule());
    let phases = Phases::of(options.seconds);
    let mut cluster = Cluster::start(options.profile.plan(options.seams.clone()), schedule.clone());
    // What was taken while the disks were filled was taken before the run.
    sometimes::reset();
    progress.fetch_add(1, Ordering::Relaxed);
    if let Some(number) = options.damage_parcel {
        cluster.network.damage_parcel(number);
    }
    let clients = Clients::start(&options, &cluster);
    let settings = options.profile.settings();
    let believed = options.seams.settings.as_ref().unwrap_or(&settings);
    let mut observer = Observer::new(&settings, believed, options.profile.agents, cluster.generated());
    let end = SimTime::from_millis(phases.end);
    while context::now() < end {
        if cluster.fault_is_next() {
            // What a fault destroys must have been seen before.
            observer.look(&cluster, &clients.history.lock(), context::now());
        }
        cluster.step();
        progress.fetch_add(1, Ordering::Relaxed);
        clients.note(&cluster);
        let now = context::now();
        if observer.healed_since.is_none() && !cluster.faulty() && now.millis() >= phases.healed {
            observer.healed_since = Some(now);
        }
        if now.millis() == phases.load_ends {
            clients.finish(&cluster);
        }
        if observer.quiet_since.is_none() && clients.quiet.load(Ordering::Relaxed) {
            observer.quiet_since = Some(now);
        }
        if now.millis().is_multiple_of(LOOK_EVERY_MS) && observer.look(&cluster, &clients.history.lock(), now) {
            for found in observer.found() {
                context::event(Kind::Group, || format!("VIOLATION of {}", found.violation.name));
            }
            // The world goes on for a little: what broke first may break more.
            if !options.to_the_end {
                break;
            }
        }
    }
    observer.finish(&cluster, &clients.history.lock(), context::now());
    let history = clients.history.lock();
    report(&options, schedule, &cluster, &history, &observer)
}

/// The clients' side of a run.
struct Clients {
    load: Load,
    parts: ClientParts,
    history: SharedHistory,
    /// Agents that came under the name of another, and have an engine.
    twins: Cell<usize>,
    incarnations: Arc<Mutex<Vec<u64>>>,
    stop: watch::Sender<bool>,
    /// The load has ended.
    ended: Arc<Notify>,
    /// Nobody calls anything any more.
    quiet: Arc<AtomicBool>,
    /// Keys of the last reads of which nothing could be learned, and what the probe says.
    unanswered: Arc<Mutex<(usize, Option<String>)>>,
}

impl Clients {
    fn start(options: &Options, cluster: &Cluster) -> Self {
        let history = History::shared();
        let incarnations = Arc::new(Mutex::new(cluster.agent_incarnations()));
        let of = incarnations.clone();
        let parts = ClientParts {
            net: cluster.clients_net(),
            seed: options.seed,
            agents: cluster.agent_endpoints(),
            replicas: cluster.replica_endpoints(),
            page_servers: cluster.page_servers(),
            incarnation: Arc::new(move |agent| of.lock().get(agent as usize).copied().unwrap_or(0)),
            history: history.clone(),
        };
        let (stop, stopped) = watch::channel(false);
        let ended = Arc::new(Notify::new());
        let load = (options.profile.load)();
        let (played, run, end) = (load.clone(), parts.clone(), ended.clone());
        cluster.spawn_client(async move {
            workload::run(played, run, stopped).await;
            end.notify_one();
        });
        let (twins, quiet, unanswered) = (Cell::new(0), Arc::default(), Arc::default());
        Self { load, parts, history, twins, incarnations, stop, ended, quiet, unanswered }
    }

    fn note(&self, cluster: &Cluster) {
        let now = cluster.agent_incarnations();
        let mut known = self.incarnations.lock();
        if *known != now {
            *known = now;
        }
        drop(known);
        let twins = cluster.twin_endpoints();
        for number in self.twins.replace(twins.len())..twins.len() {
            let agents = [&self.parts.agents[..], &twins[..=number]].concat();
            let parts = ClientParts { agents, ..self.parts.clone() };
            let client = workload::FIRST_VISITOR + number as u32;
            cluster.spawn_client(workload::visit(self.load.clone(), parts, client, self.stop.subscribe()));
        }
    }

    /// Stops the load; then every agent is probed and everything acknowledged is read again.
    fn finish(&self, cluster: &Cluster) {
        self.stop.send_replace(true);
        let load = self.load.clone();
        // The members of now: one may have been replaced.
        let parts = ClientParts {
            replicas: cluster.replica_endpoints(),
            page_servers: cluster.page_servers(),
            ..self.parts.clone()
        };
        let (ended, quiet, unanswered) = (self.ended.clone(), self.quiet.clone(), self.unanswered.clone());
        cluster.spawn_client(async move {
            ended.notified().await;
            let probed = workload::probe(&load, parts.clone(), LIVENESS_BOUND).await;
            let unread = workload::final_reads(&load, parts.clone()).await;
            if load.page_engines > 0 {
                workload::page_files::finish(parts.clone(), LIVENESS_BOUND).await;
            }
            *unanswered.lock() = (unread, probed.err());
            parts.history.lock().close();
            quiet.store(true, Ordering::Relaxed);
        });
    }
}

fn report(
    options: &Options,
    schedule: Vec<Fault>,
    cluster: &Cluster,
    history: &History,
    observer: &Observer,
) -> Report {
    let mut violations: Vec<Broken> = observer
        .found()
        .iter()
        .map(|found| Broken {
            invariant: found.violation.name.to_owned(),
            at_ms: found.at.millis(),
            detail: found.violation.detail.clone(),
        })
        .collect();
    for panic in logs::panics() {
        let at_ms = context::now().millis();
        violations.push(Broken { invariant: "no-panics".to_owned(), at_ms, detail: panic });
    }
    let trace = context::trace();
    let first = trace.lines.len().saturating_sub(if violations.is_empty() { 0 } else { LINES_SHOWN });
    let mut markers: BTreeMap<&'static str, u64> =
        sometimes::counts().iter().map(|(marker, count)| (marker.name(), count)).collect();
    markers.extend(cluster.effects());
    markers.extend(observer.page_effects());
    markers.extend(observer.sightings());
    markers.insert("resync-of-many-buckets", history.resyncs_of_many_buckets);
    markers.insert("pages-reserve-retried", history.page_files.reserves_retried);
    markers.insert("pages-reservation-shared", history.page_files.reservations_shared);
    Report {
        seed: options.seed,
        profile: options.profile.name,
        simulated_s: options.seconds,
        wall_ms: 0,
        violations,
        trace_digest: format!("{:032x}", trace.digest),
        events: trace.events,
        committed: observer.committed(),
        totals: history.totals.clone(),
        put_ms_p50: history.put_ms_p50(),
        faults: cluster.faults_seen.clone(),
        markers,
        schedule,
        lines: trace.lines[first.min(trace.lines.len())..].to_vec(),
    }
}
