//! The tenant that is measured: lookups of 1,024 keys, and gets of pages that are in L1.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::node as n;
use foreword_proto::{Namespace, PageKey};
use foreword_seams::Endpoint;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::clients::{self, Agent, said_no};
use crate::commands::bench::figure::quantile;
use crate::commands::bench::load::ms;
use crate::driver::transfer::{ShardPut, put};

/// Keys of a lookup: all pages of the tenant.
const KEYS: usize = 1024;
const PAGE_BYTES: usize = 16 << 10;
/// Pages of a get.
const GET_PAGES: usize = 16;
const NONCE: u64 = 1;
/// Between a lookup with its get and the next ones: an engine that computes meanwhile.
const PAUSE: Duration = Duration::from_millis(1);

/// How long each call took, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) lookups_ms: Vec<f64>,
    pub(super) gets_ms: Vec<f64>,
}

impl Sample {
    /// p50, p99 and the slowest, for a reader.
    pub(super) fn told(&self) -> String {
        let of = |values: &[f64]| {
            let mut values = values.to_vec();
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(&mut values, share).unwrap_or_default());
            format!("{p50:.2}/{p99:.2}/{max:.2} ms of {}", values.len())
        };
        format!("lookups {} gets {}", of(&self.lookups_ms), of(&self.gets_ms))
    }
}

/// A tenant with all of its pages in L1.
pub(super) struct Tenant {
    agent: Endpoint,
    namespace_id: u32,
    keys: Vec<PageKey>,
}

impl Tenant {
    /// Puts its pages.
    pub(super) async fn start(agent: &Endpoint) -> anyhow::Result<Self> {
        let mut client = clients::agent(agent);
        let namespace = namespace("quiet", PAGE_BYTES);
        let keys: Vec<PageKey> = (0..KEYS as u64).map(|number| PageKey::opaque(&number.to_le_bytes())).collect();
        let namespace_id = open(&mut client, &namespace).await?;
        let ask = ShardPut::whole(namespace_id, (0, PAGE_BYTES), None, NONCE);
        let put = put(&mut client, ask, Arc::from(keys.clone())).await;
        let put = put.map_err(|status| said_no("bench: a put", &status))?;
        let published = put.iter().filter(|page| page.outcome() == n::PutOutcome::Published).count();
        ensure!(published == KEYS, "bench: expected {KEYS} pages to be published, {published} were");
        Ok(Self { agent: agent.clone(), namespace_id, keys })
    }

    /// Asks for so long, on a thread and over a connection of its own.
    ///
    /// Errors: a page that was not in L1.
    pub(super) async fn sample(&self, span: Duration) -> anyhow::Result<Sample> {
        let (agent, namespace_id) = (self.agent.clone(), self.namespace_id);
        let lookup = n::LookupRequest { namespace_id, keys: page_keys_to_wire(&self.keys), ..Default::default() };
        let gets: Vec<Bytes> = self.keys.chunks(GET_PAGES).map(page_keys_to_wire).collect();
        let asking = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask(&agent, &lookup, &gets, span))
        });
        asking.await?
    }
}

async fn ask(agent: &Endpoint, lookup: &n::LookupRequest, gets: &[Bytes], span: Duration) -> anyhow::Result<Sample> {
    let mut client = clients::agent(agent);
    let no = |status| said_no("bench: a neighbour's call", &status);
    // The first connects.
    looked_up(&mut client, lookup).await.map_err(no)?;
    let mut sample = Sample::default();
    let until = Instant::now() + span;
    for keys in gets.iter().cycle() {
        let from = Instant::now();
        if from >= until {
            break;
        }
        let found = looked_up(&mut client, lookup).await.map_err(no)?;
        let between = Instant::now();
        let request = n::GetRequest { namespace_id: lookup.namespace_id, keys: keys.clone(), ..Default::default() };
        let got = got_from_l1(&mut client, request).await.map_err(no)?;
        sample.lookups_ms.push(ms(between - from));
        sample.gets_ms.push(ms(between.elapsed()));
        ensure!(found == KEYS, "bench: expected {KEYS} pages in L1, a lookup found {found}");
        ensure!(got == GET_PAGES, "bench: expected {GET_PAGES} pages from L1, a get gave {got}");
        sleep(PAUSE).await;
    }
    Ok(sample)
}

/// Pages that a lookup found in L1.
async fn looked_up(client: &mut Agent, request: &n::LookupRequest) -> Result<usize, Status> {
    Ok(client.lookup(request.clone()).await?.into_inner().l1_pages as usize)
}

/// Whole pages that a get gave from L1.
async fn got_from_l1(client: &mut Agent, request: n::GetRequest) -> Result<usize, Status> {
    let mut answers = client.get(request).await?.into_inner();
    let (mut pages, mut bytes) = (0, 0);
    while let Some(message) = answers.message().await? {
        bytes += message.pieces.iter().map(|piece| piece.data.len()).sum::<usize>();
        pages += message.ends.iter().filter(|end| end.hit && end.tier() == n::Tier::L1).count();
    }
    Ok(pages.min(bytes / PAGE_BYTES))
}

/// A tenant's namespace of pages of one shard.
pub(super) fn namespace(tenant: &str, page_bytes: usize) -> Namespace {
    let namespace = Namespace::simple("foreword-bench-neighbours", 1, vec![page_bytes as u64]);
    Namespace { tenant: tenant.to_owned(), ..namespace }
}

/// Opens a namespace at the agent; its id.
pub(super) async fn open(client: &mut Agent, namespace: &Namespace) -> anyhow::Result<u32> {
    let request = n::OpenNamespaceRequest { namespace: Some(namespace.into()) };
    let opened = client.open_namespace(request).await.map_err(|status| said_no("bench: an open", &status))?;
    Ok(opened.into_inner().namespace_id)
}
