//! The ways to an agent's pages: gRPC to a process, and its API in this one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use foreword_node::api::{EngineApi, GetAsk, PutAsk};
use foreword_node::machine::machine;
use foreword_node::{Deps, Handle, NodeConfig, serve};
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::limits::PIECES_BYTES_MAX;
use foreword_proto::wire::node as n;
use foreword_proto::{Namespace, PageKey, PutOutcome, Tier};
use foreword_seams::{OsEntropy, Telemetry, TokioNet, on_a_thread};
use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::pages::PAGE_BYTES;
use crate::clients::{self, Agent, said_no};
use crate::cluster::Cluster;
use crate::commands::bench::one_agent::ARENA_BYTES;

/// Longer than any call here takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// The unit of /proc/PID/stat on Linux.
const TICKS_PER_SECOND: u32 = 100;

/// A way to an agent's pages. Clones are the same one.
#[derive(Clone)]
pub(super) struct Way {
    to: To,
    /// The processes that work for it, this one among them.
    pids: Arc<Vec<u32>>,
}

#[derive(Clone)]
enum To {
    Grpc(Agent),
    Here(Arc<Handle>),
}

impl Way {
    /// To the cluster's agent, over its socket.
    pub(super) async fn grpc(cluster: &Cluster) -> anyhow::Result<Self> {
        let endpoint = cluster.agent_endpoints().pop().context("an agent")?;
        let pids = [vec![std::process::id()], cluster.agent_pids(), cluster.standin_pid().into_iter().collect()];
        Ok(Self { to: To::Grpc(clients::agent(&endpoint)), pids: Arc::new(pids.concat()) })
    }

    /// To an agent in this process.
    pub(super) async fn in_process(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut config = NodeConfig::new("bench", cluster.meta_endpoints(), cluster.l3_location()?);
        config.listen = "127.0.0.1:0".parse()?;
        config.arena_bytes = ARENA_BYTES;
        let telemetry = Telemetry::new();
        let made = {
            let (config, telemetry) = (config.clone(), telemetry.clone());
            tokio::task::spawn_blocking(move || machine(&config, &telemetry)).await??
        };
        let deps = Deps {
            net: Arc::new(TokioNet),
            entropy: Arc::new(OsEntropy),
            store: made.store,
            files: None,
            kept: None,
            regions: made.regions,
            segment_maker: on_a_thread("foreword-arena"),
            telemetry,
        };
        let handle = serve(config, deps).await.context("an agent in this process")?;
        let pids = [vec![std::process::id()], cluster.standin_pid().into_iter().collect()];
        Ok(Self { to: To::Here(Arc::new(handle)), pids: Arc::new(pids.concat()) })
    }

    /// What a figure's path calls it.
    pub(super) fn name(&self) -> &'static str {
        if self.is_grpc() { "gRPC on the agent's socket" } else { "EngineApi in process" }
    }

    pub(super) fn is_grpc(&self) -> bool {
        matches!(self.to, To::Grpc(_))
    }

    /// Ends the agent, if it is in this process.
    pub(super) async fn end(self) {
        if let To::Here(handle) = self.to
            && let Some(handle) = Arc::into_inner(handle)
        {
            handle.shutdown().await;
        }
    }

    /// Opens a namespace; its id.
    pub(super) async fn open(&self, namespace: &Namespace) -> anyhow::Result<u32> {
        match &self.to {
            To::Grpc(agent) => {
                let request = n::OpenNamespaceRequest { namespace: Some(namespace.into()) };
                let opened =
                    agent.clone().open_namespace(request).await.map_err(|no| said_no("bench: an open", &no))?;
                Ok(opened.into_inner().namespace_id)
            }
            To::Here(handle) => {
                Ok(handle.api().open_namespace(namespace.clone(), Instant::now() + DEADLINE).await?.namespace)
            }
        }
    }

    /// Puts a page until it is published.
    pub(super) async fn put(&self, namespace_id: u32, key: PageKey, bytes: &[u8]) -> anyhow::Result<()> {
        match &self.to {
            To::Grpc(agent) => put_by_grpc(agent.clone(), namespace_id, key, bytes).await,
            To::Here(handle) => {
                let ask =
                    PutAsk { namespace: namespace_id, shard: 0, keys: vec![key], parent: None, wait_published: true };
                let mut call = handle.api().put(ask)?;
                for (number, piece) in bytes.chunks(PIECES_BYTES_MAX).enumerate() {
                    call.piece(0, (number * PIECES_BYTES_MAX) as u64, &piece).await?;
                }
                let outcomes = call.finish().await?;
                ensure!(matches!(outcomes[..], [PutOutcome::Published { .. }]), "bench: a put: {outcomes:?}");
                Ok(())
            }
        }
    }

    /// Gets a page, whose bytes the agent has verified.
    pub(super) async fn get(&self, namespace_id: u32, key: PageKey, from_l3: bool) -> anyhow::Result<()> {
        let expected = if from_l3 { Tier::L3 } else { Tier::L1 };
        match &self.to {
            To::Grpc(agent) => get_by_grpc(agent.clone(), namespace_id, key, expected).await,
            To::Here(handle) => {
                let deadline = Instant::now() + DEADLINE;
                let ask = GetAsk {
                    namespace: namespace_id,
                    keys: vec![key],
                    bypass_cache: from_l3,
                    every_key: true,
                    min_revision: 0,
                    deadline,
                };
                let answer = handle.api().get(ask)?.next().await.context("bench: an answer")?;
                let tier = answer.page.map(|(_, tier)| tier);
                ensure!(tier == Ok(expected), "bench: expected the page from {expected:?}, got {tier:?}");
                Ok(())
            }
        }
    }

    /// What the processes of this way have had of the processor so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut ticks = 0;
        for pid in self.pids.iter() {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let fields: Vec<&str> = stat.rsplit_once(')').context("a stat line")?.1.split_whitespace().collect();
            // User and system time.
            ticks += fields[11].parse::<u32>()? + fields[12].parse::<u32>()?;
        }
        Ok(Duration::from_secs(1) * ticks / TICKS_PER_SECOND)
    }
}

async fn put_by_grpc(mut agent: Agent, namespace_id: u32, key: PageKey, bytes: &[u8]) -> anyhow::Result<()> {
    let header = n::PutHeader {
        namespace_id,
        shard: 0,
        keys: page_keys_to_wire(&[key]),
        parent: Bytes::new(),
        wait_published: true,
    };
    let pieces = bytes.chunks(PIECES_BYTES_MAX).enumerate().map(|(number, data)| {
        let (offset, data) = ((number * PIECES_BYTES_MAX) as u64, Bytes::copy_from_slice(data));
        n::put_request::Kind::Pieces(n::Pieces { pieces: vec![n::Piece { index: 0, shard: 0, offset, data }] })
    });
    let kinds: Vec<_> = std::iter::once(n::put_request::Kind::Header(header)).chain(pieces).collect();
    let messages = stream::iter(kinds.into_iter().map(|kind| n::PutRequest { kind: Some(kind) }));
    let answer = agent.put(messages).await.map_err(|no| said_no("bench: a put", &no))?.into_inner();
    let published = answer.pages.iter().all(|page| page.outcome() == n::PutOutcome::Published);
    ensure!(published && answer.pages.len() == 1, "bench: a put: {:?}", answer.pages);
    Ok(())
}

async fn get_by_grpc(mut agent: Agent, namespace_id: u32, key: PageKey, expected: Tier) -> anyhow::Result<()> {
    let bypass_cache = expected == Tier::L3;
    let keys = page_keys_to_wire(&[key]);
    let request = n::GetRequest { namespace_id, keys, bypass_cache, ..Default::default() };
    let no = |status| said_no("bench: a get", &status);
    let mut answers = agent.get(request).await.map_err(no)?.into_inner();
    let (mut bytes, mut tier) = (0, None);
    while let Some(message) = answers.message().await.map_err(no)? {
        bytes += message.pieces.iter().map(|piece| piece.data.len()).sum::<usize>();
        tier = tier.or(message.ends.first().filter(|end| end.hit).map(|end| end.tier()));
    }
    let wire = if bypass_cache { n::Tier::L3 } else { n::Tier::L1 };
    ensure!((bytes, tier) == (PAGE_BYTES, Some(wire)), "bench: expected a page from {wire:?}: {bytes} B, {tier:?}");
    Ok(())
}
