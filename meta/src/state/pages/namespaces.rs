//! Registered namespaces: identity, epoch and the table its entries are in.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::limits::NAMESPACES_MAX;
use foreword_proto::namespace::Geometry;
use foreword_proto::{Epoch, Fingerprint, Namespace, NamespaceId};

use super::index::TableId;
use crate::state::codec::{Decode, Encode, Sink};
use crate::state::command::{Invalid, Limit, Refusal, Registered};
use crate::state::digest::Fields;
use crate::state::input::{DecodeError, Input};

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

/// What follows from the namespace, its id and the cluster's chunks is not written.
impl Encode for NamespaceInfo {
    fn encode(&self, out: &mut impl Sink) {
        let Self { id: _, namespace, fingerprint: _, epoch, geometry: _, slot_bytes: _, pages, table } = self;
        namespace.encode(out);
        (epoch, table, pages).encode(out);
    }
}

impl NamespaceInfo {
    /// Bytes of one at least.
    pub(super) const BYTES_MIN: usize = <(Namespace, (Epoch, TableId, u64))>::BYTES_MIN;

    /// The counterpart of its encoding.
    pub(super) fn decode(id: NamespaceId, chunk_bytes: u32, input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let namespace = Namespace::decode(input)?;
        namespace.validate().map_err(|error| input.invalid(error.to_string()))?;
        let (epoch, table, pages) = Decode::decode(input)?;
        Ok(Self { pages, ..Self::new(id, namespace, chunk_bytes, epoch, table) })
    }

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

    /// What a namespace of the same name and another geometry is told.
    fn registered_for(&self, other: &Namespace) -> Registered {
        let Namespace { page_tokens, shard_bytes, .. } = &self.namespace;
        let other_page_tokens = *page_tokens != other.page_tokens;
        Registered { page_tokens: *page_tokens, shard_bytes: shard_bytes.clone(), other_page_tokens }
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
        namespace.validate().map_err(|_| Refusal::Invalid(Invalid::Namespace))?;
        let known = self.by_identity.get(&namespace.identity_without_geometry());
        if let Some(info) = known.and_then(|id| self.get(*id)) {
            return Err(Refusal::OtherGeometry { namespace: info.id, registered: info.registered_for(namespace) });
        }
        if self.len() >= NAMESPACES_MAX {
            return Err(Refusal::TooMany(Limit::Namespaces));
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

    pub(super) fn into_list(self) -> impl Iterator<Item = Arc<NamespaceInfo>> {
        self.list.into_iter()
    }

    /// A namespace counts with its fingerprint, which is of all its fields.
    pub(super) fn hash_into(&self, fields: &mut Fields) {
        let Self { list, by_fingerprint: _, by_identity: _ } = self;
        fields.add_all(list.iter().map(|info| {
            let NamespaceInfo { id: _, namespace: _, fingerprint, epoch, geometry: _, slot_bytes: _, pages, table } =
                &**info;
            (fingerprint, (epoch, table, pages))
        }));
    }
}
