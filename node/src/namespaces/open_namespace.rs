//! One open namespace: who may share its pages, how they lie in memory and on L3, and its mirror.

use std::sync::Arc;

use foreword_proto::namespace::Geometry;
use foreword_proto::{EntryKey, Epoch, Namespace, NamespaceId};

use crate::api::Opened;
use crate::arena::TenantId;
use crate::l1::PageId;
use crate::l3::PageShape;
use crate::mirror::Mirror;

/// A namespace open on this agent. Nothing of it changes but what its mirror knows.
pub(crate) struct OpenNamespace {
    pub(crate) id: NamespaceId,
    pub(crate) tenant: TenantId,
    pub(crate) geometry: Geometry,
    pub(crate) shape: PageShape,
    pub(crate) mirror: Arc<Mirror>,
    pub(super) namespace: Namespace,
}

impl OpenNamespace {
    /// What who opens it is told.
    pub(crate) fn opened(&self) -> Opened {
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

    /// A page's name in L1.
    pub(crate) fn page(&self, epoch: Epoch, key: EntryKey) -> PageId {
        PageId { namespace: self.id, epoch, key }
    }
}
