//! The tenant beside it, and what it does while it meets its trouble.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foreword_proto::PageKey;
use foreword_seams::Endpoint;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use super::Trouble;
use super::tenant::{namespace, open};
use crate::clients::{self, Agent, said_no};
use crate::driver::transfer::{ShardGet, ShardPut, get, put};

const PAGE_BYTES: usize = 64 << 10;
/// Pages of a call.
const PAGES: u64 = 16;
/// Pages that it has in L3 from the beginning.
const STORED: u64 = 512;
/// Engines that read at once.
const READERS: u64 = 8;
/// Between a call of an engine and its next one. An agent that says no at once is not asked in a circle.
const PAUSE: Duration = Duration::from_millis(20);
const NONCE: u64 = 2;

/// The neighbour's engines, with pages in L3.
pub(super) struct Neighbour {
    engines: Arc<Engines>,
}

struct Engines {
    agent: Endpoint,
    namespace_id: u32,
    /// Names of tenants, and of pages, that were given out.
    next_tenant: AtomicU64,
    next_page: AtomicU64,
}

/// What is under way. Dropped, it ends at once.
pub(super) struct Load {
    stop: watch::Sender<bool>,
    engines: JoinSet<anyhow::Result<u64>>,
}

impl Load {
    /// Waits for what is under way; how many calls there were.
    pub(super) async fn end(mut self) -> anyhow::Result<u64> {
        self.stop.send_replace(true);
        let mut calls = 0;
        while let Some(ended) = self.engines.join_next().await {
            calls += ended??;
        }
        Ok(calls)
    }
}

impl Neighbour {
    /// Puts the pages that are read later.
    pub(super) async fn start(agent: &Endpoint) -> anyhow::Result<Self> {
        let mut client = clients::agent(agent);
        let namespace_id = open(&mut client, &namespace("neighbour", PAGE_BYTES)).await?;
        let next_page = AtomicU64::new(STORED);
        let engines = Engines { agent: agent.clone(), namespace_id, next_tenant: AtomicU64::new(0), next_page };
        for first in (0..STORED).step_by(PAGES as usize) {
            engines.put(&mut client, namespace_id, first).await?;
        }
        Ok(Self { engines: Arc::new(engines) })
    }

    /// Its engines call until the load ends.
    pub(super) fn meet(&self, trouble: Trouble) -> Load {
        let (stop, stopped) = watch::channel(false);
        let mut engines = JoinSet::new();
        let mut begin = |work: Work| _ = engines.spawn(self.engines.clone().work(work, stopped.clone()));
        match trouble {
            Trouble::NewTenant => begin(Work::NewTenants),
            Trouble::FullL3 => begin(Work::Puts),
            Trouble::SlowL3 => (0..READERS).for_each(|number| begin(Work::Gets(number))),
            Trouble::StoppedDaemon => {
                (0..READERS).for_each(|number| begin(Work::Gets(number)));
                begin(Work::Puts);
                begin(Work::NewTenants);
            }
        }
        Load { stop, engines }
    }
}

/// What one engine does again and again.
#[derive(Debug, Clone, Copy)]
enum Work {
    NewTenants,
    Puts,
    /// Of one reader, by its number: no two read the same pages.
    Gets(u64),
}

impl Engines {
    async fn work(self: Arc<Self>, work: Work, stopped: watch::Receiver<bool>) -> anyhow::Result<u64> {
        let mut client = clients::agent(&self.agent);
        let mut calls = 0;
        while !*stopped.borrow() {
            match work {
                Work::NewTenants => self.new_tenant(&mut client).await?,
                Work::Puts => {
                    let first = self.next_page.fetch_add(PAGES, Ordering::Relaxed);
                    self.put(&mut client, self.namespace_id, first).await?;
                }
                Work::Gets(number) => self.get(&mut client, (number + calls * READERS) * PAGES % STORED).await?,
            }
            calls += 1;
            sleep(PAUSE).await;
        }
        Ok(calls)
    }

    async fn new_tenant(&self, client: &mut Agent) -> anyhow::Result<()> {
        let tenant = format!("neighbour-{}", self.next_tenant.fetch_add(1, Ordering::Relaxed));
        let namespace_id = open(client, &namespace(&tenant, PAGE_BYTES)).await?;
        self.put(client, namespace_id, 0).await
    }

    /// Puts pages and waits until each is published or refused.
    async fn put(&self, client: &mut Agent, namespace_id: u32, first: u64) -> anyhow::Result<()> {
        let ask = ShardPut::whole(namespace_id, (0, PAGE_BYTES), None, NONCE);
        bear(put(client, ask, keys(first).into()).await)
    }

    /// Reads pages from L3, whether L1 has them or not.
    async fn get(&self, client: &mut Agent, first: u64) -> anyhow::Result<()> {
        let ask = ShardGet {
            namespace_id: self.namespace_id,
            shard: 0,
            shard_bytes: PAGE_BYTES,
            min_revision: 0,
            bypass_cache: true,
            every_key: true,
        };
        bear(get(client, &ask, &keys(first)).await)
    }
}

fn keys(first: u64) -> Vec<PageKey> {
    (first..first + PAGES).map(|number| PageKey::opaque(&number.to_le_bytes())).collect()
}

/// An engine lives with refusals: they are the trouble.
fn bear<T>(answer: Result<T, Status>) -> anyhow::Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::DeadlineExceeded) => Ok(()),
        Err(status) => Err(said_no("bench: a neighbour's call", &status)),
    }
}
