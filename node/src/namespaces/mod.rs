//! Namespaces open on this agent: opened with the group, watched, saved, closed.

mod by_namespace;
mod open_namespace;
mod purger;
mod saved;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_client::retry::{Next, next};
use foreword_client::{Cluster, Group};
use foreword_proto::limits::WATCHED_NAMESPACES_MAX;
use foreword_proto::namespace::Geometry;
use foreword_proto::status::AgentNamespaceStatus;
use foreword_proto::wire::{common, meta as wire};
use foreword_proto::{BadInput, Epoch, Namespace, NamespaceId, Revision};
use foreword_seams::{Marker, sometimes};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, Cleared, Opened};
use crate::arena::TenantId;
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::l1::L1;
use crate::l3::PageShape;
use crate::mirror::feed::Feed;
use crate::mirror::watcher::{Subscription, Subscriptions, follow};
use crate::mirror::{Mirror, SavedTable, View};
use crate::plan::places::{Place, given_up_for};

pub(crate) use by_namespace::{ByNamespace, PerNamespace};
pub(crate) use open_namespace::OpenNamespace;
use open_namespace::Usage;
use purger::Purger;
pub(crate) use saved::SavedMirrors;

/// A page takes at most this part of the arena: others must find room beside it.
const PAGE_ARENA_PART: u64 = 8;

/// Nobody has used a namespace for so long that was closed as often as it was opened: it is closed. An engine that
/// comes back to it is told that it is not open, and opens it again.
const IDLE_UNREFERENCED: Duration = Duration::from_secs(60);
/// The same, of one whose place another one needs.
const IDLE_IN_THE_WAY: Duration = Duration::from_secs(30);

/// How long the group is asked when a namespace is opened that is open already: the answer says only how new the mirror
/// should be.
const REOPEN_ASKS: Duration = Duration::from_secs(1);

/// The namespaces open on an agent.
pub(crate) struct Namespaces {
    meta: Group,
    chunk_bytes: u32,
    frame_bytes_max: u64,
    idle_max: Duration,
    clear_tenants: Vec<String>,
    open: ByNamespace<OpenNamespace>,
    /// Held while a namespace is opened or closed.
    tenants: Mutex<Tenants>,
    /// Who keeps something for each of them.
    owners: Vec<Arc<dyn PerNamespace>>,
    /// The mirrors that the watch stream fills, and the stream.
    watched: Arc<Subscriptions>,
    feed: Arc<Feed>,
    saved: SavedMirrors,
    l1: Arc<L1>,
    counters: Arc<Counters>,
}

/// Tenants by name, numbered as they come.
#[derive(Default)]
struct Tenants(BTreeMap<String, TenantId>);

impl Tenants {
    fn number(&mut self, name: &str) -> TenantId {
        let next = self.0.len() as TenantId;
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}

impl Namespaces {
    /// None open. `owners` are told of each that is opened, before it is, and closed.
    pub(crate) fn new(
        config: &NodeConfig,
        cluster: &Cluster,
        meta: Group,
        owners: Vec<Arc<dyn PerNamespace>>,
        saved: SavedMirrors,
        l1: Arc<L1>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            meta,
            chunk_bytes: cluster.chunk_bytes,
            frame_bytes_max: config.arena_bytes / PAGE_ARENA_PART,
            idle_max: Duration::from_millis(config.namespace_idle_ms),
            clear_tenants: config.clear_tenants.clone(),
            open: ByNamespace::default(),
            tenants: Mutex::default(),
            owners,
            watched: Arc::default(),
            feed: Arc::default(),
            saved,
            l1,
            counters,
        }
    }

    /// An open namespace.
    pub(crate) fn get(&self, namespace: NamespaceId) -> Result<Arc<OpenNamespace>, ApiError> {
        self.open.get(namespace)
    }

    /// As [`Self::get`], for somebody who uses it now.
    pub(crate) fn used(&self, namespace: NamespaceId) -> Result<Arc<OpenNamespace>, ApiError> {
        let open = self.open.get(namespace)?;
        open.usage.touch();
        Ok(open)
    }

    /// Somebody who opened it needs it no more. It is closed once nobody does, and has not for a minute.
    pub(crate) fn close(&self, namespace: NamespaceId) -> Result<(), ApiError> {
        self.open.get(namespace)?.usage.close();
        Ok(())
    }

    /// Closes what nobody has used for long.
    pub(crate) fn close_idle(&self) {
        let _opening = self.tenants.lock();
        for open in self.open.all() {
            let most = if open.usage.is_unreferenced() { self.idle_max.min(IDLE_UNREFERENCED) } else { self.idle_max };
            if open.usage.idle() >= most {
                self.forget(&open, "nobody uses it");
            }
        }
    }

    /// Shows what is known of each open namespace, in the order of their ids.
    pub(crate) fn visit_mirrors(&self, mut visit: impl FnMut(NamespaceId, &View)) {
        for open in self.open.all() {
            open.mirror.read(|view| visit(open.id, view));
        }
    }

    /// True if every namespace open now had its first whole sync.
    pub(crate) fn synced(&self) -> bool {
        self.open.all().iter().all(|open| open.mirror.read(View::synced))
    }

    /// One line a namespace.
    pub(crate) fn status(&self) -> Vec<AgentNamespaceStatus> {
        let status_of = |open: &Arc<OpenNamespace>| {
            open.mirror.read(|view| AgentNamespaceStatus {
                id: open.id,
                epoch: view.epoch(),
                revision: view.revision(),
                synced: view.synced(),
                mirror_age_ms: self.feed.age_of(view.revision()).as_millis() as u64,
                pages: view.pages() as u64,
                overlay_pages: view.overlay_pages() as u64,
            })
        };
        self.open.all().iter().map(status_of).collect()
    }

    /// The group was heard to have this revision at this time.
    pub(crate) fn group_had(&self, revision: Revision, at: Instant) {
        self.feed.group_had(revision, at);
    }

    /// A span of time is over, after which pages that were evicted in the span before it are not looked for any more.
    pub(crate) fn forget_departed(&self) {
        for open in self.open.all() {
            // Let go of outside of the mirror's lock.
            drop(open.mirror.write(|view| view.forget_departed()));
        }
    }

    /// Keeps the mirrors up to date until stopped. `node` is who the replicas are told to be watching.
    pub(crate) fn follow(&self, node: String, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        follow(self.watched.clone(), self.feed.clone(), self.meta.clone(), node, stop)
    }

    /// Saves every mirror that moved on since it was saved.
    pub(crate) async fn save_mirrors(&self) {
        for open in self.open.all() {
            self.saved.save(&open).await;
        }
    }

    /// Registers the namespace with the group, watches it, and waits for its first sync until the deadline. Idempotent.
    ///
    /// Errors: a namespace that does not fit this agent, or the group's refusal.
    pub(crate) async fn open(self: &Arc<Self>, namespace: Namespace, deadline: Instant) -> Result<Opened, ApiError> {
        namespace.validate().map_err(|error| error.within("namespace"))?;
        let geometry = namespace.geometry();
        if geometry.frame_bytes > self.frame_bytes_max {
            let (most, got) = (self.frame_bytes_max, geometry.frame_bytes);
            let expected = format!("a page of at most {most} bytes (1/8 of arena_bytes), got {got}");
            return Err(BadInput::new("namespace.shard_bytes", expected).into());
        }
        let known = self.open.all().into_iter().find(|open| open.namespace == namespace);
        let until = known.as_ref().map_or(deadline, |_| deadline.min(Instant::now() + REOPEN_ASKS));
        let request = wire::RegisterNamespaceRequest { namespace: Some(common::Namespace::from(&namespace)) };
        let register = self.meta.retry(until, |mut client| {
            let request = request.clone();
            async move { client.register_namespace(request).await }
        });
        let registered = match (register.await, known) {
            (Ok(registered), _) => registered,
            // The group is away; what is known here is served all the same.
            (Err(status), Some(known)) if next(&status) == Next::Elsewhere => {
                known.usage.open();
                return Ok(known.opened());
            }
            (Err(status), _) => return Err(ApiError::Group(status)),
        };
        let expected = geometry.slot_bytes(self.chunk_bytes);
        if u64::from(registered.slot_bytes) != expected {
            let expected = format!("slots of {expected} bytes, the group says {}", registered.slot_bytes);
            return Err(BadInput::new("namespace.shard_bytes", expected).into());
        }
        let saved = match self.get(registered.namespace_id) {
            Ok(_) => None,
            Err(_) => self.saved.load(&namespace, registered.namespace_id, registered.epoch).await,
        };
        let open = self.enter(namespace, geometry, &registered, saved)?;
        self.feed.group_had(registered.revision, Instant::now());
        open.mirror.synced(deadline).await;
        // What was there before the namespace was opened is seen by the first lookup.
        open.mirror.reached(registered.revision, deadline).await;
        Ok(open.opened())
    }

    /// Has the group clear a namespace, and waits until its mirror here is, or for the deadline.
    ///
    /// Errors: its tenant's engines may not, or the group's refusal.
    pub(crate) async fn clear(&self, namespace: NamespaceId, deadline: Instant) -> Result<Cleared, ApiError> {
        let open = self.used(namespace)?;
        let tenant = &open.namespace.tenant;
        if !self.clear_tenants.contains(tenant) {
            return Err(ApiError::MayNotClear(tenant.clone()));
        }
        let request = wire::ClearRequest { namespace_id: namespace };
        let clear = self.meta.retry(deadline, |mut client| async move { client.clear(request).await });
        let wire::ClearResponse { epoch, revision } = clear.await.map_err(ApiError::Group)?;
        open.mirror.reached(revision, deadline).await;
        tracing::info!(namespace, revision, model = open.namespace.model, "an engine cleared a namespace");
        Ok(Cleared { epoch, revision })
    }

    /// Opens the namespace here unless it is open.
    fn enter(
        self: &Arc<Self>,
        namespace: Namespace,
        geometry: Geometry,
        registered: &wire::RegisterNamespaceResponse,
        saved: Option<SavedTable>,
    ) -> Result<Arc<OpenNamespace>, ApiError> {
        let mut tenants = self.tenants.lock();
        let id = registered.namespace_id;
        if let Ok(open) = self.get(id) {
            open.usage.open();
            return Ok(open);
        }
        let tenant = tenants.number(&namespace.tenant);
        self.make_place(tenant)?;
        let mirror = Mirror::new(namespace.shards(), registered.epoch, self.feed.clone());
        if let Some(saved) = saved {
            let (revision, pages) = (saved.revision, saved.table.len());
            tracing::info!(namespace = id, revision, pages, "a saved mirror is used");
            sometimes(Marker::MirrorRestored);
            self.saved.restored(id, revision);
            mirror.write(|view| view.restore(registered.epoch, saved));
        }
        let open = Arc::new(OpenNamespace {
            id,
            tenant,
            mirror: Arc::new(mirror),
            shape: PageShape { slot_bytes: registered.slot_bytes, frame_bytes: geometry.frame_bytes },
            geometry,
            namespace,
            usage: Usage::new(),
        });
        open.usage.open();
        for owner in &self.owners {
            owner.opened(&open);
        }
        self.open.insert(id, open.clone());
        self.watched.add(Subscription {
            namespace: id,
            shards: open.geometry.shards(),
            mirror: open.mirror.clone(),
            events: Box::new(Purger { namespaces: Arc::downgrade(self), namespace: id }),
        });
        Ok(open)
    }

    /// Forgets a namespace that the group dropped: an engine that asks for it is told that it is not open. What is
    /// under way in it ends by itself; the group refuses its publishes.
    fn close_dropped(&self, namespace: NamespaceId) {
        let _opening = self.tenants.lock();
        let Ok(open) = self.open.get(namespace) else { return };
        self.forget(&open, "it was dropped");
        self.l1.write(|pages| pages.remove_namespace(namespace, Epoch::MAX));
        sometimes(Marker::OpenNamespaceDropped);
        self.saved.remove(&open);
    }

    /// Closes another one for this tenant if there are as many as may be.
    ///
    /// Errors: there is none for it.
    fn make_place(&self, tenant: TenantId) -> Result<(), ApiError> {
        let all = self.open.all();
        if all.len() < WATCHED_NAMESPACES_MAX {
            return Ok(());
        }
        let place = |open: &Arc<OpenNamespace>| Place {
            tenant: open.tenant,
            unreferenced: open.usage.is_unreferenced(),
            idle_ms: open.usage.idle().as_millis() as u64,
        };
        let places: Vec<Place> = all.iter().map(place).collect();
        let given_up = given_up_for(tenant, &places, self.idle_max.min(IDLE_IN_THE_WAY).as_millis() as u64);
        let given_up = given_up.ok_or(ApiError::TooManyNamespaces(WATCHED_NAMESPACES_MAX))?;
        self.forget(&all[given_up], "another one needs its place");
        Ok(())
    }

    /// Closes a namespace: nothing is watched, and calls are told that it is not open. Its pages in L1 stay until their
    /// room is needed, for whoever opens it again: a resync, or the events since its mirror was saved, then say which
    /// are still good.
    fn forget(&self, open: &OpenNamespace, why: &str) {
        if self.open.remove(open.id).is_none() {
            return;
        }
        for owner in &self.owners {
            owner.closed(open.id);
        }
        self.watched.remove(open.id);
        tracing::info!(namespace = open.id, model = open.namespace.model, why, "a namespace is closed here");
    }
}
