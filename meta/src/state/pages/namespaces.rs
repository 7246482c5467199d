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
use crate::state::grid::Grid;
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

/// What follows from the namespace and the cluster's chunks is not written.
impl Encode for NamespaceInfo {
    fn encode(&self, out: &mut impl Sink) {
        let Self { id, namespace, fingerprint: _, epoch, geometry: _, slot_bytes: _, pages, table } = self;
        id.encode(out);
        namespace.encode(out);
        (epoch, table, pages).encode(out);
    }
}

impl NamespaceInfo {
    /// Bytes of one at least.
    pub(super) const BYTES_MIN: usize = <(NamespaceId, Namespace, (Epoch, TableId, u64))>::BYTES_MIN;

    /// The counterpart of its encoding.
    pub(super) fn decode(chunk_bytes: u32, input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let id = NamespaceId::decode(input)?;
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

/// All namespaces. Ids count from 1; that of one that was dropped is never given out again.
#[derive(Debug, Clone, Default)]
pub(super) struct Namespaces {
    /// Each publish counts in one: after a freeze it copies what it touches, not all of them.
    by_id: Grid<NamespaceInfo>,
    registered: usize,
    /// The highest id given out.
    last_id: NamespaceId,
    by_fingerprint: Arc<BTreeMap<Fingerprint, NamespaceId>>,
    by_identity: Arc<BTreeMap<Fingerprint, NamespaceId>>,
}

impl Namespaces {
    pub(super) fn get(&self, id: NamespaceId) -> Option<&NamespaceInfo> {
        self.by_id.get(id as usize)
    }

    pub(super) fn get_mut(&mut self, id: NamespaceId) -> Option<&mut NamespaceInfo> {
        self.by_id.present_mut(id as usize)
    }

    /// In the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = &NamespaceInfo> {
        self.by_id.iter().map(|(_, info)| info)
    }

    /// Those with ids above `id`, in their order.
    pub(super) fn after(&self, id: NamespaceId) -> impl Iterator<Item = &NamespaceInfo> {
        self.by_id.iter_from((id as usize).saturating_add(1)).map(|(_, info)| info)
    }

    /// The highest id given out, 0 for none.
    pub(super) fn last_id(&self) -> NamespaceId {
        self.last_id
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

    /// An id that was never given out.
    pub(super) fn take_id(&mut self) -> Result<NamespaceId, Refusal> {
        self.last_id = self.last_id.checked_add(1).ok_or(Refusal::TooMany(Limit::NamespaceIds))?;
        Ok(self.last_id)
    }

    /// Nothing up to this id is given out from now on.
    pub(super) fn given_out_to(&mut self, last_id: NamespaceId) {
        self.last_id = last_id;
    }

    /// Adds a namespace under an id that was taken for it.
    pub(super) fn add(&mut self, info: NamespaceInfo) {
        Arc::make_mut(&mut self.by_fingerprint).insert(info.fingerprint, info.id);
        Arc::make_mut(&mut self.by_identity).insert(info.namespace.identity_without_geometry(), info.id);
        self.registered += 1;
        self.by_id.put(info.id as usize, info);
    }

    /// Takes a namespace out; None if it is not there.
    pub(super) fn remove(&mut self, id: NamespaceId) -> Option<Arc<NamespaceInfo>> {
        let info = self.by_id.take(id as usize)?;
        self.registered -= 1;
        Arc::make_mut(&mut self.by_fingerprint).remove(&info.fingerprint);
        Arc::make_mut(&mut self.by_identity).remove(&info.namespace.identity_without_geometry());
        Some(info)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.registered
    }

    /// All of them, in the order of their ids.
    pub(super) fn into_list(self) -> impl Iterator<Item = Arc<NamespaceInfo>> {
        self.by_id.into_items()
    }

    /// A namespace counts with its fingerprint, which is of all its fields.
    pub(super) fn hash_into(&self, fields: &mut Fields) {
        let Self { by_id, registered, last_id, by_fingerprint: _, by_identity: _ } = self;
        fields.add((last_id, *registered as u64));
        for (_, info) in by_id.iter() {
            let NamespaceInfo { id, namespace: _, fingerprint, epoch, geometry: _, slot_bytes: _, pages, table } = info;
            fields.add((id, fingerprint, (epoch, table, pages)));
        }
    }
}
