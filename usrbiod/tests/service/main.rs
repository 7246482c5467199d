//! The rings' service, driven through shared memory without FUSE.

mod client;
mod faults;
mod hostile;
mod lifetimes;
mod links;
mod rings;
mod rules;

use std::time::Duration;

/// Scribbles over rings while an honest client reads beside it: for FOREWORD_FUZZ_SECONDS, 30 by default, or for as
/// many inputs as FOREWORD_FUZZ_INPUTS says. FOREWORD_FUZZ_SEED: 1 by default.
#[test]
fn a_hostile_client_harms_nobody_but_itself() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a whole number"));
    let time = || hostile::Until::Time(Duration::from_secs(number("FOREWORD_FUZZ_SECONDS").unwrap_or(30)));
    let until = number("FOREWORD_FUZZ_INPUTS").map_or_else(time, hostile::Until::Inputs);
    let report = hostile::fuzz(number("FOREWORD_FUZZ_SEED").unwrap_or(1), until);
    println!("{report}");
    report.check();
}
