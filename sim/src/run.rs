//! One seed, from its first process to its verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use foreword_seams::sometimes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::cluster::{Cluster, Seams};
use crate::faults::{Fault, Shape, generate};
use crate::history::{History, Totals};
use crate::invariants::{Checks, Violation};
use crate::profiles::Profile;
use crate::workload;
use crate::world::context::{self, SimTime};
use crate::world::logs;

/// Clients and faults begin after this.
const WARM_UP_MS: u64 = 1_500;
/// Checks look at the cluster so often; at the end they look at everything.
const LOOK_EVERY_MS: u64 = 10;
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
    /// The data parcel whose first byte is changed.
    pub damage_parcel: Option<u64>,
}

/// Fewer simulated seconds leave no time for faults and for healing.
pub const SECONDS_MIN: u64 = 16;

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
        let tail = (end / 4).clamp(8_500, 14_000);
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

/// What became of a seed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seed: u64,
    pub profile: &'static str,
    pub simulated_s: u64,
    pub wall_ms: u64,
    pub violations: Vec<Violation>,
    pub trace_digest: String,
    pub events: u64,
    pub totals: Totals,
    pub faults: BTreeMap<&'static str, u64>,
    pub markers: BTreeMap<&'static str, u64>,
    pub schedule: Vec<Fault>,
    /// The last lines of the trace, when something was violated.
    pub lines: Vec<String>,
}

/// Runs a seed on a thread of its own.
pub fn simulate(options: Options) -> Report {
    logs::catch_panics();
    let (seed, profile) = (options.seed, options.profile.name);
    let begun = Instant::now();
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).stack_size(16 << 20);
    let mut report = thread
        .spawn(move || run(options))
        .expect("a thread for the simulation")
        .join()
        .unwrap_or_else(|_| panic!("the simulator itself panicked: seed {seed}, profile {profile}"));
    report.wall_ms = begun.elapsed().as_millis() as u64;
    report
}

fn run(options: Options) -> Report {
    context::begin(options.seed, options.print);
    sometimes::reset();
    let level = if options.print { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let _logs = logs::capture(level);
    let schedule = options.schedule.clone().unwrap_or_else(|| options.drawn_schedule());
    let phases = Phases::of(options.seconds);
    let mut cluster = Cluster::start(options.profile.plan(options.seams.clone()), schedule.clone());
    if let Some(number) = options.damage_parcel {
        cluster.network.damage_parcel(number);
    }
    let history = Arc::new(Mutex::new(History::default()));
    let mut checks = Checks::new(options.profile.settings());
    let clients = Clients::start(&options, &cluster, &history);
    let mut final_reads = false;
    while context::now() < SimTime::from_millis(phases.end) {
        cluster.step();
        let now_ms = context::now().millis();
        clients.note_incarnations(&cluster);
        if now_ms == phases.load_ends && !final_reads {
            final_reads = true;
            clients.stop.cancel();
            clients.read_finally(&cluster);
        }
        if now_ms.is_multiple_of(LOOK_EVERY_MS) {
            checks.look(&cluster, &history.lock(), healed_at(&cluster, phases));
        }
    }
    checks.finish(&cluster, &history.lock(), phases.healed);
    report(&options, schedule, &cluster, &history.lock(), checks)
}
