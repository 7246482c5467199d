//! Planted faults: bugs and broken parts that the checks must find, each put into a seam of an otherwise ordinary run.
//!
//! Neither meta nor node knows of them. A canary that no seed catches says that its invariant's check sees too little.

mod disks;
mod liars;
mod net;
mod pages;
mod tap;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foreword_meta::state::command::ClusterSettings;
use parking_lot::Mutex;

use crate::cluster::{EngineSeam, Lies};
use crate::profiles::Profile;
use crate::run::{Options, Report, simulate};
use disks::{Wrong, WrongEngine};
use tap::{Meddler, TappedNet};

/// A planted fault.
#[derive(Clone, Copy)]
pub struct Canary {
    pub name: &'static str,
    /// The name that a report must have.
    pub invariant: &'static str,
    /// What is planted.
    pub what: &'static str,
    /// The ordinary profile that shows it quickest; None: any.
    pub profile: Option<&'static str>,
    /// A seed of runs of 20 seconds that shows it: where tests begin.
    pub seed_hint: u64,
    pub plant: fn(&mut Options),
}

/// Every canary.
pub const CANARIES: &[Canary] = &[
    Canary {
        name: "swallows-confirms",
        invariant: "acknowledged-confirm-survives",
        what: "one in ten confirms of page files is acknowledged on its way, and goes nowhere",
        profile: Some("page-files"),
        seed_hint: 0,
        plant: |options| lie_to_page_engines(options, || pages::swallow_confirms(10)),
    },
    Canary {
        name: "acknowledges-early",
        invariant: "acknowledged-publish-survives",
        what: "a proxy beside each agent acknowledges publishes when it sends them on, not when they are committed",
        profile: Some("shared-prefixes"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "node", liars::acknowledge_early),
    },
    Canary {
        name: "half-an-entry",
        invariant: "entries-are-whole",
        what: "replicas' answers to lookups name the revision of the entry that is still being applied",
        profile: Some("shared-prefixes"),
        seed_hint: 2,
        plant: |options| at_hosts(options, "clients", liars::half_an_entry),
    },
    Canary {
        name: "group-goes-back",
        invariant: "generations-never-fall",
        what: "every disk's syncs make nothing durable: after a power cut of all, slots are granted again",
        profile: Some("power"),
        seed_hint: 20,
        plant: |options| lie_to_the_end(options),
    },
    Canary {
        name: "sessions-never-end",
        invariant: "grants-end",
        what: "each process of an agent opens its session under another name, and those of earlier ones are renewed for ever",
        profile: Some("herd"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "node", liars::renew_for_ever),
    },
    Canary {
        name: "asks-no-leader",
        invariant: "linearizable-reads-are",
        what: "lookups that ask to be linearizable are answered by whichever replica is asked, with what it has",
        profile: Some("clears"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "clients", liars::ask_no_leader),
    },
    Canary {
        name: "runs-out-of-sockets",
        invariant: "liveness",
        what: "an agent's host opens so many connections and no more: it leaks sockets",
        profile: Some("shared-prefixes"),
        seed_hint: 3,
        plant: |options| options.seams.net = Arc::new(net::leaks_sockets),
    },
    Canary {
        name: "withholds",
        invariant: "lookup-keeps-its-word",
        what: "one in a hundred answers to gets says of a page that it met an open breaker",
        profile: Some("shared-prefixes"),
        seed_hint: 6,
        plant: |options| at_hosts(options, "clients", || liars::withhold(100)),
    },
    Canary {
        name: "drops-an-event",
        invariant: "mirror-equals-state",
        what: "one in ten entries that agents are told of lacks its events",
        profile: Some("shared-prefixes"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "node", || liars::drop_events(10)),
    },
    Canary {
        name: NEEDS_LARGE,
        invariant: "mirror-equals-state",
        what: "of a resync of several buckets agents are never sent the last one",
        profile: Some("large"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "node", liars::skip_last_bucket),
    },
    Canary {
        name: "flips-a-bit",
        invariant: "never-wrong-bytes",
        what: "a bit of one in a hundred pieces of pages flips between the agent and its client",
        profile: Some("shared-prefixes"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "clients", || liars::flip_a_bit(100)),
    },
    Canary {
        name: "holds-a-rank-back",
        invariant: "no-room-held-while-waiting",
        what: "the second shard of one in ten puts never reaches its agent, as if its rank waited for room that the first one holds",
        profile: Some("shards"),
        seed_hint: 2,
        plant: |options| at_hosts(options, "clients", || liars::hold_a_rank_back(10)),
    },
    Canary {
        name: "copies-directories",
        invariant: "no-voter-unproven",
        what: "an empty data directory that is made for a member's id says that it is the one that the id belongs to",
        profile: Some("members"),
        seed_hint: 5,
        plant: |options| options.seams.copied_directories = true,
    },
    Canary {
        name: "commits-are-undone",
        invariant: "nothing-goes-back",
        what: "every disk's syncs make nothing durable: after a power cut of all, other entries are committed at old indexes",
        profile: Some("power"),
        seed_hint: 0,
        plant: |options| lie_to_the_end(options),
    },
    Canary {
        name: "rests-never-end",
        invariant: "nothing-leaks",
        what: "replicas apply commands as if slots rested for an hour",
        profile: Some("clears"),
        seed_hint: 0,
        plant: |options| {
            believe(options, |settings| (settings.read_rest_ms, settings.write_rest_ms) = (HOUR_MS, HOUR_MS))
        },
    },
    Canary {
        name: "reservations-never-end",
        invariant: "nothing-leaks",
        what: "replicas are configured with reservations of pages that last an hour",
        profile: Some("page-files"),
        seed_hint: 0,
        plant: |options| options.seams.meta = |config| config.hf3fs_reservation_ms = HOUR_MS,
    },
    Canary {
        name: "answers-for-others",
        invariant: "one-leader-acknowledges",
        what: "a proxy beside each replica says that others have appended before they were asked",
        profile: Some("shared-prefixes"),
        seed_hint: 0,
        plant: |options| {
            at_hosts(options, "meta", liars::append_for_others);
            options.to_the_end = true;
        },
    },
    Canary {
        name: "renews-alone",
        invariant: "one-leader-acknowledges",
        what: "a proxy beside the clients renews leases without asking anybody",
        profile: Some("deposed"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "clients", liars::renew_alone),
    },
    Canary {
        name: "pages-need-no-rest",
        invariant: "one-page-one-key",
        what: "replicas apply commands as if pages of page files need not rest",
        profile: Some("page-files"),
        seed_hint: 0,
        plant: |options| believe(options, |settings| settings.write_rest_ms = 0),
    },
    Canary {
        name: "no-rest",
        invariant: "one-slot-one-page",
        what: "replicas apply commands as if slots need not rest",
        profile: Some("churn"),
        seed_hint: 0,
        plant: |options| believe(options, |settings| (settings.read_rest_ms, settings.write_rest_ms) = (0, 0)),
    },
    Canary {
        name: "disks-lie",
        invariant: "promises-before-votes",
        what: "every disk's syncs make nothing durable",
        profile: None,
        seed_hint: 0,
        plant: |options| options.seams.lies = Lies::Always,
    },
    Canary {
        name: "skips-syncs",
        invariant: "promises-before-votes",
        what: "every other sync of one replica's log answers without having synced",
        profile: None,
        seed_hint: 0,
        plant: |options| options.seams.engine = on_one(Wrong::Syncs),
    },
    Canary {
        name: NEEDS_TWO,
        invariant: "promises-before-votes",
        what: "a disk that was slow once makes nothing durable from then on, and nobody sees it before its power is cut",
        profile: Some("power"),
        seed_hint: 4,
        plant: |options| options.seams.lies = Lies::AfterSlow,
    },
    Canary {
        name: "old-pages",
        invariant: "protected-pages-stand",
        what: "gets of page files that find no page are answered with the one that the key had two seconds ago",
        profile: Some("page-files"),
        seed_hint: 1,
        plant: |options| lie_to_page_engines(options, pages::old_pages),
    },
    Canary {
        name: "protects-shortly",
        invariant: "protected-pages-stand",
        what: "replicas protect pages for a tenth of what their readers were told",
        profile: Some("page-files"),
        seed_hint: 3,
        plant: |options| believe(options, |settings| settings.hf3fs_protection_ms /= 10),
    },
    Canary {
        name: "loses-commands",
        invariant: "replicas-agree",
        what: "one replica reads its log back without publishes, and with right checksums",
        profile: None,
        seed_hint: 1,
        plant: |options| options.seams.engine = on_one(Wrong::Entries),
    },
    Canary {
        name: "does-not-tell",
        invariant: "retires-are-told",
        what: "one in ten entries that watchers are told of lacks its events",
        profile: Some("churn"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "clients", || liars::drop_events(10)),
    },
    Canary {
        name: "old-revisions",
        invariant: "revisions-never-go-back",
        what: "one in twenty lookups of an agent is answered with the revision of some answers ago",
        profile: Some("shared-prefixes"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "clients", || liars::old_revisions(20)),
    },
    Canary {
        name: "mixes-writers",
        invariant: "whole-pages",
        what: "the second shard of one in ten puts is what another client would have written",
        profile: Some("shards"),
        seed_hint: 0,
        plant: |options| at_hosts(options, "clients", || liars::mix_writers(10)),
    },
];

/// The canary that takes two faults: what `--shrink` is shown with.
pub const NEEDS_TWO: &str = "needs-two";
/// The canary that shows in a large state only.
pub const NEEDS_LARGE: &str = "skips-the-last-bucket";
/// The replica whose log is wrong, where one is.
const ONE: &str = "meta-1";
const HOUR_MS: u64 = 3_600_000;

impl Canary {
    /// The canary of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CANARIES.iter().find(|canary| canary.name == name)
    }

    /// A seed of this canary's profile, without what is planted.
    pub fn options(&self, seed: u64, seconds: u64) -> Options {
        let profile = self.profile.and_then(Profile::named).unwrap_or_else(|| Profile::of(seed));
        Options::new(seed, profile, seconds)
    }

    /// A seed with what is planted.
    pub fn run(&self, seed: u64, seconds: u64) -> Report {
        let mut options = self.options(seed, seconds);
        (self.plant)(&mut options);
        simulate(options)
    }

    /// Whether the report names the expected invariant.
    pub fn is_named_in(&self, report: &Report) -> bool {
        report.violations.iter().any(|broken| broken.invariant == self.invariant)
    }
}

/// The first of these seeds whose report names the canary's invariant, with its report. Two run at a time.
pub fn hunt(canary: &Canary, seeds: Range<u64>, seconds: u64) -> Option<(u64, Report)> {
    const AT_ONCE: usize = 2;
    let next = AtomicU64::new(seeds.start);
    let caught: Mutex<Option<(u64, Report)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || caught.lock().as_ref().is_some_and(|(first, _)| *first < seed) {
                        return;
                    }
                    let report = canary.run(seed, seconds);
                    let mut caught = caught.lock();
                    if canary.is_named_in(&report) && caught.as_ref().is_none_or(|(first, _)| seed < *first) {
                        *caught = Some((seed, report));
                    }
                }
            });
        }
    });
    caught.into_inner()
}

/// The report of the same seed without what is planted: it should have no violation.
pub fn without(canary: &Canary, seed: u64, seconds: u64) -> Report {
    simulate(canary.options(seed, seconds))
}

/// Puts a man in the middle of every connection that hosts whose names begin so open.
fn at_hosts(options: &mut Options, names: &'static str, make: fn() -> Meddler) {
    options.seams.net = Arc::new(move |name, inner| match name.starts_with(names) {
        true => Arc::new(TappedNet { inner, meddler: make() }),
        false => inner,
    });
}

/// Puts a liar between the engines of page files and the replicas.
fn lie_to_page_engines(options: &mut Options, make: fn() -> pages::Liar) {
    options.seams.net = Arc::new(move |name, inner| match name {
        "clients" => Arc::new(pages::LyingNet { inner, liar: Arc::new(make()) }),
        _ => inner,
    });
}

/// Replicas apply commands by other settings than the cluster was initialised with.
fn believe(options: &mut Options, change: fn(&mut ClusterSettings)) {
    let mut settings = options.profile.settings();
    change(&mut settings);
    options.seams.settings = Some(settings);
}

/// One replica's engine is wrong.
fn on_one(wrong: Wrong) -> EngineSeam {
    Arc::new(move |name, inner| match name == ONE {
        true => Box::new(WrongEngine { inner, wrong, syncs: 0 }),
        false => inner,
    })
}

/// Every disk lies, and the run goes on when that is found: what is lost shows only after a power cut.
fn lie_to_the_end(options: &mut Options) {
    options.seams.lies = Lies::Always;
    options.to_the_end = true;
}
