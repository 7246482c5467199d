//! The agent: its owners put together, and the API over them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foreword_client::{Cluster, Group};
use foreword_proto::status::AgentStatus;
use foreword_proto::{ClusterId, Namespace, NamespaceId, PageKey, PutOutcome, Revision, SessionId};
use foreword_seams::Files;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{
    ApiError, Cleared, EngineApi, Found, GetAsk, Located, LookupAsk, Opened, PageAnswer, PutAsk, PutCall,
};
use crate::chores::Chores;
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::l1::L1;
use crate::l3::L3;
use crate::memory::Memory;
use crate::mirror::View;
use crate::namespaces::{Namespaces, PerNamespace, SavedMirrors};
use crate::reading::{PageReader, Reading, Suspects};
use crate::session::Sessions;
use crate::session::grants::Grants;
use crate::tasks::Tasks;
use crate::writing::{Publishers, Writers, Writing};

/// What an agent is made of.
pub(crate) struct Parts {
    pub(crate) config: NodeConfig,
    pub(crate) cluster: Cluster,
    pub(crate) meta: Group,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) grants: Arc<Grants>,
    pub(crate) l1: Arc<L1>,
    pub(crate) l3: Arc<L3>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) files: Option<Arc<dyn Files>>,
}

/// An agent.
#[derive(Clone)]
pub struct Agent {
    owners: Arc<Owners>,
}

struct Owners {
    node: String,
    cluster_id: ClusterId,
    namespaces: Arc<Namespaces>,
    reading: Arc<Reading>,
    writing: Arc<Writing>,
    l1: Arc<L1>,
    l3: Arc<L3>,
    sessions: Arc<Sessions>,
    counters: Arc<Counters>,
    ready: AtomicBool,
    tasks: Tasks,
}

impl Agent {
    /// An agent of these parts, and the tasks every agent has; `stop` ends it.
    pub(crate) fn start(parts: Parts, stop: CancellationToken) -> Self {
        let Parts { config, cluster, meta, sessions, grants, l1, l3, counters, files } = parts;
        let tasks = Tasks::new(stop);
        let memory = Arc::new(Memory::new(l1.clone(), l3.clone(), counters.clone()));

        let suspects = Arc::new(Suspects::default());
        let reader = Arc::new(PageReader::new(
            &config,
            memory.clone(),
            l1.clone(),
            l3.clone(),
            suspects.clone(),
            counters.clone(),
            tasks.clone(),
        ));
        let reading = Arc::new(Reading::new(
            &config,
            reader,
            l1.clone(),
            l3.clone(),
            meta.clone(),
            counters.clone(),
            tasks.clone(),
        ));

        let writers = Arc::new(Writers::new(
            &config,
            memory.clone(),
            l3.clone(),
            sessions.clone(),
            grants.clone(),
            counters.clone(),
            tasks.clone(),
        ));
        let publishers =
            Arc::new(Publishers::new(&config, l1.clone(), sessions.clone(), grants, counters.clone(), tasks.clone()));
        let writing = Arc::new(Writing::new(&config, writers, publishers, memory.clone(), counters.clone()));

        let saved = SavedMirrors::new(files, cluster.cluster_id, tasks.clone());
        let told: Vec<Arc<dyn PerNamespace>> = vec![reading.clone(), writing.clone(), memory.clone()];
        let namespaces =
            Arc::new(Namespaces::new(&config, &cluster, meta.clone(), told, saved, l1.clone(), counters.clone()));

        tasks.spawn(l3.clone().run(tasks.stop()));
        tasks.spawn(memory.clone().serve_waiters());
        let chores = Chores {
            namespaces: namespaces.clone(),
            reading: reading.clone(),
            suspects,
            writing: writing.clone(),
            memory,
            sessions: sessions.clone(),
            meta,
            counters: counters.clone(),
        };
        chores.start(&config, &tasks);
        let (node, cluster_id, ready) = (config.node, cluster.cluster_id, AtomicBool::new(false));
        let owners =
            Owners { node, cluster_id, namespaces, reading, writing, l1, l3, sessions, counters, ready, tasks };
        Self { owners: Arc::new(owners) }
    }

    /// True after the first session and the first sync of every namespace open then; and then for good.
    pub fn is_ready(&self) -> bool {
        let owners = &self.owners;
        if owners.sessions.refused() {
            return false;
        }
        if owners.ready.load(Ordering::Relaxed) {
            return true;
        }
        let ready = owners.namespaces.synced() && owners.sessions.current().is_some();
        if ready {
            owners.ready.store(true, Ordering::Relaxed);
        }
        ready
    }

    /// Another agent has its name.
    pub fn is_refused(&self) -> bool {
        self.owners.sessions.refused()
    }

    /// The session it holds, if one is open as far as it knows.
    pub fn session(&self) -> Option<SessionId> {
        self.owners.sessions.current().map(|session| session.id)
    }

    /// Shows what it knows of each open namespace, in the order of their ids.
    pub fn visit_mirrors(&self, visit: impl FnMut(NamespaceId, &View)) {
        self.owners.namespaces.visit_mirrors(visit);
    }

    /// What is in use in it now.
    pub fn held(&self) -> Held {
        let owners = &self.owners;
        let (l1_pages, segments) = owners.l1.read(|pages| (pages.pages() as u64, owners.l1.arena().segments()));
        Held {
            l1_pages,
            pages_under_way: owners.writing.pages_under_way() as u64,
            frames_used: segments.iter().map(|segment| u64::from(segment.frames_used)).sum(),
            frames_quarantined: segments.iter().map(|segment| u64::from(segment.frames_quarantined)).sum(),
            put_room_used: owners.writing.room_used(),
            get_room_used: owners.reading.room_used(),
        }
    }

    /// Saves the mirrors, if they are saved at all.
    pub async fn save_mirrors(&self) {
        self.owners.namespaces.save_mirrors().await;
    }

    /// Waits until all tasks have ended; they were told to by the token given at the start.
    pub async fn ended(&self) {
        self.owners.tasks.ended().await;
    }
}

/// What is in use in an agent. When nothing is under way, every frame that is not quarantined is an L1 page's, and no
/// room is used.
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

impl EngineApi for Agent {
    fn open_namespace(&self, namespace: Namespace, deadline: Instant) -> BoxFuture<'_, Result<Opened, ApiError>> {
        Box::pin(self.owners.namespaces.open(namespace, deadline))
    }

    fn namespace(&self, namespace: NamespaceId) -> Result<Opened, ApiError> {
        Ok(self.owners.namespaces.used(namespace)?.opened())
    }

    fn close_namespace(&self, namespace: NamespaceId) -> Result<(), ApiError> {
        self.owners.namespaces.close(namespace)
    }

    fn lookup(&self, ask: LookupAsk) -> BoxFuture<'_, Result<Found, ApiError>> {
        Box::pin(self.owners.reading.lookup(ask))
    }

    fn lookup_now(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<Found, ApiError> {
        self.owners.reading.lookup_now(namespace, keys)
    }

    fn locate(&self, ask: LookupAsk) -> BoxFuture<'_, Result<Located, ApiError>> {
        Box::pin(self.owners.reading.locate(ask))
    }

    fn get(&self, ask: GetAsk) -> Result<BoxStream<'static, PageAnswer>, ApiError> {
        self.owners.reading.get(ask)
    }

    fn get_now(
        &self,
        namespace: NamespaceId,
        keys: &[PageKey],
        min_revision: Revision,
    ) -> Result<Vec<PageAnswer>, ApiError> {
        self.owners.reading.get_now(namespace, keys, min_revision)
    }

    fn wanted(
        &self,
        namespace: NamespaceId,
        shard: u32,
        keys: &[PageKey],
    ) -> Result<Vec<Option<PutOutcome>>, ApiError> {
        self.owners.namespaces.used(namespace)?;
        self.owners.writing.wanted(namespace, shard, keys)
    }

    fn put(&self, ask: PutAsk) -> Result<Box<dyn PutCall>, ApiError> {
        self.owners.namespaces.used(ask.namespace)?;
        self.owners.writing.put(ask)
    }

    fn prefetch(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<u32, ApiError> {
        self.owners.namespaces.used(namespace)?;
        self.owners.reading.prefetch(namespace, keys)
    }

    fn release(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<(), ApiError> {
        self.owners.reading.release(namespace, keys)
    }

    fn clear(&self, namespace: NamespaceId, deadline: Instant) -> BoxFuture<'_, Result<Cleared, ApiError>> {
        Box::pin(self.owners.namespaces.clear(namespace, deadline))
    }

    fn stats(&self) -> AgentStatus {
        let owners = &self.owners;
        let (reads, writes) = owners.l3.breakers();
        AgentStatus {
            cluster_id: owners.cluster_id,
            node: owners.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: self.is_ready(),
            session: self.session().map(|session| session.to_string()),
            fenced: owners.sessions.fenced(),
            l3_breaker: reads.word().to_owned(),
            l3_write_breaker: writes.word().to_owned(),
            namespaces: owners.namespaces.status(),
            arena: owners.l1.read(|pages| pages.status()),
            counters: owners.counters.snapshot(),
        }
    }
}
