//! One open namespace: who may share its pages, how they lie in memory and on L3, and its mirror.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use foreword_proto::namespace::Geometry;
use foreword_proto::{EntryKey, Epoch, Namespace, NamespaceId};
use tokio::time::Instant;

use crate::api::Opened;
use crate::arena::TenantId;
use crate::l1::PageId;
use crate::l3::PageShape;
use crate::mirror::Mirror;
use crate::plan::fair_shares::Asker;

/// A namespace open on this agent. Nothing of it changes but what its mirror knows.
pub(crate) struct OpenNamespace {
    pub(crate) id: NamespaceId,
    pub(crate) tenant: TenantId,
    pub(crate) geometry: Geometry,
    pub(crate) shape: PageShape,
    pub(crate) mirror: Arc<Mirror>,
    pub(super) namespace: Namespace,
    pub(super) usage: Usage,
}

/// Who uses a namespace, and when somebody did.
#[derive(Debug)]
pub(super) struct Usage {
    since: Instant,
    /// Opened so many times more often than closed.
    references: AtomicU32,
    /// Milliseconds after `since`.
    last_ms: AtomicU64,
}

impl Usage {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), references: AtomicU32::new(0), last_ms: AtomicU64::new(0) }
    }

    /// Somebody uses it now.
    pub(super) fn touch(&self) {
        self.last_ms.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Somebody opened it.
    pub(super) fn open(&self) {
        self.touch();
        self.references.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody who opened it needs it no more.
    pub(super) fn close(&self) {
        let _ = self.references.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    /// True if nobody is known to need it.
    pub(super) fn is_unreferenced(&self) -> bool {
        self.references.load(Ordering::Relaxed) == 0
    }

    /// How long nobody has used it.
    pub(super) fn idle(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

impl OpenNamespace {
    /// What who opens it is told.
    pub(crate) fn opened(&self) -> Opened {
        let (epoch, revision) = self.mirror.read(|view| (view.epoch(), view.revision()));
        Opened {
            namespace: self.id,
            tenant: self.namespace.tenant.clone(),
            epoch,
            revision,
            geometry: self.geometry.clone(),
            slot_bytes: self.shape.slot_bytes,
            page_tokens: self.namespace.page_tokens,
        }
    }

    /// Who asks for what tenants and namespaces share.
    pub(crate) fn asker(&self) -> Asker {
        Asker { tenant: self.tenant, namespace: self.id }
    }

    /// A page's name in L1.
    pub(crate) fn page(&self, epoch: Epoch, key: EntryKey) -> PageId {
        PageId { namespace: self.id, epoch, key }
    }
}
