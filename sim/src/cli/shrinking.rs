//! `--shrink`.

use std::path::PathBuf;
use std::time::Duration;

use super::args::Args;
use super::case::{Case, write_schedule};
use super::say;
use crate::faults::Fault;
use crate::run::{Options, simulate};
use crate::shrink::{Shrinker, Shrunk};

/// Shrinks the schedule of a seed. False when it violates nothing.
pub(super) fn run(case: &Case, args: &Args) -> anyhow::Result<bool> {
    let options = case.options()?;
    let schedule = options.schedule.clone().unwrap_or_else(|| options.drawn_schedule());
    let Some(broken) = simulate(options.clone()).violations.into_iter().next() else {
        say(format_args!("seed {} of profile {} violates nothing", case.seed, case.profile.name));
        return Ok(false);
    };
    eprintln!("{} faults violate {}; looking for fewer", schedule.len(), broken.invariant);
    let begun = super::now();
    let limit = Duration::from_secs(args.minutes * 60);
    let shrinker = Shrinker {
        fails: &|faults| violates(&options, faults, &broken.invariant),
        jobs: args.jobs(),
        time_is_over: &|| begun.elapsed() >= limit,
        progress: &|found| tell(found, begun.elapsed()),
    };
    let shrunk = shrinker.shrink(&schedule);
    let path = args.out.clone().unwrap_or_else(|| file_of(case));
    write_schedule(&path, &shrunk.faults)?;
    let shrunk_case = Case { schedule: Some(path.clone()), ..case.clone() };
    let [before, after] = [schedule.len(), shrunk.faults.len()];
    let ended = if shrunk.to_the_end { "" } else { ", when the time was over" };
    say(format_args!(
        "{} is violated with {after} of {before} faults; {} schedules tried{ended}:",
        broken.invariant, shrunk.tried
    ));
    shrunk.faults.iter().for_each(|fault| say(format_args!("  {fault}")));
    say(format_args!("schedule: {}", path.display()));
    say(format_args!("replay: {shrunk_case}"));
    Ok(true)
}

fn violates(options: &Options, faults: &[Fault], invariant: &str) -> bool {
    let options = Options { schedule: Some(faults.to_vec()), print: false, ..options.clone() };
    simulate(options).violations.iter().any(|broken| broken.invariant == invariant)
}

fn tell(found: &Shrunk, after: Duration) {
    let lasting_ms: u64 = found.faults.iter().map(|fault| fault.lasts_ms).sum();
    let [count, tried, seconds] = [found.faults.len() as u64, found.tried as u64, after.as_secs()];
    eprintln!("{seconds:>4} s, {tried:>4} tried: {count} faults, {lasting_ms} ms of them");
}

fn file_of(case: &Case) -> PathBuf {
    std::env::temp_dir().join(format!("foreword-seed-{}-{}.json", case.seed, case.profile.name))
}
