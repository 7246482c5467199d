//! What `sim` does with its command line.

mod args;
mod canary;
pub mod case;
mod list;
pub mod parallel;
mod shrinking;
pub mod summary;
pub mod verdict;

use std::fmt::Display;
use std::io::Write as _;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use serde::Serialize;

use crate::run::{Report, simulate};
use args::Args;
use case::{Case, commit};
use summary::Summary;
use verdict::{Verdict, line};

/// The exit code when nobody reads what is printed: what a shell shows for SIGPIPE.
const OUTPUT_CLOSED: u8 = 141;

/// Does what the command line says.
pub fn run() -> ExitCode {
    match dispatch(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// True if nothing was found wrong.
fn dispatch(args: &Args) -> anyhow::Result<bool> {
    if args.list {
        list::print();
        return Ok(true);
    }
    if let Some(seed) = args.shrink {
        return shrinking::run(&args.case(seed), args);
    }
    match (args.seed, &args.seeds) {
        (Some(seed), _) => one(&args.case(seed), args),
        (None, Some(seeds)) => swarm(seeds.clone(), args),
        (None, None) => unreachable!("the command line has one of the four"),
    }
}

impl Args {
    fn case(&self, seed: u64) -> Case {
        Case {
            seed,
            profile: self.profile(seed),
            seconds: self.seconds,
            schedule: self.schedule.clone(),
            canary: self.canary.clone(),
        }
    }
}

/// An object of `--json`.
#[derive(Serialize)]
struct SeedObject<'a> {
    #[serde(flatten)]
    report: &'a Report,
    commit: &'a str,
    replay: String,
}

fn print_json(object: &impl Serialize) -> anyhow::Result<()> {
    say(serde_json::to_string(object)?);
    Ok(())
}

/// Prints a line. When nobody reads any more (`sim … | head`), there is nothing left to do: the process ends.
fn say(line: impl Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(i32::from(OUTPUT_CLOSED));
    }
}

fn one(case: &Case, args: &Args) -> anyhow::Result<bool> {
    let mut options = case.options()?;
    options.print = args.trace;
    let report = simulate(options);
    let fine = report.violations.is_empty();
    let commit = commit();
    if args.json {
        print_json(&SeedObject { report: &report, commit: &commit, replay: case.to_string() })?;
        return Ok(fine);
    }
    if !fine {
        say(Verdict { case, report: &report, commit: &commit });
    }
    say(line(&report));
    say(format_args!("trace digest {}", report.trace_digest));
    Ok(fine)
}

fn swarm(seeds: Range<u64>, args: &Args) -> anyhow::Result<bool> {
    // A wrong name is found before the first seed.
    args.case(seeds.start).options()?;
    let commit = commit();
    let begun = now();
    let cpu_before = summary::cpu_seconds();
    let mut summary = Summary::default();
    let mut printed = Ok(());
    let work = |seed| args.case(seed).options().map(simulate);
    parallel::in_order(seeds, args.jobs(), work, |seed, report| {
        let shown = report.and_then(|report| {
            summary.add(&report);
            show(&args.case(seed), &report, &commit, args.json)
        });
        if printed.is_ok() {
            printed = shown;
        }
    });
    printed?;
    summary.took(begun.elapsed(), summary::cpu_seconds() - cpu_before, args.jobs());
    let wrong = summary.wrong(args.all_must_be_seen);
    if args.json {
        print_json(&summary.object(&commit, &wrong))?;
    } else {
        say(format_args!("\n{summary}"));
        for what in &wrong {
            say(format_args!("FAILED: {what}"));
        }
    }
    Ok(wrong.is_empty())
}

fn show(case: &Case, report: &Report, commit: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&SeedObject { report, commit, replay: case.to_string() });
    }
    say(format_args!("{} trace digest {}", line(report), report.trace_digest));
    if !report.violations.is_empty() {
        say(Verdict { case, report, commit });
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "how long the machine takes, outside of every simulation")]
fn now() -> Instant {
    Instant::now()
}
