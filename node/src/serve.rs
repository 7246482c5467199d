//! The agent's one entry point.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use foreword_client::{Cluster, Group, HelloError};
use foreword_proto::{AgentId, BadInput, ClusterId};
use foreword_seams::connection::Protocol;
use foreword_seams::{Endpoint, Entropy, Files, Incoming, Net, Runner, Telemetry, listener};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Agent, Parts};
use crate::arena::{Arena, ArenaError, ArenaSettings, RegionProvider};
use crate::config::{L3Location, NodeConfig};
use crate::counters::Counters;
use crate::engine::{self, Engines};
use crate::kept_id::KeptId;
use crate::l1::L1;
use crate::l3::L3;
use crate::memory::SegmentMaker;
use crate::service::{GrpcServer, http};
use crate::session::grants::Grants;
use crate::session::{Identity, Sessions, keep};
use crate::store::{MemoryL3, MemoryStore, PosixStore, SharedStore, StoreError, clusters_under};

/// Makes the store of a cluster, once the group has named itself and its chunk size.
pub type StoreFactory = Arc<dyn Fn(&L3Location, ClusterId, u32) -> Result<SharedStore, BadInput> + Send + Sync>;

/// I/O threads of a posix store.
const POSIX_IO_THREADS: usize = 8;
/// How long an orderly end may take.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// What an agent needs of the world. The binary passes the machine's, the simulator its own.
#[derive(Clone)]
pub struct Deps {
    pub net: Arc<dyn Net>,
    pub entropy: Arc<dyn Entropy>,
    pub store: StoreFactory,
    /// Where mirrors are saved; none: they are not.
    pub files: Option<Arc<dyn Files>>,
    /// The id in the agent's state directory, which stays locked; none: this process draws one of its own.
    pub kept: Option<Arc<KeptId>>,
    pub regions: Arc<dyn RegionProvider>,
    /// Where the arena's segments are made: it may take seconds.
    pub segment_maker: Runner,
    pub telemetry: Telemetry,
}

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Config(#[from] BadInput),
    #[error("{field}: could not listen on {endpoint}: {error}")]
    Listen { field: &'static str, endpoint: Endpoint, error: io::Error },
    #[error("arena_bytes")]
    Arena(#[from] ArenaError),
    #[error("nowhere to make the arena's segments: {0}")]
    SegmentMaker(io::Error),
    #[error("meta: {0}")]
    Hello(#[from] HelloError),
    #[error("l3: the group's chunks have {group} bytes, the store's {store}")]
    ChunkBytes { group: u32, store: u32 },
    #[error("l3: {location} holds no directory of cluster {cluster_id} (`foreword meta init` makes it){}", others(.found))]
    NoCluster { location: L3Location, cluster_id: ClusterId, found: Vec<ClusterId> },
    #[error("l3: {location} belongs elsewhere: {error}")]
    OtherCluster { location: L3Location, error: BadInput },
    #[error("l3: {location}: {error}")]
    Store { location: L3Location, error: StoreError },
}

/// What an L3 root holds instead of ours.
fn others(found: &[ClusterId]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let ids: Vec<String> = found.iter().map(ToString::to_string).collect();
    format!("; it holds those of {}", ids.join(", "))
}

/// Stores of this machine: posix directories, or this process's memory, one for each call.
pub fn machine_stores() -> StoreFactory {
    Arc::new(|location, cluster_id, chunk_bytes| {
        Ok(match location {
            L3Location::Usrbio { .. } | L3Location::Auto(_) => {
                return Err(BadInput::new("l3", "posix:/directory: usrbio comes with the machine's own stores"));
            }
            L3Location::Posix(root) => Arc::new(PosixStore::new(root, cluster_id, chunk_bytes, POSIX_IO_THREADS)?),
            L3Location::Memory => {
                let l3 = MemoryL3::default();
                l3.init(&crate::store::ClusterMark::new(cluster_id, chunk_bytes, "memory"));
                Arc::new(MemoryStore::new(l3, cluster_id, chunk_bytes))
            }
        })
    })
}

/// A running agent.
pub struct Handle {
    agent: Agent,
    endpoint: Endpoint,
    http_endpoint: Option<Endpoint>,
    sessions: Arc<Sessions>,
    grants: Arc<Grants>,
    /// No session is opened from then on.
    leaving: CancellationToken,
    stop: CancellationToken,
    servers: TaskTracker,
    /// Locked while the agent runs.
    _kept: Option<Arc<KeptId>>,
}

impl Handle {
    /// Where gRPC over TCP listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where HTTP listens, if it does.
    pub fn http_endpoint(&self) -> Option<&Endpoint> {
        self.http_endpoint.as_ref()
    }

    /// The agent's API, in process.
    pub fn api(&self) -> &Agent {
        &self.agent
    }

    /// True after the first session and the first sync of the namespaces open then; and then for good.
    pub fn ready(&self) -> bool {
        self.agent.is_ready()
    }

    /// Gives unused slots back, closes the session and ends. Dropping the handle instead leaves the tasks to the
    /// runtime.
    pub async fn shutdown(self) {
        let deadline = Instant::now() + SHUTDOWN;
        // Or another session would be opened as soon as this one is closed, and the agent's name be taken until its
        // lease ends.
        self.leaving.cancel();
        let _ = tokio::time::timeout_at(deadline, self.grants.return_unused(deadline)).await;
        let _ = tokio::time::timeout_at(deadline, self.sessions.close(deadline)).await;
        self.agent.save_mirrors().await;
        self.stop.cancel();
        self.servers.close();
        let _ = tokio::time::timeout(SHUTDOWN, self.servers.wait()).await;
        let _ = tokio::time::timeout(SHUTDOWN, self.agent.ended()).await;
    }
}

/// Which process of its agent this is: a later one has a greater number, and of two that run on copies of one state
/// directory one has.
fn incarnation(starts: u32, entropy: &dyn Entropy) -> u64 {
    u64::from(starts) << 32 | entropy.u64() >> 32
}

/// Starts an agent: checks the configuration, listens, finds the group, checks L3, and serves.
///
/// Errors: whatever would make it serve nothing, or another cluster's pages; each names the setting.
pub async fn serve(config: NodeConfig, deps: Deps) -> Result<Handle, ServeError> {
    config.validate()?;
    let (net, asking) = engine::door(deps.net.clone());
    let listeners = Listeners::bind(&config, &*net, &deps.telemetry).await?;
    let l1 = Arc::new(L1::new(Arena::new(arena_settings(&config), deps.regions.clone())?));
    let meta = Group::new(deps.net.clone(), deps.entropy.clone(), &config.meta);
    let meta_wait = Duration::from_millis(config.meta_wait_ms);
    let cluster = meta.hello(config.cluster_id, Instant::now() + meta_wait).await?;
    let store = checked_store(&config, &deps.store, &cluster).await?;

    let counters = Arc::new(Counters::new(deps.telemetry.clone()));
    let l3_deadline = Duration::from_millis(config.l3_deadline_ms);
    let l3 = Arc::new(L3::new(store, cluster.slab_bytes, l3_deadline, counters.clone()));
    let sessions = Arc::new(Sessions::new(meta.clone()));
    let grants = Arc::new(Grants::new(sessions.clone()));
    let stop = CancellationToken::new();
    let maker = SegmentMaker::new(l1.arena().clone(), counters.clone());
    (deps.segment_maker)(Box::pin(maker.run(stop.clone()))).map_err(ServeError::SegmentMaker)?;
    let identity = Identity {
        node: config.node.clone(),
        agent: deps.kept.as_ref().map_or_else(|| AgentId(deps.entropy.bytes16()), |kept| kept.id()),
        incarnation: incarnation(deps.kept.as_ref().map_or(0, |kept| kept.starts()), &*deps.entropy),
        endpoint: listeners.tcp.1.to_string(),
    };
    let calls_max = config.calls_max;
    let engines = {
        let (config, telemetry, stop) = (config.clone(), deps.telemetry.clone(), stop.clone());
        move |agent: &Agent| Engines::new(Arc::new(agent.clone()), &config, &telemetry, stop)
    };
    let files = deps.files.clone();
    let parts = Parts {
        config,
        cluster,
        meta,
        sessions: sessions.clone(),
        grants: grants.clone(),
        l1,
        l3,
        counters: counters.clone(),
        files,
    };
    let agent = Agent::start(parts, stop.clone());

    let servers = TaskTracker::new();
    let opened = {
        let grants = grants.clone();
        move |session: &Arc<crate::session::Session>| {
            counters.sessions_opened.add(1);
            grants.session_opened(session.id);
        }
    };
    let leaving = stop.child_token();
    servers.spawn(keep(sessions.clone(), identity, opened, leaving.clone()));
    servers.spawn(engines(&agent).run(asking, servers.clone()));
    let grpc = GrpcServer::new(Arc::new(agent.clone()), calls_max, deps.telemetry.clone());
    let (endpoint, http_endpoint) = listeners.serve(grpc, &agent, &deps.telemetry, &servers, &stop);
    tracing::info!(%endpoint, "the agent serves");
    Ok(Handle { agent, endpoint, http_endpoint, sessions, grants, leaving, stop, servers, _kept: deps.kept })
}

fn arena_settings(config: &NodeConfig) -> ArenaSettings {
    match config.segment_bytes {
        Some(segment_bytes) => ArenaSettings { arena_bytes: config.arena_bytes, segment_bytes },
        None => ArenaSettings::new(config.arena_bytes),
    }
}

/// The cluster's store, after it has said whose it is.
async fn checked_store(
    config: &NodeConfig,
    stores: &StoreFactory,
    cluster: &Cluster,
) -> Result<SharedStore, ServeError> {
    let location = config.l3.clone();
    let store = stores(&location, cluster.cluster_id, cluster.chunk_bytes).map_err(|error| error.within("l3"))?;
    if store.chunk_bytes() != cluster.chunk_bytes {
        return Err(ServeError::ChunkBytes { group: cluster.chunk_bytes, store: store.chunk_bytes() });
    }
    match store.cluster_mark().await {
        Err(error) => Err(ServeError::Store { location, error }),
        Ok(None) => {
            // Only for the message: a root that cannot be listed names no others.
            let found = location.dir().and_then(|root| clusters_under(root).ok()).unwrap_or_default();
            Err(ServeError::NoCluster { location, cluster_id: cluster.cluster_id, found })
        }
        Ok(Some(mark)) => match mark.check(cluster.cluster_id, cluster.chunk_bytes) {
            Ok(()) => Ok(store),
            Err(error) => Err(ServeError::OtherCluster { location, error }),
        },
    }
}

/// Everything the agent listens on, bound before it does anything else: a port in use is known at once.
struct Listeners {
    tcp: (Incoming, Endpoint),
    unix: Option<Incoming>,
    http: Option<(Incoming, Endpoint)>,
}

impl Listeners {
    async fn bind(config: &NodeConfig, net: &dyn Net, telemetry: &Telemetry) -> Result<Self, ServeError> {
        let listen = async |field, endpoint: &Endpoint, protocol| {
            let bound = listener::listen(net, field, endpoint, protocol, telemetry).await;
            bound.map_err(|error| ServeError::Listen { field, endpoint: endpoint.clone(), error })
        };
        let tcp = listen("listen", &config.listen, Protocol::Http2).await?;
        let unix = match &config.socket {
            Some(path) => Some(listen("socket", &Endpoint::Unix(path.clone()), Protocol::Http2).await?.0),
            None => None,
        };
        let http = match &config.http {
            Some(endpoint) => Some(listen("http", endpoint, Protocol::Http1).await?),
            None => None,
        };
        Ok(Self { tcp, unix, http })
    }

    fn serve(
        self,
        grpc: GrpcServer,
        agent: &Agent,
        telemetry: &Telemetry,
        servers: &TaskTracker,
        stop: &CancellationToken,
    ) -> (Endpoint, Option<Endpoint>) {
        let (tcp, endpoint) = self.tcp;
        if let Some(unix) = self.unix {
            servers.spawn(grpc.clone().run(unix, stop.clone()));
        }
        servers.spawn(grpc.run(tcp, stop.clone()));
        let http_endpoint = self.http.map(|(incoming, endpoint)| {
            let router = http::router(agent.clone(), telemetry.clone());
            let serving =
                foreword_seams::http::serve(incoming, endpoint.clone(), router, stop.clone().cancelled_owned());
            servers.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the HTTP server ended");
                }
            });
            endpoint
        });
        (endpoint, http_endpoint)
    }
}
