//! Seeds that once broke something, each with what it was.

use foreword_sim::cli::case::{Case, commit};
use foreword_sim::cli::verdict::Verdict;
use foreword_sim::profiles::Profile;
use foreword_sim::run::simulate;

struct Regression {
    seed: u64,
    profile: &'static str,
    seconds: u64,
    /// As `--shrink` wrote it; None: the seed's own.
    schedule: Option<&'static str>,
    /// What broke, and why.
    was: &'static str,
}

const REGRESSIONS: [Regression; 1] = [Regression {
    seed: 15,
    profile: "slow-watchers",
    seconds: 20,
    schedule: Some(
        r#"[{"at_ms":2825,"lasts_ms":1642,"kind":"L3Outage"},{"at_ms":3106,"lasts_ms":1718,"kind":{"DiskFull":2}}]"#,
    ),
    was: "promises-before-votes: a replica that was started again answered for entries that only the page cache had",
}];

#[test]
fn what_was_mended_stays_mended() {
    let mut again = Vec::new();
    for Regression { seed, profile, seconds, schedule, was } in &REGRESSIONS {
        let profile = Profile::named(profile).unwrap_or_else(|| panic!("seed {seed}: no profile {profile}"));
        let case = Case::new(*seed, profile, *seconds);
        let mut options = case.options().unwrap();
        options.schedule = schedule.map(|json| serde_json::from_str(json).unwrap());
        let report = simulate(options);
        if !report.violations.is_empty() {
            eprintln!("{}\n", Verdict { case: &case, report: &report, commit: &commit() });
            let with = schedule.map(|json| format!(" --schedule FILE, which has {json}")).unwrap_or_default();
            again.push(format!("{case}{with}\n  violates {}; it was {was}", report.violations[0].invariant));
        }
    }
    assert!(again.is_empty(), "replay:\n{}", again.join("\n"));
}
