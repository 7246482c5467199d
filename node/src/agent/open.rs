//! Namespaces open on this agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use foreword_proto::limits::WATCHED_NAMESPACES_MAX;
use foreword_proto::namespace::Geometry;
use foreword_proto::wire::{common, meta as wire};
use foreword_proto::{BadInput, EntryKey, Epoch, Namespace, NamespaceId, Revision};
use foreword_seams::{Marker, sometimes};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Core;
use super::heat::HeatLog;
use super::page_work::PageWork;
use super::publish::{PUBLISH_QUEUE_PAGES_MAX, PublishJob, publish_pages};
use super::read::SharedReads;
use super::write::WriteJob;
use crate::api::{ApiError, Opened};
use crate::arena::TenantId;
use crate::l1::PageId;
use crate::l3::PageShape;
use crate::mirror::Mirror;
use crate::mirror::saved::file_name;
use crate::mirror::table::Table;
use crate::mirror::watcher::{Subscription, WatchEvents};
use crate::plan::prefetch::PrefetchWindow;

/// A page takes at most this part of the arena: others must find room beside it.
const PAGE_ARENA_PART: u64 = 8;

/// Pages of L1 that are looked at in one go after a resync.
const PURGE_SLICE_PAGES: usize = 1024;

/// One open namespace.
pub(super) struct OpenNamespace {
    pub(super) id: NamespaceId,
    pub(super) namespace: Namespace,
    pub(super) geometry: Geometry,
    pub(super) shape: PageShape,
    pub(super) tenant: TenantId,
    pub(super) mirror: Arc<Mirror>,
    pub(super) reads: SharedReads,
    /// Pages on their way to L3, by the epoch in which their bytes came.
    pub(super) works: Mutex<BTreeMap<(Epoch, EntryKey), Arc<PageWork>>>,
    pub(super) ahead: Mutex<PrefetchWindow>,
    pub(super) heat: HeatLog,
    /// What is on local disk.
    pub(super) saved_revision: Mutex<Revision>,
    pub(super) writer: mpsc::Sender<WriteJob>,
    pub(super) publisher: mpsc::Sender<PublishJob>,
}

impl OpenNamespace {
    pub(super) fn opened(&self) -> Opened {
        let (epoch, revision) = self.mirror.read(|view| (view.epoch(), view.revision()));
        Opened {
            namespace: self.id,
            epoch,
            revision,
            geometry: self.geometry.clone(),
            slot_bytes: self.shape.slot_bytes,
            page_tokens: self.namespace.page_tokens,
        }
    }

    pub(super) fn page(&self, epoch: Epoch, key: EntryKey) -> PageId {
        PageId { namespace: self.id, epoch, key }
    }
}

impl Core {
    pub(super) async fn open_namespace(
        self: &Arc<Self>,
        namespace: Namespace,
        deadline: Instant,
    ) -> Result<Opened, ApiError> {
        namespace.validate().map_err(|error| error.within("namespace"))?;
        let geometry = namespace.geometry();
        let frame_bytes_max = self.config.arena_bytes / PAGE_ARENA_PART;
        if geometry.frame_bytes > frame_bytes_max {
            let expected =
                format!("a page of at most {frame_bytes_max} bytes (1/8 of arena_bytes), got {}", geometry.frame_bytes);
            return Err(BadInput::new("namespace.shard_bytes", expected).into());
        }
        let request = wire::RegisterNamespaceRequest { namespace: Some(common::Namespace::from(&namespace)) };
        let registered = self
            .meta
            .retry(deadline, |mut client| {
                let request = request.clone();
                async move { client.register_namespace(request).await }
            })
            .await
            .map_err(ApiError::Group)?;
        let expected = geometry.slot_bytes(self.cluster.chunk_bytes);
        if u64::from(registered.slot_bytes) != expected {
            let expected = format!("slots of {expected} bytes, the group says {}", registered.slot_bytes);
            return Err(BadInput::new("namespace.shard_bytes", expected).into());
        }
        let saved = match self.open(registered.namespace_id) {
            Ok(_) => None,
            Err(_) => self.saved_mirror(&namespace, registered.namespace_id, registered.epoch).await,
        };
        let open = self.enter(namespace, geometry, &registered, saved)?;
        self.feed.group_has(registered.revision);
        open.mirror.synced(deadline).await;
        // What was there before the namespace was opened is seen by the first lookup.
        open.mirror.reached(registered.revision, deadline).await;
        Ok(open.opened())
    }

    /// Opens the namespace here unless it is open.
    fn enter(
        self: &Arc<Self>,
        namespace: Namespace,
        geometry: Geometry,
        registered: &wire::RegisterNamespaceResponse,
        saved: Option<(Revision, Table)>,
    ) -> Result<Arc<OpenNamespace>, ApiError> {
        let mut namespaces = self.namespaces.write();
        if let Some(open) = namespaces.get(&registered.namespace_id) {
            return Ok(open.clone());
        }
        if namespaces.len() >= WATCHED_NAMESPACES_MAX {
            return Err(
                BadInput::new("namespace", format!("at most {WATCHED_NAMESPACES_MAX} open on one agent")).into()
            );
        }
        let shape = PageShape { slot_bytes: registered.slot_bytes, frame_bytes: geometry.frame_bytes };
        let mirror = Mirror::new(namespace.shards(), registered.epoch, self.feed.clone());
        let mut saved_revision = 0;
        if let Some((revision, table)) = saved {
            tracing::info!(
                namespace = registered.namespace_id,
                revision,
                pages = table.len(),
                "a saved mirror is used"
            );
            sometimes(Marker::MirrorRestored);
            saved_revision = revision;
            mirror.write(|view| view.restore(registered.epoch, revision, table));
        }
        let (publisher, publish_jobs) = mpsc::channel(PUBLISH_QUEUE_PAGES_MAX);
        let open = Arc::new(OpenNamespace {
            id: registered.namespace_id,
            tenant: self.tenant(&namespace.tenant),
            mirror: Arc::new(mirror),
            reads: SharedReads::default(),
            works: Mutex::default(),
            ahead: Mutex::new(PrefetchWindow::new(self.config.arena_bytes, geometry.frame_bytes)),
            heat: HeatLog::default(),
            saved_revision: Mutex::new(saved_revision),
            writer: self.writer(shape),
            publisher,
            shape,
            namespace,
            geometry,
        });
        self.spawn(publish_pages(self.clone(), publish_jobs));
        namespaces.insert(open.id, open.clone());
        self.watched.add(Subscription {
            namespace: open.id,
            shards: open.geometry.shards(),
            mirror: open.mirror.clone(),
            events: Box::new(Purger { core: Arc::downgrade(self), namespace: open.id }),
        });
        Ok(open)
    }

    /// Forgets a namespace that the group dropped: an engine that asks for it is told that it is not open. What is under way in it
    /// ends by itself; the group refuses its publishes.
    fn close_dropped(&self, namespace: NamespaceId) {
        let Some(open) = self.namespaces.write().remove(&namespace) else { return };
        self.l1.write(|pages| pages.remove_namespace(namespace, Epoch::MAX));
        sometimes(Marker::OpenNamespaceDropped);
        tracing::warn!(namespace, model = open.namespace.model, "the namespace was dropped; it is closed here");
        if let Some(files) = self.files.clone() {
            let name = file_name(self.cluster.cluster_id, open.namespace.fingerprint());
            self.spawn(async move {
                if let Err(error) = files.remove(&name).await {
                    tracing::warn!(namespace, %error, "its saved mirror could not be removed");
                }
            });
        }
    }

    fn tenant(&self, name: &str) -> TenantId {
        let mut tenants = self.tenants.lock();
        let next = tenants.len() as TenantId;
        *tenants.entry(name.to_owned()).or_insert(next)
    }
}

/// Purges L1 of what was deleted or cleared.
struct Purger {
    core: Weak<Core>,
    namespace: NamespaceId,
}

impl WatchEvents for Purger {
    fn purged(&self, keys: &[EntryKey]) {
        let Some(core) = self.core.upgrade() else { return };
        let Ok(open) = core.open(self.namespace) else { return };
        let epoch = open.mirror.read(|view| view.epoch());
        core.l1.write(|pages| {
            for key in keys {
                pages.remove(&open.page(epoch, *key));
            }
        });
    }

    fn purge_absent(&self) -> BoxFuture<'_, ()> {
        async {
            let Some(core) = self.core.upgrade() else { return };
            let Ok(open) = core.open(self.namespace) else { return };
            let epoch = open.mirror.read(|view| view.epoch());
            // A slice at a time: the whole tier may hold millions of pages.
            let segments = core.l1.read(|pages| pages.segments());
            for segment in segments {
                let mut copies = core.l1.read(|pages| pages.keys_in(segment, self.namespace, epoch));
                while !copies.is_empty() {
                    let slice = copies.split_off(copies.len().saturating_sub(PURGE_SLICE_PAGES));
                    open.mirror.read(|view| {
                        core.l1.write(|pages| {
                            for key in slice.iter().filter(|key| view.slot(key).is_none()) {
                                pages.remove(&open.page(epoch, *key));
                            }
                        });
                    });
                    tokio::task::yield_now().await;
                }
            }
        }
        .boxed()
    }

    fn epoch_began(&self, epoch: Epoch) {
        let Some(core) = self.core.upgrade() else { return };
        core.l1.write(|pages| pages.remove_namespace(self.namespace, epoch.saturating_sub(1)));
    }

    fn dropped(&self) {
        if let Some(core) = self.core.upgrade() {
            core.close_dropped(self.namespace);
        }
    }

    fn resynced(&self) {
        if let Some(core) = self.core.upgrade() {
            core.counters.watch_resyncs.add(1);
        }
    }
}
