//! The cluster that figures are measured at: real processes, started with a state of real size.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use foreword_meta::generated::{Keys, Plan, namespace};
use foreword_proto::status::ReplicaStatus;
use foreword_proto::wire::node as n;
use foreword_seams::Endpoint;
use tokio::time::{Instant, sleep};

use super::session::Session;
use crate::clients;
use crate::cluster::{Cluster, L3Spec, Spec};
use crate::human::Span;

const SEED: u64 = 1;
/// A page and its slot.
pub(super) const SLOT_BYTES: u64 = 4096;
/// Slab files that L3 is divided into.
const SLABS: u64 = 16;
const ARENA_BYTES: u64 = 64 << 20;
const LEASE: Span = Span(Duration::from_secs(10));
/// No L3 client here retries. Short, so that what is evicted comes back at the speed of the eviction and not of the
/// rest.
const REST: Span = Span(Duration::from_secs(1));

/// How long agents may wait for a group that has just started.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What is started.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    /// Pages of each namespace.
    pub(super) namespaces: Vec<u64>,
    /// Slots of L3, over those that the pages take.
    pub(super) room: u64,
    pub(super) agents: usize,
}

impl Scale {
    /// Of all namespaces.
    pub(super) fn pages(&self) -> u64 {
        self.namespaces.iter().sum()
    }
}

/// A cluster with a generated state.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) scale: Scale,
    plan: Plan,
    /// Of the first namespace.
    next_page: Arc<AtomicU64>,
    /// Sessions opened so far: each has a name of its own.
    opened: AtomicU64,
}

impl Stage {
    /// Starts replicas and agents, and has each agent watch the first namespace. Returns when all are ready.
    pub(super) async fn start(scale: Scale, dir: Option<PathBuf>, say: impl Fn(&str)) -> anyhow::Result<Self> {
        say(&format!("a group with {} pages in {} namespaces", scale.pages(), scale.namespaces.len()));
        let plan = Plan { namespaces: scale.namespaces.clone(), ..Plan::pages(SEED, 0) };
        let slots = scale.pages() + scale.room;
        let slab_bytes = slots.div_ceil(SLABS) * SLOT_BYTES;
        let cluster = Cluster::start(
            Spec {
                binary: std::env::current_exe().context("this binary's own path")?,
                dir,
                keep: false,
                replicas: 3,
                agents: scale.agents,
                l3: L3Spec::Posix,
                l3_bytes: slots * SLOT_BYTES,
                slab_bytes,
                chunk_bytes: SLOT_BYTES,
                arena_bytes: ARENA_BYTES,
                lease: LEASE,
                read_rest: REST,
                write_rest: REST,
                config: String::new(),
                generated: Some(plan.clone()),
            },
            &say,
        )
        .await?;
        let next_page = Arc::new(AtomicU64::new(scale.namespaces.first().copied().unwrap_or_default()));
        let stage = Self { cluster, scale, plan, next_page, opened: AtomicU64::new(0) };
        stage.watch().await?;
        Ok(stage)
    }

    /// Every agent opens the first namespace: it mirrors it from then on. A group that does not settle at once is asked
    /// again.
    async fn watch(&self) -> anyhow::Result<()> {
        for agent in self.cluster.agent_endpoints() {
            let mut agent = clients::agent(&agent);
            let until = Instant::now() + PATIENCE;
            let request = n::OpenNamespaceRequest { namespace: Some((&namespace(0)).into()) };
            while let Err(status) = agent.open_namespace(request.clone()).await {
                ensure!(Instant::now() < until, "an agent's open, for {PATIENCE:?}: {status}");
                sleep(RETRY_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Keys of a namespace.
    pub(super) fn keys(&self, at: usize) -> Keys {
        self.plan.keys(at)
    }

    /// The replicas' endpoints, the leader's first.
    pub(super) async fn leader_first(&self) -> anyhow::Result<Vec<Endpoint>> {
        let leader = self.cluster.leader().await? as usize - 1;
        let mut endpoints = self.cluster.meta_endpoints();
        endpoints.swap(0, leader);
        Ok(endpoints)
    }

    /// Opens sessions that publish into the first namespace at the leader.
    pub(super) async fn sessions(&self, name: &str, count: usize) -> anyhow::Result<Vec<Arc<Session>>> {
        let endpoints = self.leader_first().await?;
        let mut sessions = Vec::new();
        for _ in 0..count {
            let name = format!("bench-{name}-{}", self.opened.fetch_add(1, Ordering::Relaxed));
            let session = Session::open(&endpoints, &name, (0, self.keys(0)), self.next_page.clone()).await?;
            sessions.push(Arc::new(session));
        }
        Ok(sessions)
    }

    /// The id of a generated namespace: they are registered in their order.
    pub(super) fn namespace_id(&self, at: usize) -> u32 {
        at as u32 + 1
    }

    /// What the leader says of itself.
    pub(super) async fn leader_status(&self) -> anyhow::Result<ReplicaStatus> {
        clients::replica_status(&self.leader_first().await?[0]).await
    }
}
