//! What goes wrong: a schedule drawn ahead of the run from its seed, so that leaving one fault out changes no other.

pub mod generate;
pub mod kind;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use generate::{Mix, Shape, generate};
pub use kind::FaultKind;

/// One fault of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When it begins and how long it lasts, in simulated milliseconds.
    pub at_ms: u64,
    pub lasts_ms: u64,
    pub kind: FaultKind,
}

impl Fault {
    /// When it is over.
    pub fn ends_ms(&self) -> u64 {
        self.at_ms + self.lasts_ms
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at_ms, self.lasts_ms);
        write!(f, "{:>3}.{:03}s {} for {}.{:03}s", at / 1000, at % 1000, self.kind, lasts / 1000, lasts % 1000)
    }
}
