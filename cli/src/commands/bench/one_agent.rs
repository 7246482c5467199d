//! A group of one replica with one agent: for what an agent does, whatever the group is.

use std::time::Duration;

use anyhow::Context;

use super::Bench;
use crate::cluster::{Cluster, L3Spec, Spec};
use crate::human::Span;

/// The agent's; one in the bench's own process has as much.
pub(super) const ARENA_BYTES: u64 = 1 << 30;
const LEASE: Span = Span(Duration::from_secs(10));

/// What differs.
pub(super) struct OneAgent {
    pub(super) l3: L3Spec,
    pub(super) l3_bytes: u64,
    pub(super) slab_bytes: u64,
    pub(super) chunk_bytes: u64,
    /// Slots rest for so long, after a read and after a write.
    pub(super) rest: Span,
}

impl OneAgent {
    pub(super) async fn start(self, bench: &Bench) -> anyhow::Result<Cluster> {
        let spec = Spec {
            binary: std::env::current_exe().context("this binary's own path")?,
            dir: bench.dir.clone(),
            keep: false,
            replicas: 1,
            agents: 1,
            l3: self.l3,
            l3_bytes: self.l3_bytes,
            slab_bytes: self.slab_bytes,
            chunk_bytes: self.chunk_bytes,
            arena_bytes: ARENA_BYTES,
            lease: LEASE,
            read_rest: self.rest,
            write_rest: self.rest,
            config: String::new(),
            generated: None,
        };
        Cluster::start(spec, |text| bench.say(text)).await
    }
}
