//! The command line.

use std::ops::Range;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Parser};

use crate::profiles::{PROFILES, Profile};
use crate::run::SECONDS_MIN;

const EXAMPLES: &str = "\
Examples:
  sim --seed 7                                 one seed; --trace prints every line of it
  sim --seeds 0..200 --all-must-be-seen        a swarm, what it did, and whether it reached every fault and marker
  sim --shrink 7                               a smaller schedule of faults that breaks the same invariant

Exit codes:
  0  nothing was violated
  1  something was violated, not seen, or hit too seldom
  2  a flag or a file is wrong";

/// Simulates whole Foreword clusters, each from one number
#[derive(Debug, Parser)]
#[command(name = "sim", after_help = EXAMPLES)]
#[command(group = ArgGroup::new("what").required(true).args(["seed", "seeds", "shrink", "list"]))]
pub(super) struct Args {
    /// Run this seed
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Run these seeds, and sum up
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    pub(super) seeds: Option<Range<u64>>,
    /// Find a smaller schedule of faults with which this seed violates the same invariant
    #[arg(long, value_name = "N")]
    pub(super) shrink: Option<u64>,
    /// List profiles, invariants, kinds of faults and markers
    #[arg(long)]
    pub(super) list: bool,
    /// Instead of the seed's own
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(PROFILES.iter().map(|profile| profile.name)))]
    profile: Option<String>,
    /// Simulated seconds a seed
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(SECONDS_MIN..=86_400))]
    pub(super) seconds: u64,
    /// Plant a fault in a seam that an invariant must catch
    #[arg(long, value_name = "NAME")]
    pub(super) canary: Option<String>,
    /// A JSON list of faults instead of the seed's own, as --shrink writes it
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    pub(super) schedule: Option<PathBuf>,
    /// Threads [default: one a core]
    #[arg(long, value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Print every line of the trace to stderr
    #[arg(long, conflicts_with_all = ["seeds", "shrink", "list"])]
    pub(super) trace: bool,
    /// Print an object a seed, and for --seeds the summary's at the end
    #[arg(long, conflicts_with_all = ["shrink", "list"])]
    pub(super) json: bool,
    /// Fail when a kind of fault or a marker was never seen
    #[arg(long, conflicts_with_all = ["seed", "shrink", "list"])]
    pub(super) all_must_be_seen: bool,
    /// How long --shrink may take
    #[arg(long, value_name = "MINUTES", default_value_t = 5)]
    pub(super) minutes: u64,
    /// Where --shrink writes the schedule [default: a file in the folder for temporary ones]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "seeds", "list"])]
    pub(super) out: Option<PathBuf>,
}

impl Args {
    /// The profile with which a seed runs.
    pub(super) fn profile(&self, seed: u64) -> &'static Profile {
        self.profile.as_deref().and_then(Profile::named).unwrap_or_else(|| Profile::of(seed))
    }

    /// Threads that run seeds.
    pub(super) fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or_else(cores, usize::from)
    }
}

/// `A..B`: from A, without B.
fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parts = text.split_once("..").ok_or("expected A..B")?;
    let number = |part: &str| part.parse::<u64>().map_err(|error| format!("{part:?}: {error}"));
    let range = number(parts.0)?..number(parts.1)?;
    if range.is_empty() { Err(format!("{text} has no seed in it: B is not among them")) } else { Ok(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("sim").chain(line.split_whitespace()))
    }

    #[test]
    fn seeds_are_a_range_that_is_not_empty() {
        assert_eq!(seeds("3..5"), Ok(3..5));
        for wrong in ["5", "5..5", "6..5", "a..5", "5..-1", "1..2..3"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_seed_runs_with_its_own_profile_unless_one_is_named() {
        assert_eq!(parsed("--seed 3").unwrap().profile(3).name, Profile::of(3).name);
        assert_eq!(parsed("--seed 3 --profile calm").unwrap().profile(3).name, "calm");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "",
            "--seed 1 --seeds 1..2",
            "--seed 1 --profile none",
            "--seed 1 --seconds 2",
            "--seeds 1..2 --trace",
            "--seeds 1..2 --schedule x",
            "--seed 1 --all-must-be-seen",
            "--shrink 1 --json",
            "--shrink 1 --trace",
            "--seed 1 --out x",
            "--list --trace",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
