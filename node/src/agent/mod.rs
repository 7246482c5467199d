//! The agent's core: what it holds, and the API over it. Each file beside this one is one path through it.

mod get;
mod heat;
mod look;
mod open;
mod page_work;
mod prefetch;
mod publish;
mod put;
mod read;
mod save;
mod stats;
mod suspects;
mod sweep;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use foreword_proto::status::AgentStatus;
use foreword_proto::{Namespace, NamespaceId, PageKey, SessionId};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{ApiError, EngineApi, Found, GetAsk, Located, LookupAsk, Opened, PageAnswer, PutAsk, PutCall};
use crate::arena::TenantId;
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::l1::L1;
use crate::l3::L3;
use crate::memory::{Memory, Room};
use crate::meta_client::{Cluster, MetaClient};
use crate::mirror::View;
use crate::mirror::feed::Feed;
use crate::mirror::watcher::{Subscriptions, follow};
use crate::session::Sessions;
use crate::session::grants::Grants;

use open::OpenNamespace;
use suspects::Suspects;
use write::WriteJob;

/// The part of the arena that pages on their way to L3 may fill: 1/2.
const PUT_ARENA_PART: u64 = 2;
/// The part of the arena that pages on their way to engines may fill: 1/4.
const GET_ARENA_PART: u64 = 4;

/// What the core is made of.
pub struct Parts {
    pub config: NodeConfig,
    pub cluster: Cluster,
    pub meta: MetaClient,
    pub sessions: Arc<Sessions>,
    pub grants: Arc<Grants>,
    pub l1: Arc<L1>,
    pub l3: Arc<L3>,
    pub counters: Arc<Counters>,
    pub files: Option<Arc<dyn foreword_seams::Files>>,
}

/// An agent.
#[derive(Clone)]
pub struct Agent {
    core: Arc<Core>,
}

pub(crate) struct Core {
    config: NodeConfig,
    cluster: Cluster,
    meta: MetaClient,
    sessions: Arc<Sessions>,
    grants: Arc<Grants>,
    memory: Memory,
    l1: Arc<L1>,
    l3: Arc<L3>,
    counters: Arc<Counters>,
    files: Option<Arc<dyn foreword_seams::Files>>,
    /// The mirrors that the watch stream fills, and the stream.
    watched: Arc<Subscriptions>,
    feed: Arc<Feed>,
    namespaces: RwLock<BTreeMap<NamespaceId, Arc<OpenNamespace>>>,
    /// Tenants by name, numbered as they come.
    tenants: Mutex<BTreeMap<String, TenantId>>,
    /// One queue a slot size: a full class does not hold up another.
    writers: Mutex<BTreeMap<u32, mpsc::Sender<WriteJob>>>,
    put_room: Room,
    get_room: Room,
    suspects: Suspects,
    next_writer: AtomicU64,
    started: Instant,
    ready: AtomicBool,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Agent {
    /// An agent of these parts; [`Agent::start`] makes it work.
    pub fn new(parts: Parts, stop: CancellationToken) -> Self {
        let arena_bytes = parts.config.arena_bytes;
        let core = Core {
            put_room: Room::new(arena_bytes / PUT_ARENA_PART),
            get_room: Room::new(arena_bytes / GET_ARENA_PART),
            config: parts.config,
            cluster: parts.cluster,
            meta: parts.meta,
            sessions: parts.sessions,
            grants: parts.grants,
            memory: Memory::new(parts.l1.clone(), parts.l3.clone(), parts.counters.clone()),
            l1: parts.l1,
            l3: parts.l3,
            counters: parts.counters,
            files: parts.files,
            watched: Arc::default(),
            feed: Arc::default(),
            namespaces: RwLock::default(),
            tenants: Mutex::default(),
            writers: Mutex::default(),
            suspects: Suspects::default(),
            next_writer: AtomicU64::new(1),
            started: Instant::now(),
            ready: AtomicBool::new(false),
            stop,
            tasks: TaskTracker::new(),
        };
        Self { core: Arc::new(core) }
    }

    /// Starts the tasks every agent has.
    pub fn start(&self) {
        let core = &self.core;
        core.spawn(core.l3.clone().run(core.stop.clone()));
        core.spawn(suspects::report(core.clone()));
        core.spawn(heat::report(core.clone()));
        core.spawn(sweep::sweep(core.clone()));
        core.spawn(save::keep_saving(core.clone()));
        let (node, stop) = (core.config.node.clone(), core.stop.clone());
        core.spawn(follow(core.watched.clone(), core.feed.clone(), core.meta.clone(), node, stop));
    }

    /// True after the first session and the first sync of every namespace open then; and then for good.
    pub fn is_ready(&self) -> bool {
        self.core.is_ready()
    }

    /// Another agent has its name.
    pub fn is_refused(&self) -> bool {
        self.core.sessions.refused()
    }

    /// The session it holds, if one is open as far as it knows.
    pub fn session(&self) -> Option<SessionId> {
        self.core.sessions.current().map(|session| session.id)
    }

    /// Shows what it knows of each open namespace, in the order of their ids.
    pub fn visit_mirrors(&self, mut visit: impl FnMut(NamespaceId, &View)) {
        for open in self.core.namespaces.read().values() {
            open.mirror.read(|view| visit(open.id, view));
        }
    }

    /// What is in use in it now.
    pub fn held(&self) -> Held {
        let core = &self.core;
        let (l1_pages, segments) = core.l1.read(|pages| (pages.pages() as u64, core.l1.arena().segments()));
        Held {
            l1_pages,
            pages_under_way: core.namespaces.read().values().map(|open| open.works.lock().len() as u64).sum(),
            frames_used: segments.iter().map(|segment| u64::from(segment.frames_used)).sum(),
            frames_quarantined: segments.iter().map(|segment| u64::from(segment.frames_quarantined)).sum(),
            put_room_used: core.put_room.used(),
            get_room_used: core.get_room.used(),
        }
    }

    /// Saves the mirrors, if they are saved at all.
    pub async fn save_mirrors(&self) {
        if let Some(files) = &self.core.files {
            self.core.save_mirrors(files).await;
        }
    }

    /// Waits until all tasks have ended; they were told to by the token given at the start.
    pub async fn ended(&self) {
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }
}

/// What is in use in an agent. When nothing is under way, every frame that is not quarantined is an L1 page's, and no room is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub l1_pages: u64,
    /// Pages on their way to L3.
    pub pages_under_way: u64,
    /// Frames with a holder, the quarantined ones included.
    pub frames_used: u64,
    pub frames_quarantined: u64,
    /// Units of room that pages on their way in, and out, take.
    pub put_room_used: u64,
    pub get_room_used: u64,
}

impl Core {
    /// Runs a task until it ends or the agent stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        });
    }

    fn open(&self, namespace: NamespaceId) -> Result<Arc<OpenNamespace>, ApiError> {
        self.namespaces.read().get(&namespace).cloned().ok_or(ApiError::UnknownNamespace(namespace))
    }

    fn is_ready(&self) -> bool {
        if self.sessions.refused() {
            return false;
        }
        if self.ready.load(Ordering::Relaxed) {
            return true;
        }
        let synced = self.namespaces.read().values().all(|open| open.mirror.read(|view| view.synced()));
        let ready = synced && self.sessions.current().is_some();
        if ready {
            self.ready.store(true, Ordering::Relaxed);
        }
        ready
    }
}

impl EngineApi for Agent {
    fn open_namespace(&self, namespace: Namespace, deadline: Instant) -> BoxFuture<'_, Result<Opened, ApiError>> {
        Box::pin(self.core.open_namespace(namespace, deadline))
    }

    fn namespace(&self, namespace: NamespaceId) -> Result<Opened, ApiError> {
        Ok(self.core.open(namespace)?.opened())
    }

    fn lookup(&self, ask: LookupAsk) -> BoxFuture<'_, Result<Found, ApiError>> {
        Box::pin(self.core.lookup(ask))
    }

    fn locate(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<Located, ApiError> {
        self.core.locate(namespace, keys)
    }

    fn get(&self, ask: GetAsk) -> Result<BoxStream<'static, PageAnswer>, ApiError> {
        self.core.get(ask)
    }

    fn put(&self, ask: PutAsk) -> Result<Box<dyn PutCall>, ApiError> {
        self.core.put(ask)
    }

    fn prefetch(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<u32, ApiError> {
        self.core.prefetch(namespace, keys)
    }

    fn release(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<(), ApiError> {
        self.core.release(namespace, keys)
    }

    fn stats(&self) -> AgentStatus {
        self.core.stats()
    }
}
