//! A short swarm through every profile: no violation, hits in each of them, and no two seeds the same run.

use std::collections::BTreeMap;

use foreword_sim::cli::case::{Case, commit};
use foreword_sim::cli::parallel::in_order;
use foreword_sim::cli::summary::Summary;
use foreword_sim::cli::verdict::Verdict;
use foreword_sim::profiles::{PROFILES, Profile};
use foreword_sim::run::{SECONDS_MIN, simulate};

const SEEDS: u64 = 100;

fn case(seed: u64) -> Case {
    Case::new(seed, Profile::of(seed), SECONDS_MIN)
}

#[test]
fn a_hundred_seeds_violate_nothing_and_are_a_hundred_runs() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut summary = Summary::default();
    let mut digests: BTreeMap<String, u64> = BTreeMap::new();
    let mut bad = Vec::new();
    let work = |seed| simulate(case(seed).options().unwrap());
    in_order(0..SEEDS, jobs, work, |seed, report| {
        summary.add(&report);
        if !report.violations.is_empty() {
            eprintln!("{}\n", Verdict { case: &case(seed), report: &report, commit: &commit() });
            bad.push(format!("{} violates {}", case(seed), report.violations[0].invariant));
        }
        if let Some(other) = digests.insert(report.trace_digest, seed) {
            bad.push(format!("seeds {other} and {seed} have one digest"));
        }
    });
    eprintln!("{summary}");
    assert!(bad.is_empty(), "replay:\n{}", bad.join("\n"));
    assert_eq!(summary.wrong(false), Vec::<String>::new());
    assert_eq!(summary.profiles.len(), PROFILES.len());
}
