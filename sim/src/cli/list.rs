//! The names that the simulator knows.

use foreword_seams::Marker;

use super::{canary, say};
use crate::faults::FaultKind;
use crate::invariants::Checks;
use crate::profiles::PROFILES;

/// Prints them.
pub(super) fn print() {
    say("profiles, in the order in which seeds go through them:");
    for profile in &PROFILES {
        say(format_args!("  {:<16} {} replicas, {} agents", profile.name, profile.replicas, profile.agents));
    }
    section("invariants", Checks::new().compared().map(|(name, _)| name));
    section("kinds of faults", FaultKind::NAMES.into_iter());
    section("markers of meta and node", Marker::ALL.into_iter().map(Marker::name));
    section("canaries", canary::names().into_iter());
}

fn section<'a>(title: &str, names: impl Iterator<Item = &'a str>) {
    say(format_args!("{title}:"));
    names.for_each(|name| say(format_args!("  {name}")));
}
