//! What happened in a run, as its clients saw it. Times are since the run began.

use std::time::Duration;

use foreword_cli::driver::transfer::Got;
use foreword_proto::{PageKey, Revision};

/// A page that an agent said is published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ack {
    pub(crate) key: PageKey,
    pub(crate) revision: Revision,
    pub(crate) agent: usize,
    /// When the put began that was acknowledged.
    pub(crate) submitted: Duration,
    pub(crate) acked: Duration,
}

/// One read of one page.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) agent: usize,
    pub(crate) key: PageKey,
    /// Of the page's acknowledgement.
    pub(crate) acked: Revision,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    /// What the agent gave, or why the call failed.
    pub(crate) seen: Result<Got, String>,
}

/// A time during which an agent was dead: calls that touch it may fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Away {
    pub(crate) agent: usize,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Away {
    /// Whether any part of a call to this agent was within this time.
    pub(crate) fn touches(&self, agent: usize, from: Duration, until: Duration) -> bool {
        self.agent == agent && from <= self.until && self.from <= until
    }
}

/// A put whose call failed; its pages were put again.
#[derive(Debug, Clone)]
pub(crate) struct PutFailed {
    pub(crate) agent: usize,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    pub(crate) status: String,
}

/// Everything the clients saw.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) acks: Vec<Ack>,
    pub(crate) reads: Vec<Read>,
    pub(crate) away: Vec<Away>,
    /// Pages an agent refused; they were put again.
    pub(crate) refused: u64,
    pub(crate) puts_failed: Vec<PutFailed>,
}

impl History {
    /// Whether the agent was dead at any moment of this time.
    pub(crate) fn was_away(&self, agent: usize, from: Duration, until: Duration) -> bool {
        self.away.iter().any(|away| away.touches(agent, from, until))
    }
}
