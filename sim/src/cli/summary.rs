//! What a swarm did: per profile, and how often each kind of fault and each marker was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use foreword_seams::Marker;
use serde::Serialize;

use crate::faults::FaultKind;
use crate::run::Report;

/// Markers that a simulation cannot reach by construction, and why.
pub const MARKERS_NOT_EXPECTED: [(&str, &str); 11] = [
    (
        "proposal-queue-full",
        "4,096 calls would have to wait at one leader at once; put-refused-for-room is the agents' queue",
    ),
    ("namespace-dropped", "no simulated operator drops what engines use"),
    ("open-namespace-dropped", "as namespace-dropped"),
    ("page-file-dropped", "as namespace-dropped"),
    ("page-file-made-anew-resting", "as namespace-dropped"),
    ("replica-diverged", "it takes a replica that applies otherwise than the others, which no fault makes of it"),
    ("segment-replaced", "the simulated L3 answers late, but it answers; lost completions are tested on the stand-in"),
    ("segment-not-made", "a simulated machine has the memory; node/tests/agent/memory.rs takes it away"),
    (
        "snapshot-transfer-resumed",
        "a simulated snapshot crosses a link in milliseconds; meta/tests/group/snapshots.rs breaks one on its way",
    ),
    ("resync-awaited-turn", "a replica would have to resync nine streams at once"),
    ("watcher-dropped-stuck", "a stream's 8 MiB window takes more than a simulated minute's events"),
];

/// A profile that hits less says nothing about hits.
pub const HIT_PERCENT_MIN: f64 = 5.0;

/// Sums over the seeds of one profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OfProfile {
    pub seeds: u64,
    /// Seeds that violated something.
    pub violated: u64,
    /// Calls of clients.
    pub attempted: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub failed: u64,
    pub pages_published: u64,
    /// Keys that engines looked up, and those of them that they then got.
    pub keys_asked: u64,
    pub keys_hit: u64,
    /// Entries of the log.
    pub committed: u64,
    pub simulated_s: u64,
    /// Of the threads that ran it.
    pub wall_ms: u64,
}

impl OfProfile {
    /// Of a hundred keys that engines looked up, those that they got.
    pub fn hit_percent(&self) -> f64 {
        100.0 * self.keys_hit as f64 / self.keys_asked.max(1) as f64
    }

    fn add(&mut self, more: &Self) {
        let Self { seeds, violated, attempted, acknowledged, unknown, failed, .. } = more;
        self.seeds += seeds;
        self.violated += violated;
        self.attempted += attempted;
        self.acknowledged += acknowledged;
        self.unknown += unknown;
        self.failed += failed;
        self.pages_published += more.pages_published;
        self.keys_asked += more.keys_asked;
        self.keys_hit += more.keys_hit;
        self.committed += more.committed;
        self.simulated_s += more.simulated_s;
        self.wall_ms += more.wall_ms;
    }
}

impl From<&Report> for OfProfile {
    fn from(report: &Report) -> Self {
        let totals = &report.totals;
        Self {
            seeds: 1,
            violated: u64::from(!report.violations.is_empty()),
            attempted: totals.attempted,
            acknowledged: totals.acknowledged,
            unknown: totals.unknown,
            failed: totals.failed,
            pages_published: totals.pages_published,
            keys_asked: totals.keys_asked,
            keys_hit: totals.keys_hit,
            committed: report.committed,
            simulated_s: report.simulated_s,
            wall_ms: report.wall_ms,
        }
    }
}

/// How fast the machine simulated.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Speed {
    pub jobs: usize,
    pub wall_s: f64,
    /// Time that this process had of all cores together.
    pub cpu_s: f64,
    pub simulated_s_per_s: f64,
    pub simulated_s_per_core_s: f64,
}

/// Sums over a swarm.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub profiles: BTreeMap<&'static str, OfProfile>,
    pub all: OfProfile,
    /// How often each was seen, those that were not among them.
    pub faults: BTreeMap<&'static str, u64>,
    pub markers: BTreeMap<&'static str, u64>,
    pub speed: Speed,
    /// Seeds whose run another seed had: the seed does not reach what it should.
    pub repeated: u64,
    #[serde(skip)]
    digests: BTreeSet<String>,
}

/// The last object of `--json`.
#[derive(Serialize)]
pub(super) struct SummaryObject<'a> {
    summary: &'a Summary,
    hit_percent: BTreeMap<&'static str, f64>,
    commit: &'a str,
    /// Why the swarm failed.
    wrong: &'a [String],
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            profiles: BTreeMap::new(),
            all: OfProfile::default(),
            faults: FaultKind::NAMES.into_iter().map(|name| (name, 0)).collect(),
            markers: Marker::ALL.into_iter().map(|marker| (marker.name(), 0)).collect(),
            speed: Speed::default(),
            repeated: 0,
            digests: BTreeSet::new(),
        }
    }
}

impl Summary {
    /// Adds a seed.
    pub fn add(&mut self, report: &Report) {
        let of_seed = OfProfile::from(report);
        self.profiles.entry(report.profile).or_default().add(&of_seed);
        self.all.add(&of_seed);
        self.repeated += u64::from(!self.digests.insert(report.trace_digest.clone()));
        for (sums, counts) in [(&mut self.faults, &report.faults), (&mut self.markers, &report.markers)] {
            for (name, count) in counts {
                *sums.entry(name).or_default() += count;
            }
        }
    }

    /// How long all of it took.
    pub(super) fn took(&mut self, wall: Duration, cpu_s: f64, jobs: usize) {
        let simulated_s = self.all.simulated_s as f64;
        let wall_s = wall.as_secs_f64();
        let per = |seconds: f64| if seconds > 0.0 { simulated_s / seconds } else { 0.0 };
        self.speed = Speed { jobs, wall_s, cpu_s, simulated_s_per_s: per(wall_s), simulated_s_per_core_s: per(cpu_s) };
    }

    /// Why the swarm failed: nothing if it did not.
    pub fn wrong(&self, all_must_be_seen: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.all.violated > 0 {
            wrong.push(format!("{} of {} seeds violate an invariant", self.all.violated, self.all.seeds));
        }
        if self.repeated > 0 {
            wrong.push(format!("{} of {} seeds are the run of another seed", self.repeated, self.all.seeds));
        }
        for (name, profile) in &self.profiles {
            if profile.hit_percent() < HIT_PERCENT_MIN {
                let percent = profile.hit_percent();
                wrong.push(format!("profile {name} hits {percent:.1}% of its keys, less than {HIT_PERCENT_MIN}%"));
            }
        }
        if all_must_be_seen {
            wrong.extend(never("kinds of faults", &self.faults));
            wrong.extend(never("markers", &self.markers));
        }
        wrong
    }

    fn speed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Speed { jobs, wall_s, cpu_s, simulated_s_per_s, simulated_s_per_core_s } = self.speed;
        if jobs == 0 {
            return Ok(());
        }
        let simulated_s = self.all.simulated_s;
        write!(
            f,
            "\n{simulated_s} simulated seconds in {wall_s:.1} s on {jobs} threads: {simulated_s_per_s:.1} a second"
        )?;
        writeln!(f, "; {cpu_s:.1} s of cores' time: {simulated_s_per_core_s:.1} a second and core")
    }

    pub(super) fn object<'a>(&'a self, commit: &'a str, wrong: &'a [String]) -> SummaryObject<'a> {
        let hit_percent = self.profiles.iter().map(|(name, profile)| (*name, profile.hit_percent())).collect();
        SummaryObject { summary: self, hit_percent, commit, wrong }
    }
}

fn expected(name: &str) -> bool {
    MARKERS_NOT_EXPECTED.iter().all(|(other, _)| *other != name)
}

fn never(what: &str, counts: &BTreeMap<&'static str, u64>) -> Option<String> {
    let unseen = counts.iter().filter(|(name, count)| **count == 0 && expected(name));
    let unseen: Vec<&str> = unseen.map(|(name, _)| *name).collect();
    (!unseen.is_empty()).then(|| format!("{what} that were never seen: {}", unseen.join(", ")))
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16} {:>6} {:>8} {:>9} {:>12}", "profile", "seeds", "violated", "attempted", "acknowledged")?;
        write!(f, " {:>8} {:>7} {:>9} {:>9} {:>9}", "unknown", "failed", "published", "asked", "hit")?;
        writeln!(f, " {:>6} {:>9} {:>9}", "hit %", "committed", "simulated")?;
        let profiles = self.profiles.iter().map(|(name, profile)| (*name, profile));
        for (name, profile) in profiles.chain([("all", &self.all)]) {
            row(f, name, profile)?;
        }
        counts(f, "faults", &self.faults)?;
        counts(f, "markers", &self.markers)?;
        self.speed(f)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, of: &OfProfile) -> fmt::Result {
    write!(f, "{name:<16} {:>6} {:>8} {:>9} {:>12}", of.seeds, of.violated, of.attempted, of.acknowledged)?;
    write!(f, " {:>8} {:>7} {:>9} {:>9} {:>9}", of.unknown, of.failed, of.pages_published, of.keys_asked, of.keys_hit)?;
    writeln!(f, " {:>6.1} {:>9} {:>7} s", of.hit_percent(), of.committed, of.simulated_s)
}

fn counts(f: &mut fmt::Formatter<'_>, title: &str, counts: &BTreeMap<&'static str, u64>) -> fmt::Result {
    writeln!(f, "\n{title}:")?;
    for (name, count) in counts {
        let remark = match (*count, expected(name)) {
            (0, true) => "  never seen",
            (0, false) => "  not expected",
            _ => "",
        };
        writeln!(f, "  {name:<34} {count:>10}{remark}")?;
    }
    Ok(())
}

/// Time that this process had of all cores, in seconds; 0 where the kernel does not say.
pub(super) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    cpu_seconds_in(&stat).unwrap_or(0.0)
}

/// proc_pid_stat(5): after the name in parentheses, fields 14 and 15 are the time in user and in system mode, in ticks;
/// Linux shows 100 of them a second whatever its own tick is.
fn cpu_seconds_in(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut ticks = after_name.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    Some((ticks.next()?? + ticks.next()??) as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Totals;
    use crate::run::Broken;

    fn report(profile: &'static str, keys_hit: u64) -> Report {
        Report {
            seed: 1,
            profile,
            simulated_s: 20,
            wall_ms: 500,
            violations: Vec::new(),
            trace_digest: format!("{profile} {keys_hit}"),
            events: 9,
            committed: 30,
            put_ms_p50: 0,
            totals: Totals { attempted: 7, keys_asked: 100, keys_hit, ..Totals::default() },
            faults: FaultKind::NAMES.into_iter().map(|name| (name, 1)).collect(),
            markers: Marker::ALL.into_iter().map(|marker| (marker.name(), 2)).collect(),
            schedule: Vec::new(),
            lines: Vec::new(),
        }
    }

    #[test]
    fn seeds_add_up_by_profile_and_over_all() {
        let mut summary = Summary::default();
        [report("herd", 10), report("herd", 20), report("calm", 6)].iter().for_each(|report| summary.add(report));
        summary.took(Duration::from_secs(4), 6.0, 2);
        let herd = &summary.profiles["herd"];
        assert_eq!((herd.seeds, herd.attempted, herd.committed, herd.hit_percent()), (2, 14, 60, 15.0));
        assert_eq!((summary.all.seeds, summary.all.keys_hit, summary.all.simulated_s), (3, 36, 60));
        assert_eq!((summary.faults["crash"], summary.markers["l1-hit"]), (3, 6));
        assert_eq!((summary.speed.simulated_s_per_s, summary.speed.simulated_s_per_core_s), (15.0, 10.0));
        assert_eq!(summary.wrong(true), Vec::<String>::new());
    }

    #[test]
    fn a_swarm_fails_for_a_violation_for_few_hits_and_for_what_was_not_seen() {
        let mut bad = report("churn", 4);
        bad.violations.push(Broken { invariant: "x".to_owned(), at_ms: 1, detail: String::new() });
        bad.faults.remove("drift");
        bad.markers.insert("l3-torn-write", 0);
        let mut summary = Summary::default();
        summary.add(&bad);
        let wrong = summary.wrong(false);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("1 of 1 seeds") && wrong[1].contains("churn hits 4.0%"), "{wrong:?}");
        let wrong = summary.wrong(true);
        assert!(wrong[2].ends_with(": drift") && wrong[3].ends_with(": l3-torn-write"), "{wrong:?}");
        let text = summary.to_string();
        let row = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
        assert!(row("drift").ends_with("0  never seen") && row("crash").ends_with(" 1"), "{text}");
    }

    #[test]
    fn the_kernel_says_how_much_time_the_process_had() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 3 4";
        assert_eq!(cpu_seconds_in(stat), Some(3.0));
        assert_eq!(cpu_seconds_in("7 (a) S 1"), None);
        assert!(cpu_seconds_in(&std::fs::read_to_string("/proc/self/stat").unwrap()).is_some());
    }
}
