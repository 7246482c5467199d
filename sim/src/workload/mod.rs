//! Clients of the simulated cluster: engines, routers, watchers.
//!
//! They run as tasks of one host and know only what real ones know: endpoints, and answers. Whatever they draw comes
//! from generators of their own, so that a fault added or removed leaves their questions what they were for as long as
//! it can.

mod answers;
mod asks;
mod client;
mod engine;
mod finish;
mod flood;
mod leaseholder;
pub mod page_files;
mod profiles;
mod prompts;
mod transfer;
mod watcher;

use std::sync::Arc;

use foreword_proto::Namespace;
use foreword_seams::{Endpoint, Net};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use answers::CALL_DEADLINE;
pub use asks::{Fresh, GetHow, PutHow, Space};
pub use client::Client;
pub use finish::{final_reads, probe};
pub use flood::flood;
pub use prompts::{PAGES_MAX, PAGES_MIN, Prompts};
pub use transfer::Nonce;

use crate::generated;
use crate::history::SharedHistory;
use engine::Engine;
use watcher::{Pace, Watcher};

/// Tokens of a page, and bytes of a shard, of the profiles: small, because it is their number that finds faults.
pub const PAGE_TOKENS: u32 = 16;
pub const SHARD_BYTES: u64 = 4096;
/// Engines are numbered from 1, watchers, engines of page files, leaseholders, and engines of agents that come later
/// from here; the clients after the healing are these.
pub const FIRST_WATCHER: u32 = 100;
pub const FIRST_PAGE_ENGINE: u32 = 200;
pub const FIRST_LEASEHOLDER: u32 = 300;
pub const FIRST_VISITOR: u32 = 400;
pub const FINAL_READER: u32 = 900;
pub const PROBER: u32 = 901;

/// A profile of load. Percentages are of the steps of an engine: a prompt looked up, got, computed and put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub name: String,
    /// The L3 and the L1 that the profile is made for; the world sets them.
    pub l3_bytes: u64,
    pub slab_bytes: u64,
    pub arena_bytes: u64,
    /// Replicas evict above the one share of a class's slots, and down to the other.
    pub high_watermark_percent: u8,
    pub low_watermark_percent: u8,
    pub engines: u32,
    /// Between two steps, both ends included; for a herd: from the beginning of a round to the step.
    pub think_ms: (u64, u64),
    pub prompts: Prompts,
    pub namespaces: u32,
    /// Over how many tenants the namespaces are spread.
    pub tenants: u32,
    /// Bytes of the shards of a page; namespaces take these in turn.
    pub shapes: Vec<Vec<u64>>,
    /// Namespaces come into use one after another over this time.
    pub opened_over_ms: u64,
    /// Steps at another agent than the engine's own, and gets of new pages at another agent.
    pub away_percent: u32,
    /// Gets that read L3 although a nearer tier has the page.
    pub bypass_percent: u32,
    /// Lookups at agents, and extra ones at replicas, that must be linearizable.
    pub linearizable_percent: u32,
    /// Lookups that demand the client's newest acknowledged publish.
    pub min_revision_percent: u32,
    /// Steps with a prefetch before the get, and with a release after it.
    pub hint_percent: u32,
    /// Puts that do not wait for the publish.
    pub no_wait_percent: u32,
    /// Shards of a put begin at different times and come in small pieces.
    pub interleaved: bool,
    /// Puts of which one shard never comes, and those whose client vanishes in the middle.
    pub missing_shard_percent: u32,
    pub cut_percent: u32,
    /// Steps after which some of the prompt's pages are deleted; of a thousand, those after which the namespace is
    /// cleared.
    pub delete_percent: u32,
    pub clear_per_mille: u32,
    /// Steps after which a long list of generated pages is deleted, most of which have been gone for long.
    pub sweep_percent: u32,
    /// Watchers that read slowly, stall and come back.
    pub slow_watchers: u32,
    /// One watcher a namespace from its beginning that records every event.
    pub diligent_watchers: bool,
    /// Engines that keep their pages in page files of SGLang's hf3fs backend.
    pub page_engines: u32,
    /// Clients that hold a lease, renew it at every replica in turn, and do nothing else.
    pub leaseholders: u32,
    /// Pages of each namespace that the group has before the run begins ([`crate::generated`]), which the load's
    /// namespaces are then; none: it begins with nothing.
    pub generated: Vec<u64>,
}

impl Load {
    /// The namespaces of this load, in order.
    pub fn spaces(&self) -> Vec<Space> {
        if !self.generated.is_empty() {
            return (0..self.generated.len()).map(generated::space).collect();
        }
        let space = |number: u32| {
            let shape = &self.shapes[number as usize % self.shapes.len()];
            let mut namespace = Namespace::simple(&format!("model-{number}"), PAGE_TOKENS, shape.clone());
            namespace.tenant = format!("tenant-{}", number % self.tenants.max(1));
            Space { number: number as u16, namespace }
        };
        (0..self.namespaces.max(1)).map(space).collect()
    }
}

/// What every client has: the network, where things are, and where to write down what came of it.
#[derive(Clone)]
pub struct ClientParts {
    pub net: Arc<dyn Net>,
    /// Of the clients' random numbers; each client's follow from it and from its number.
    pub seed: u64,
    pub agents: Vec<Endpoint>,
    pub replicas: Vec<(u64, Endpoint)>,
    /// Where replicas serve the clients of page files.
    pub page_servers: Vec<Endpoint>,
    /// The number of starts that an agent has had.
    pub incarnation: Arc<dyn Fn(u32) -> u64 + Send + Sync>,
    pub history: SharedHistory,
}

/// Runs the load until `stop` holds true (or its sender is gone) and every client has ended its last call.
///
/// Spawns on the current runtime. A client never ends by itself: a call that fails is recorded, and it goes on.
pub async fn run(load: Load, parts: ClientParts, stop: watch::Receiver<bool>) {
    let spaces: Arc<[Space]> = load.spaces().into();
    let start = Instant::now();
    let mut clients = JoinSet::new();
    let load = Arc::new(load);
    for number in 1..=load.engines {
        let engine = Engine::new(number, load.clone(), spaces.clone(), parts.clone(), start);
        clients.spawn(engine.run(stop.clone()));
    }
    let diligent = if load.diligent_watchers { spaces.len() as u32 } else { 0 };
    for watcher in 0..diligent + load.slow_watchers {
        let pace = if watcher < diligent { Pace::Diligent } else { Pace::Slow };
        let space = spaces[watcher as usize % spaces.len()].clone();
        let watcher = Watcher::new(FIRST_WATCHER + watcher, space, pace, parts.clone());
        clients.spawn(watcher.run(stop.clone()));
    }
    let bytes = page_files::PageBytes::default();
    for number in 0..load.page_engines {
        let files = page_files::page_files();
        let engine = page_files::PageEngine::new(FIRST_PAGE_ENGINE + number, parts.clone(), files, bytes.clone());
        clients.spawn(engine.run(stop.clone()));
    }
    for number in 0..load.leaseholders {
        clients.spawn(leaseholder::hold(FIRST_LEASEHOLDER + number, parts.clone(), stop.clone()));
    }
    while let Some(ended) = clients.join_next().await {
        // A client that panics is a bug of the simulation, not of the cluster.
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// An engine of an agent that came later: the last of the parts'.
pub async fn visit(load: Load, parts: ClientParts, number: u32, stop: watch::Receiver<bool>) {
    let spaces: Arc<[Space]> = load.spaces().into();
    Engine::visiting(number, Arc::new(load), spaces, parts, Instant::now()).run(stop).await;
}

/// Resolves once the load is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender is gone: whoever would stop the load has ended.
    let _ = stop.wait_for(|stop| *stop).await;
}
