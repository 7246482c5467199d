//! What a reader sees of one seed.

use std::fmt;

use super::case::Case;
use crate::run::Report;

/// A seed in one line, without its digest.
pub fn line(report: &Report) -> String {
    let Report { seed, profile, simulated_s, wall_ms, totals, committed, .. } = report;
    let verdict = match report.violations.len() {
        0 => "ok".to_owned(),
        _ => format!("VIOLATED {}", names(report)),
    };
    format!(
        "seed {seed} {profile} {verdict}: {simulated_s} s in {wall_ms} ms, {} faults, {} calls, {} acknowledged, {} pages published, {:.0}% hits, {committed} entries,",
        report.faults.values().sum::<u64>(),
        totals.attempted,
        totals.acknowledged,
        totals.pages_published,
        totals.hit_percent(),
    )
}

fn names(report: &Report) -> String {
    let names: Vec<&str> = report.violations.iter().map(|broken| broken.invariant.as_str()).collect();
    names.join(", ")
}

/// Everything that is known of a seed with violations.
pub struct Verdict<'a> {
    pub case: &'a Case,
    pub report: &'a Report,
    pub commit: &'a str,
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, report, commit } = self;
        if !report.lines.is_empty() {
            writeln!(f, "the last lines of the trace:")?;
            report.lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        writeln!(f, "the schedule of faults:")?;
        report.schedule.iter().try_for_each(|fault| writeln!(f, "  {fault}"))?;
        writeln!(f, "seed {} of profile {} at commit {commit} violates", report.seed, report.profile)?;
        for broken in &report.violations {
            let at_ms = broken.at_ms;
            writeln!(f, "  {} at {}.{:03}s: {}", broken.invariant, at_ms / 1000, at_ms % 1000, broken.detail)?;
        }
        write!(f, "replay: {case}")
    }
}
