//! A slow disk is no dead leader: syncs that take long cost time and no election, unless they are the leader's alone.

use foreword_sim::faults::{Fault, FaultKind};
use foreword_sim::profiles::Profile;
use foreword_sim::run::{Options, Phases, Report, simulate};
use foreword_sim::workload::{Load, Prompts};

const PAGES: u32 = 32;
/// The group has begun by then.
const FROM_MS: u64 = 500;
/// For the end of a run, when nothing is wrong any more.
const TAIL_S: u64 = 16;

/// One engine that puts one new prompt after the other, and waits for each.
fn whole_prompts() -> Load {
    Load {
        name: "whole-prompts".into(),
        l3_bytes: 128 << 20,
        slab_bytes: 2 << 20,
        engines: 1,
        think_ms: (10, 50),
        prompts: Prompts::Fresh { pages: PAGES },
        no_wait_percent: 0,
        cut_percent: 0,
        away_percent: 0,
        linearizable_percent: 0,
        ..Load::shared_prefixes()
    }
}

/// Nothing goes wrong but this, for so many seconds and as long as anything is put.
fn run(kind: FaultKind, seconds: u64) -> Report {
    let calm = Profile::named("calm").unwrap();
    let profile = Box::leak(Box::new(Profile { load: whole_prompts, agents: 1, ..*calm }));
    let mut options = Options::new(1, profile, seconds + TAIL_S);
    let lasts_ms = Phases::of(options.seconds).load_ends - FROM_MS;
    assert!(lasts_ms >= seconds * 1_000);
    options.schedule = Some(vec![Fault { at_ms: FROM_MS, lasts_ms, kind }]);
    let report = simulate(options);
    assert_eq!(report.violations, [], "nothing is lost");
    report
}

/// Of a publish: the log's and the mark's, at the leader and then at a follower. `make test-slow-disk` measures it
/// alone.
const SYNCS_OF_A_PUBLISH: u64 = 4;
/// A put's pages reach L3 one after the other. The first ones are published at once, more are right behind, and the
/// rest wait until the first are through, since four entries are under way.
const PUBLISHES_OF_A_PUT: u64 = 3;

#[test]
fn syncs_of_60_ms_everywhere_cause_no_election_and_a_put_takes_three_publishes_at_most() {
    const SYNC_MS: u64 = 60;
    let report = run(FaultKind::SlowDisks(SYNC_MS), 60);
    let puts = report.totals.pages_published / u64::from(PAGES);
    eprintln!("{puts} puts of {PAGES} pages, median {} ms", report.put_ms_p50);
    assert_eq!(report.markers["election-won"], 1, "the one with which the group began");
    assert!(puts > 100, "{puts}");
    let (least, most) = (SYNCS_OF_A_PUBLISH * SYNC_MS, PUBLISHES_OF_A_PUT * SYNCS_OF_A_PUBLISH * SYNC_MS);
    assert!((least..most).contains(&report.put_ms_p50), "{} ms", report.put_ms_p50);
}

#[test]
fn a_leader_whose_syncs_alone_take_300_ms_is_replaced() {
    let report = run(FaultKind::SlowLeaderDisk(300), 20);
    assert!(report.markers["slow-leader-yielded"] > 0 && report.markers["election-won"] == 2, "{:?}", report.markers);
}
