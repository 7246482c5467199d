//! A short swarm through every profile: no violation, hits in each of them, and no two seeds the same run.

use foreword_sim::cli::case::{Case, commit};
use foreword_sim::cli::parallel::in_order;
use foreword_sim::cli::summary::Summary;
use foreword_sim::cli::verdict::Verdict;
use foreword_sim::profiles::{PROFILES, Profile};
use foreword_sim::run::{SECONDS_MIN, simulate};

/// Each profile twice, since one seed of it may hit little; `make sim` has the swarm, in a release build.
const SEEDS: u64 = 2 * PROFILES.len() as u64;

fn case(seed: u64) -> Case {
    Case::new(seed, Profile::of(seed), SECONDS_MIN)
}

#[test]
fn two_seeds_of_each_profile_violate_nothing_and_are_runs_of_their_own() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut summary = Summary::default();
    let mut bad = Vec::new();
    let work = |seed| simulate(case(seed).options().unwrap());
    in_order(0..SEEDS, jobs, work, |seed, report| {
        summary.add(&report);
        if !report.violations.is_empty() {
            eprintln!("{}\n", Verdict { case: &case(seed), report: &report, commit: &commit() });
            bad.push(format!("{} violates {}", case(seed), report.violations[0].invariant));
        }
    });
    eprintln!("{summary}");
    assert!(bad.is_empty(), "replay:\n{}", bad.join("\n"));
    assert_eq!(summary.wrong(false), Vec::<String>::new());
    assert_eq!(summary.profiles.len(), PROFILES.len());
}
