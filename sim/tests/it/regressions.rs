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

const REGRESSIONS: [Regression; 16] = [
    Regression {
        seed: 0,
        profile: "shared-prefixes",
        seconds: 24,
        schedule: None,
        was: "no-hangs: an agent's lock was taken again by its holder when L3's breaker refused a write; \
              node/tests/agent/faults.rs has it alone",
    },
    Regression {
        seed: 15,
        profile: "slow-watchers",
        seconds: 20,
        schedule: Some(
            r#"[{"at_ms":2825,"lasts_ms":1642,"kind":"L3Outage"},{"at_ms":3106,"lasts_ms":1718,"kind":{"DiskFull":2}}]"#,
        ),
        was: "promises-before-votes: a replica that was started again answered for entries that only the page cache had; \
              meta/tests/storage/store.rs has it alone",
    },
    Regression {
        seed: 34,
        profile: "shards",
        seconds: 20,
        schedule: Some(r#"[{"at_ms":1660,"lasts_ms":246,"kind":{"OneWayCut":[{"Replica":1},{"Agent":1}]}}]"#),
        was: "mirror-equals-state: the simulator's own: what was on its way when a cut ended passed what the cut had held",
    },
    Regression {
        seed: 74,
        profile: "shards",
        seconds: 24,
        schedule: None,
        was: "promises-before-votes: the same, where it was found",
    },
    Regression {
        seed: 224,
        profile: "shards",
        seconds: 24,
        schedule: None,
        was: "linearizable-reads-are: a leader that was started again led on in its old term, and its reads missed what it had \
              committed last",
    },
    Regression {
        seed: 2,
        profile: "shards",
        seconds: 40,
        schedule: Some(REJOIN),
        was: "replicas-agree: a replica that lost its log followed an old leader that it had turned away from, which then \
              committed over what was committed; docs/adr/0005-rejoining.md",
    },
    Regression {
        seed: 277,
        profile: "power",
        seconds: 30,
        schedule: None,
        was: "liveness: a replica that had just joined when it lost its log knew nobody to ask",
    },
    Regression {
        seed: 102,
        profile: "churn",
        seconds: 20,
        schedule: None,
        was: "nothing-leaks: a late write during a stall landed after the run; the simulator's own",
    },
    Regression {
        seed: 168,
        profile: "five-replicas",
        seconds: 60,
        schedule: None,
        was: "promises-before-votes: a replaced leader's matches counted as promises; the simulator's own",
    },
    Regression {
        seed: 2481,
        profile: "herd",
        seconds: 20,
        schedule: None,
        was: "replicas-agree: the reference took the entry of the latest term for the committed one; the simulator's own",
    },
    Regression {
        seed: 55,
        profile: "page-files",
        seconds: 40,
        schedule: None,
        was: "protected-pages-stand: a page that two engines wrote for one key was evicted when the first had confirmed it, under \
              the second one's hands; meta/src/hf3fs/office.rs has it alone",
    },
    Regression {
        seed: 19,
        profile: "page-files",
        seconds: 60,
        schedule: None,
        was: "promises-before-votes: an entry committed by a membership that was appended and not applied yet; the simulator's own",
    },
    Regression {
        seed: 30,
        profile: "members",
        seconds: 24,
        schedule: Some(NAME_OF_THE_REMOVED),
        was: "liveness: a leader connected to a member by a stale name; that one answered there for ever, and the removed replica was \
              not taken in again; meta/tests/group/newcomers.rs has it alone",
    },
    Regression {
        seed: 14,
        profile: "members",
        seconds: 24,
        schedule: Some(NAME_OF_THE_LEADER),
        was: "liveness: the same, between a replica that started and its leader: it was never ready",
    },
    Regression {
        seed: 63,
        profile: "members",
        seconds: 24,
        schedule: Some(NOBODY_BEFORE_A_LOSS),
        was: "liveness: an address where nobody is held up the replacement of a lost replica; meta/tests/group/newcomers.rs has it alone",
    },
    Regression {
        seed: 39,
        profile: "members",
        seconds: 24,
        schedule: Some(r#"[{"at_ms":5220,"lasts_ms":1136,"kind":{"EmptyDirectory":1}}]"#),
        was: "promises-before-votes: what the directory before had promised was expected of an empty one; the simulator's own",
    },
];

/// The old leader stands still while the others elect another; one of those loses its mark and comes back when the
/// other stands still and the old leader goes on.
const REJOIN: &str = r#"[
    {"at_ms":7864,"lasts_ms":7406,"kind":{"Pause":{"Replica":0}}},
    {"at_ms":9371,"lasts_ms":2848,"kind":{"MarkRot":2}},
    {"at_ms":9590,"lasts_ms":7546,"kind":{"DiskError":2}},
    {"at_ms":11909,"lasts_ms":3984,"kind":{"SplitGroup":1}},
    {"at_ms":15375,"lasts_ms":7988,"kind":{"Pause":{"Replica":1}}}
]"#;

/// A removed leader's name leads another replica to itself while it is taken in again, by whoever leads then.
const NAME_OF_THE_REMOVED: &str = r#"[
    {"at_ms":5955,"lasts_ms":1333,"kind":{"StaleName":[0,2,0]}},
    {"at_ms":5997,"lasts_ms":1122,"kind":{"StaleName":[0,1,0]}},
    {"at_ms":6663,"lasts_ms":380,"kind":{"ReplaceByLeader":1}},
    {"at_ms":7165,"lasts_ms":53,"kind":"RemoveLeader"},
    {"at_ms":7271,"lasts_ms":1217,"kind":{"Resets":[{"Agent":0},{"Replica":2}]}},
    {"at_ms":8367,"lasts_ms":1483,"kind":{"StaleName":[2,1,2]}},
    {"at_ms":9551,"lasts_ms":823,"kind":{"PowerCut":{"Agent":0}}}
]"#;

const NAME_OF_THE_LEADER: &str = r#"[
    {"at_ms":2699,"lasts_ms":4837,"kind":{"Crash":{"Replica":2}}},
    {"at_ms":4622,"lasts_ms":5134,"kind":{"StaleName":[2,0,1]}}
]"#;

const NOBODY_BEFORE_A_LOSS: &str = r#"[
    {"at_ms":9741,"lasts_ms":1860,"kind":{"EmptyDirectory":1}},
    {"at_ms":10826,"lasts_ms":86,"kind":"AddNobody"}
]"#;

/// Two tests, so that two cores share them.
#[test]
fn what_was_mended_stays_mended() {
    stays_mended(REGRESSIONS.iter().step_by(2));
}

#[test]
fn what_else_was_mended_stays_mended() {
    stays_mended(REGRESSIONS.iter().skip(1).step_by(2));
}

fn stays_mended<'a>(regressions: impl Iterator<Item = &'a Regression>) {
    let mut again = Vec::new();
    for Regression { seed, profile, seconds, schedule, was } in regressions {
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
