//! The randomness of one process.

use foreword_seams::{Entropy, SeededEntropy};

use super::context::{self, Kind};
use super::net::HostId;

/// Random numbers of one process; each draw goes into the trace.
#[derive(Debug)]
pub struct HostEntropy {
    host: HostId,
    numbers: SeededEntropy,
}

impl HostEntropy {
    /// The numbers of a process that starts now: they follow from the world's.
    pub fn new(host: HostId) -> Self {
        Self { host, numbers: SeededEntropy::new(context::random()) }
    }
}

impl Entropy for HostEntropy {
    fn u64(&self) -> u64 {
        let drawn = self.numbers.u64();
        context::digest(Kind::Draw, &[u64::from(self.host), drawn], &[]);
        drawn
    }
}
