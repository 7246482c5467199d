//! Registered namespaces: identity, epoch and the table its entries are in.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::limits::NAMESPACES_MAX;
use foreword_proto::namespace::Geometry;
use foreword_proto::{Epoch, Fingerprint, Namespace, NamespaceId};

use super::command::Refusal;
use super::digest::Fields;
use super::index::TableId;

/// A registered namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceInfo {
    pub id: NamespaceId,
    pub namespace: Namespace,
    pub fingerprint: Fingerprint,
    /// Starts at 1; each clear raises it.
    pub epoch: Epoch,
    pub geometry: Geometry,
    /// Bytes of the slots its pages take.
    pub slot_bytes: u64,
    /// Pages present now.
    pub pages: u64,
    pub(super) table: TableId,
}

impl NamespaceInfo {
    /// A namespace that is registered now, or was before with this epoch and table.
    pub(super) fn new(id: NamespaceId, namespace: Namespace, chunk_bytes: u32, epoch: Epoch, table: TableId) -> Self {
        let geometry = namespace.geometry();
        let slot_bytes = geometry.slot_bytes(chunk_bytes);
        Self { id, fingerprint: namespace.fingerprint(), namespace, epoch, geometry, slot_bytes, pages: 0, table }
    }

    /// Shards of one page.
    pub fn shards(&self) -> usize {
        self.geometry.shards()
    }

    fn describe_geometry(&self) -> String {
        format!("page_tokens {}, shard_bytes {:?}", self.namespace.page_tokens, self.namespace.shard_bytes)
    }
}

/// All namespaces; ids count from 1 and stay.
#[derive(Debug, Clone, Default)]
pub(super) struct Namespaces {
    list: Vec<Arc<NamespaceInfo>>,
    by_fingerprint: Arc<BTreeMap<Fingerprint, NamespaceId>>,
    by_identity: Arc<BTreeMap<Fingerprint, NamespaceId>>,
}

impl Namespaces {
    pub(super) fn get(&self, id: NamespaceId) -> Option<&NamespaceInfo> {
        self.list.get((id as usize).checked_sub(1)?).map(|info| &**info)
    }

    pub(super) fn get_mut(&mut self, id: NamespaceId) -> Option<&mut NamespaceInfo> {
        self.list.get_mut((id as usize).checked_sub(1)?).map(Arc::make_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &NamespaceInfo> {
        self.list.iter().map(|info| &**info)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn by_fingerprint(&self, fingerprint: &Fingerprint) -> Option<&NamespaceInfo> {
        self.get(*self.by_fingerprint.get(fingerprint)?)
    }

    /// Checks that a namespace not registered yet may be.
    pub(super) fn check_new(&self, namespace: &Namespace) -> Result<(), Refusal> {
        namespace.validate().map_err(|error| {
            let error = error.within("namespace");
            Refusal::Invalid { field: error.field, expected: error.expected }
        })?;
        if let Some(id) = self.by_identity.get(&namespace.identity_without_geometry()) {
            let registered = self.get(*id).map(NamespaceInfo::describe_geometry).unwrap_or_default();
            return Err(Refusal::OtherGeometry { namespace: *id, registered });
        }
        if self.len() >= NAMESPACES_MAX {
            return Err(Refusal::TooMany { field: "namespaces".into(), limit: NAMESPACES_MAX as u64 });
        }
        Ok(())
    }

    /// The id of the next namespace.
    pub(super) fn next_id(&self) -> NamespaceId {
        self.list.len() as NamespaceId + 1
    }

    /// Adds a namespace, whose id is the next one.
    pub(super) fn add(&mut self, info: NamespaceInfo) {
        Arc::make_mut(&mut self.by_fingerprint).insert(info.fingerprint, info.id);
        Arc::make_mut(&mut self.by_identity).insert(info.namespace.identity_without_geometry(), info.id);
        self.list.push(Arc::new(info));
    }

    pub(super) fn hash_into(&self, fields: &mut Fields) {
        fields.u64(self.list.len() as u64);
        for info in &self.list {
            fields.bytes(&info.fingerprint.0).u64(info.epoch.into()).u64(info.table.into()).u64(info.pages);
        }
    }
}
