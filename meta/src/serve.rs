//! The one entry point of a replica: the binary and the simulator call [`serve`] alike.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::BadInput;
use foreword_proto::limits::RAFT_PAYLOAD_ENTRIES_MAX;
use foreword_proto::versions::OtherVersion;
use foreword_seams::connection::Protocol;
use foreword_seams::rpc_errors::NameMessageLayer;
use foreword_seams::rpc_metrics::RpcMetricsLayer;
use foreword_seams::{
    Endpoint, Entropy, Files, Incoming, Marker, Net, Runner, Telemetry, http, listener, rpc, sometimes,
};
use openraft::{Raft, SnapshotPolicy};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::MetaConfig;
use crate::consensus::types::{TypeConfig, seed_thread};
use crate::eviction::{Evictor, Policy, PolicyPlace, Watermarks};
use crate::hf3fs::{self, Calls, ForwardedCalls};
use crate::network::{Heard, NetworkFactory, PeerIdentity, Peers};
use crate::replica::alone::listen_for_others;
use crate::replica::applied::{Applied, Position};
use crate::replica::changes::Changes;
use crate::replica::clock::LeaderClock;
use crate::replica::compare::compare_digests;
use crate::replica::duties::{Duties, Duty};
use crate::replica::forming::form;
use crate::replica::group::Group;
use crate::replica::halt::Halt;
use crate::replica::leases::{LeaseTimes, Leases};
use crate::replica::level::Level;
use crate::replica::pace::Pace;
use crate::replica::proposer::Proposer;
use crate::replica::readiness::keep_readiness;
use crate::replica::reclaim::Reclaim;
use crate::replica::rejoin::{Standing, rejoin};
use crate::replica::removed::watch_removal;
use crate::replica::snapshots::keeper::{Keeper, KeeperParts};
use crate::replica::snapshots::receiving::Receiving;
use crate::replica::snapshots::{Newest, Snapshots};
use crate::replica::state_machine::{StateMachine, StateMachineParts};
use crate::replica::supervise::Failing;
pub use crate::replica::supervise::Failure;
use crate::service::status::StatusSource;
use crate::service::{AdminService, MetaService, RaftService, router};
use crate::state::State;
use crate::storage::{Identity, IdentityFile, LogReader, LogStore};
use crate::watch::hub::WatchHub;

/// Everything from outside.
pub struct Deps {
    pub net: Arc<dyn Net>,
    pub entropy: Arc<dyn Entropy>,
    pub telemetry: Telemetry,
    pub identity: Identity,
    pub identity_file: Arc<dyn IdentityFile>,
    /// The log, recovered ([`crate::open::open_log`]).
    pub log: LogStore,
    pub snapshots: Arc<dyn Files>,
    /// What is in `snapshots` ([`Snapshots::load_newest`]).
    pub newest: Newest,
    pub policy: PolicyPlace,
    /// Where work is done that takes a time that grows with the state.
    pub aside: Runner,
}

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    BadInput(#[from] BadInput),
    #[error("{field}: expected a free address, {endpoint}: {error}")]
    Listen { field: &'static str, endpoint: Endpoint, error: io::Error },
    #[error("snapshots: {0}")]
    Snapshots(io::Error),
    #[error("data_dir: IDENTITY: {0}")]
    Identity(io::Error),
    /// What the log was purged of is in no snapshot: the replica must rejoin empty. Its log is closed.
    #[error("snapshots: expected one that verifies and covers the log's first {purged} entries, got {}", ends_at(.covered))]
    SnapshotLost { purged: u64, covered: Option<u64> },
    /// An entry or a snapshot that this binary does not know.
    #[error("data_dir.{0}")]
    OtherVersion(OtherVersion),
    #[error("the eviction policy's thread: {0}")]
    Thread(io::Error),
    #[error("raft: {0}")]
    Raft(String),
}

fn ends_at(index: &Option<u64>) -> String {
    index.map_or_else(|| "none".to_owned(), |index| format!("one that covers {index}"))
}

/// A running replica.
pub struct Handle {
    endpoint: Endpoint,
    http_endpoint: Option<Endpoint>,
    hf3fs_endpoint: Option<Endpoint>,
    group: Arc<Group>,
    standing: Arc<Standing>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    failed: watch::Receiver<Option<Failure>>,
    log_end: crate::storage::writer::WriterEnd,
    /// Holds the data directory's lock until the log is closed.
    identity_file: Arc<dyn IdentityFile>,
}

impl Handle {
    /// Where gRPC listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where HTTP listens.
    pub fn http_endpoint(&self) -> Option<&Endpoint> {
        self.http_endpoint.as_ref()
    }

    /// Where SGLang's hf3fs metadata clients are served.
    pub fn hf3fs_endpoint(&self) -> Option<&Endpoint> {
        self.hf3fs_endpoint.as_ref()
    }

    /// The replica's view of its group.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Whether the replica is ready, as of a moment ago.
    pub fn ready(&self) -> bool {
        self.standing.ready()
    }

    /// Where the replica stands, for someone who outlives this handle.
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.clone()
    }

    /// Resolves with the reason when the replica cannot go on.
    pub async fn failed(&mut self) -> Failure {
        let failure = self.failed.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        failure.unwrap_or_else(|| Failure::Stopped("the replica stopped".into()))
    }

    /// Stops serving, ends Raft and waits until the log is closed.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Err(error) = self.group.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        self.tasks.shutdown().await;
        let (log_end, identity_file) = (self.log_end.clone(), self.identity_file.clone());
        drop(self);
        log_end.wait().await;
        drop(identity_file);
    }
}

/// Starts a replica.
pub async fn serve(config: MetaConfig, deps: Deps) -> Result<Handle, ServeError> {
    config.validate()?;
    seed_thread(deps.entropy.u64());
    let identity = deps.identity;
    let snapshots = Snapshots::new(deps.snapshots.clone(), identity.cluster_id);
    let mut log = deps.log;
    log.belongs_to(identity.replica_id);
    let log_reader = log.reader();
    let log_vote = log_reader.vote();
    let log_end = log.end();
    let version = log.write_version();
    version.raise(identity.format_version);
    let newest = deps.newest;
    let (state, position) =
        newest.loaded.unwrap_or_else(|| (State::new(identity.settings.clone()), Position::default()));
    let covered = position.last_applied.map(|id| id.index);
    if let Some(purged) = log_reader.purged().map(|id| id.index).filter(|purged| Some(*purged) > covered) {
        sometimes(Marker::SnapshotLost);
        // Whoever sets the directory aside must find the log closed.
        drop(log);
        log_end.wait().await;
        return Err(ServeError::SnapshotLost { purged, covered });
    }
    snapshots.clean(&newest.unusable).await.map_err(ServeError::Snapshots)?;
    if let Some(sealed) = newest.sealed {
        snapshots.is_sealed(sealed);
    }
    let stuck = Duration::from_millis(config.watch_stuck_ms);
    let hub = Arc::new(WatchHub::new(config.watch_bytes_max as usize, stuck, &deps.telemetry));
    let policy = Policy::new(deps.policy, &deps.telemetry);
    let applied = Arc::new(Applied::new(state, position, vec![policy.observer(), hub.clone()], &deps.telemetry));
    // Bound before Raft starts: a port in use must stop the replica before it takes part in an election.
    let listeners = Listeners { net: &*deps.net, telemetry: &deps.telemetry };
    let (incoming, endpoint) = listeners.bind("listen", &config.listen, Protocol::Http2).await?;
    let http = listeners.bind_if("http", config.http.as_ref()).await?;
    let hf3fs_clients = listeners.bind_if("hf3fs", config.hf3fs.as_ref()).await?;

    let level = Level::new(version, deps.identity_file.clone());
    level.reached(applied.read(State::feature_level)).map_err(ServeError::Identity)?;
    let halt = Arc::new(Halt::new(deps.identity_file.clone()));
    let peers = Arc::new(Peers::new(
        deps.net.clone(),
        PeerIdentity::new(identity.cluster_id, identity.replica_id, identity.directory),
        &deps.telemetry,
    ));
    let heard = Arc::new(Heard::default());
    let stop = CancellationToken::new();
    let receiving = Receiving::new(deps.snapshots.clone(), identity.cluster_id, deps.aside.clone(), halt.clone());
    let receiving = Arc::new(receiving);
    let state_machine = StateMachineParts {
        applied: applied.clone(),
        snapshots: snapshots.clone(),
        halt: halt.clone(),
        level,
        aside: deps.aside.clone(),
        stopped: stop.clone(),
    };
    let raft = Raft::new(
        identity.replica_id,
        Arc::new(raft_config(&config)),
        NetworkFactory::new(peers.clone(), heard.clone(), log_reader.clone()),
        log,
        StateMachine::new(state_machine, &deps.telemetry),
    )
    .await
    .map_err(|error| halt.why().map_or_else(|| ServeError::Raft(error.to_string()), ServeError::OtherVersion))?;
    // A vote in the log of one that rejoins is the promise it made again.
    let standing = Arc::new(Standing::new(identity.rejoining, log_vote.is_some()));
    if identity.rejoining {
        raft.runtime_config().elect(false);
    }
    let clock = Arc::new(LeaderClock::default());
    let (failing, failed) = Failing::new();
    let election = Duration::from_millis(config.election_ms_max);
    let (proposer, proposing) = Proposer::new(
        raft.clone(),
        log_reader.clone(),
        (heard.clone(), election),
        clock.clone(),
        &deps.telemetry,
        failing.clone(),
    );
    let group = Arc::new(Group::new(&identity, raft.clone(), applied.clone(), peers.clone(), heard, proposer));
    let watermarks =
        Watermarks { high_percent: config.high_watermark_percent, low_percent: config.low_watermark_percent };
    let lease = Duration::from_millis(identity.settings.lease_ms);
    let reservation = Duration::from_millis(config.hf3fs_reservation_ms);
    let leases = Arc::new(Leases::new(group.clone(), clock.clone(), LeaseTimes { lease, election }, &deps.telemetry));
    let evictor = Arc::new(Evictor::new(applied.clone(), clock.clone(), watermarks, &policy, &deps.telemetry));
    let page_files = Arc::new(hf3fs::Leader::new(group.clone(), clock.clone(), reservation));
    let duties: Vec<Arc<dyn Duty>> =
        vec![leases.clone(), Arc::new(Reclaim::new(applied.clone())), evictor.clone(), page_files.clone()];
    let keeper = KeeperParts {
        group: group.clone(),
        log: log_reader.clone(),
        snapshots,
        receiving: receiving.clone(),
        aside: deps.aside,
        floor: config.log_bytes_per_snapshot,
    };
    let (keeper, snapshot_asks) = Keeper::new(keeper, &deps.telemetry);
    let source = StatusSource {
        group: group.clone(),
        election,
        log: log_reader.clone(),
        standing: standing.clone(),
        page_files: page_files.clone(),
        page_files_served: hf3fs_clients.is_some(),
        data_dir: config.data_dir.clone(),
    };
    let flush = deps.telemetry.seconds("foreword_meta_flush_seconds", "How long a flush of the log took");
    log_reader.flushes().record_in(flush);

    tell_other_port(&group, &endpoint);
    policy.start(applied, &deps.telemetry, (failing.clone(), stop.clone())).map_err(ServeError::Thread)?;
    let mut tasks = JoinSet::new();
    let watching = watch_raft(raft.clone(), log_reader.clone(), halt.clone(), failing.clone());
    let comparing = stop_when_diverged(
        group.clone(),
        standing.clone(),
        deps.telemetry.clone(),
        (failing.clone(), deps.identity_file.clone()),
    );
    let telling = tell_log_of_members(raft.clone(), log_reader.clone());
    let noting = note_members(group.clone(), identity.members.clone(), deps.identity_file.clone());
    let joining = form_or_rejoin(group.clone(), identity, deps.identity_file.clone(), standing.clone());
    let listening = listen_for_others(group.clone());
    let readiness = keep_readiness(group.clone(), standing.clone(), election);
    let pace = Pace {
        group: group.clone(),
        peers: peers.clone(),
        log: log_reader.clone(),
        standing: standing.clone(),
        heartbeat: Duration::from_millis(config.heartbeat_ms),
        settle: Duration::from_millis(config.election_ms_min),
    };
    let changes = Changes::new(group.clone(), election);
    tasks.spawn(failing.clone().supervise("the watch over raft", watching));
    tasks.spawn(failing.clone().supervise("the proposer", proposing));
    tasks.spawn(failing.clone().supervise("the duties", Duties::new(group.clone(), clock, duties).run()));
    tasks.spawn(failing.clone().supervise("the comparison of digests", comparing));
    tasks.spawn(failing.clone().supervise("the pace", pace.keep()));
    tasks.spawn(failing.clone().supervise("the beat of leases", leases.beat().run()));
    tasks.spawn(failing.clone().supervise("the snapshots", keeper.keep()));
    tasks.spawn(failing.clone().supervise("the watch over readiness", readiness));
    tasks.spawn(failing.clone().supervise("the ear for the others", listening));
    tasks.spawn(failing.clone().supervise("the changes of members", changes.clone().tend()));
    tasks.spawn(failing.clone().supervise("the watch for removal", watch_removal(group.clone(), standing.clone())));
    tasks.spawn(failing.clone().supervise("the note of members", noting));
    tasks.spawn(failing.clone().supervise("the log's knowledge of members", telling));
    tasks.spawn(failing.supervise("forming or joining the group", joining));
    let services = rpc::server()
        .layer(RpcMetricsLayer::new(deps.telemetry.clone()))
        .layer(NameMessageLayer)
        .load_shed(true)
        .concurrency_limit_per_connection(config.requests_max)
        .add_service(MetaService::server(group.clone(), leases, evictor, hub, deps.entropy))
        .add_service(AdminService::server(source.clone(), changes, snapshot_asks))
        .add_service(RaftService::server(group.clone(), standing.clone(), receiving))
        .add_service(ForwardedCalls::server(group.peers.identity(), page_files.clone()));
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        if let Err(error) = services.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "the gRPC server ended");
        }
    });
    let http_endpoint = http.as_ref().map(|(_, endpoint)| endpoint.clone());
    if let Some((incoming, endpoint)) = http {
        let router = router(source, deps.telemetry.clone());
        tasks.spawn(serve_http(incoming, endpoint, router, stop.clone()));
    }
    let hf3fs_endpoint = hf3fs_clients.as_ref().map(|(_, endpoint)| endpoint.clone());
    if let Some((incoming, endpoint)) = hf3fs_clients {
        let calls = Calls::new(group.clone(), page_files, deps.telemetry.clone());
        tasks.spawn(serve_http(incoming, endpoint, hf3fs::http::router(Arc::new(calls)), stop.clone()));
    }
    let identity_file = deps.identity_file;
    Ok(Handle { endpoint, http_endpoint, hf3fs_endpoint, group, standing, stop, tasks, failed, log_end, identity_file })
}

/// What a replica's listeners are made with.
struct Listeners<'a> {
    net: &'a dyn Net,
    telemetry: &'a Telemetry,
}

impl Listeners<'_> {
    async fn bind(
        &self,
        field: &'static str,
        endpoint: &Endpoint,
        protocol: Protocol,
    ) -> Result<(Incoming, Endpoint), ServeError> {
        let bound = listener::listen(self.net, field, endpoint, protocol, self.telemetry).await;
        bound.map_err(|error| ServeError::Listen { field, endpoint: endpoint.clone(), error })
    }

    /// An HTTP listener, where one is asked for.
    async fn bind_if(
        &self,
        field: &'static str,
        endpoint: Option<&Endpoint>,
    ) -> Result<Option<(Incoming, Endpoint)>, ServeError> {
        match endpoint {
            Some(endpoint) => self.bind(field, endpoint, Protocol::Http1).await.map(Some),
            None => Ok(None),
        }
    }
}

async fn serve_http(incoming: Incoming, endpoint: Endpoint, router: axum::Router, stop: CancellationToken) {
    if let Err(error) = http::serve(incoming, endpoint, router, stop.cancelled_owned()).await {
        tracing::error!(%error, "an HTTP server ended");
    }
}

fn raft_config(config: &MetaConfig) -> openraft::Config {
    openraft::Config {
        cluster_name: "foreword".into(),
        heartbeat_interval: config.heartbeat_ms,
        election_timeout_min: config.election_ms_min,
        election_timeout_max: config.election_ms_max,
        // Only the stream's start is waited for by openraft; the transfer has its own deadline.
        install_snapshot_timeout: 10_000,
        max_payload_entries: RAFT_PAYLOAD_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        // The keeper of snapshots says what of the log may go.
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    }
}

/// Tells the handle when the replica stops by itself: a disk fault, an entry that cannot be read, another version.
async fn watch_raft(raft: Raft<TypeConfig>, log: LogReader, halt: Arc<Halt>, failing: Failing) {
    let mut metrics = raft.metrics();
    let raft_ended = async {
        let ended = metrics.wait_for(|m| m.running_state.is_err()).await;
        let reason = ended.ok().and_then(|metrics| metrics.running_state.as_ref().err().map(ToString::to_string));
        reason.unwrap_or_else(|| "raft stopped".into())
    };
    let failure = tokio::select! {
        other = halt.stopped() => Failure::OtherVersion(other),
        // A leader's appends are answered before they are flushed: openraft does not hear of it.
        why = log.failed() => Failure::Stopped(why.to_string()),
        reason = raft_ended => halt.why().map_or(Failure::Stopped(reason), Failure::OtherVersion),
    };
    failing.fail(failure);
}

/// A replica that most others disagree with takes part in nothing from then on, and fails.
async fn stop_when_diverged(
    group: Arc<Group>,
    standing: Arc<Standing>,
    telemetry: Telemetry,
    (failing, file): (Failing, Arc<dyn IdentityFile>),
) {
    let diverged = compare_digests(group.clone(), telemetry).await;
    tracing::error!(%diverged, "this replica stops");
    standing.stop_voting();
    group.raft.runtime_config().elect(false);
    group.raft.runtime_config().heartbeat(false);
    if let Err(error) = file.distrust() {
        tracing::error!(%error, "could not note that the log is not to be used again");
    }
    failing.fail(diverged.into());
}

/// Says it when the others look for this replica at another port than it listens on: none of them would reach it, and
/// none would say why.
fn tell_other_port(group: &Group, listens: &Endpoint) {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow();
    let Some(member) = metrics.membership_config.membership().get_node(&group.replica_id) else { return };
    let port = |endpoint: &str| endpoint.rsplit_once(':').map(|(_, port)| port.to_owned());
    if port(&member.peer) != port(&listens.to_string()) {
        tracing::warn!(reached_at = member.peer, %listens, "the group looks for this replica at another port than it listens on");
    }
}

/// Tells the log who votes, as far as it does not have the entry that says so.
async fn tell_log_of_members(raft: Raft<TypeConfig>, log: LogReader) {
    let mut metrics = raft.server_metrics();
    loop {
        let membership = metrics.borrow_and_update().membership_config.clone();
        log.membership_is(&membership);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps the identity's list of members as it is.
async fn note_members(group: Arc<Group>, mut noted: BTreeMap<u64, String>, file: Arc<dyn IdentityFile>) {
    let mut revisions = group.applied.revisions();
    let mut metrics = group.raft.server_metrics();
    // The first members are noted when the group is formed; from then on each change.
    while revisions.wait_for(|revision| *revision > 0).await.is_ok() {
        let members = metrics.borrow_and_update().membership_config.clone();
        let members: BTreeMap<u64, String> = members.nodes().map(|(id, member)| (*id, member.peer.clone())).collect();
        if !members.is_empty() && members != noted {
            match file.members_are(&members) {
                Ok(()) => noted = members,
                Err(error) => tracing::warn!(%error, "could not note the group's members"),
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// A new replica waits for its group to begin; one that lost its log rejoins.
async fn form_or_rejoin(group: Arc<Group>, identity: Identity, file: Arc<dyn IdentityFile>, standing: Arc<Standing>) {
    if identity.rejoining {
        rejoin(&group, identity.members, &*file, &standing).await;
    } else if !identity.bootstrapped && !identity.members.is_empty() {
        form(group, standing, file).await;
    }
}
