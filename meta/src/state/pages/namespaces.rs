//! Registered namespaces: identity, epoch, and the table of their pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::limits::NAMESPACES_MAX;
use foreword_proto::namespace::Geometry;
use foreword_proto::{Epoch, Fingerprint, Namespace, NamespaceId, Revision};
use xxhash_rust::xxh3::xxh3_64;

use crate::state::codec::{Decode, Encode, Sink};
use crate::state::command::{Invalid, Limit, Refusal, Registered};
use crate::state::digest::{Fields, Sums};
use crate::state::input::{DecodeError, Input};
use foreword_index::Grid;
use foreword_index::{BUCKETS_MAX, Table};

/// A registered namespace and its pages.
#[derive(Debug, Clone)]
pub struct NamespaceInfo {
    pub id: NamespaceId,
    pub namespace: Namespace,
    pub fingerprint: Fingerprint,
    /// Starts at 1; each clear raises it.
    pub epoch: Epoch,
    /// The entry of its last delete, 0 for none. Who was not told of everything since then may hold copies of deleted
    /// pages.
    pub deleted_at: Revision,
    pub geometry: Geometry,
    /// Bytes of the slots its pages take.
    pub slot_bytes: u64,
    pub(super) table: Table,
}

/// What follows from the namespace and the cluster's chunks is not written, and pages are written apart.
impl Encode for NamespaceInfo {
    fn encode(&self, out: &mut impl Sink) {
        let Self { id, namespace, fingerprint: _, epoch, deleted_at, geometry: _, slot_bytes: _, table } = self;
        id.encode(out);
        namespace.encode(out);
        (epoch, deleted_at, table.count()).encode(out);
    }
}

impl NamespaceInfo {
    /// Bytes of one at least.
    pub(super) const BYTES_MIN: usize = <(NamespaceId, Namespace, (Epoch, Revision, u32))>::BYTES_MIN;

    /// The counterpart of its encoding.
    pub(super) fn decode(chunk_bytes: u32, input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let id = NamespaceId::decode(input)?;
        let namespace = Namespace::decode(input)?;
        namespace.validate().map_err(|error| input.invalid(error.to_string()))?;
        let (epoch, deleted_at, buckets) = Decode::decode(input)?;
        if !(1..=BUCKETS_MAX).contains(&buckets) {
            return Err(input.invalid(format!("namespace {id} with {buckets} buckets")));
        }
        Ok(Self { deleted_at, ..Self::new(id, namespace, chunk_bytes, epoch, buckets) })
    }

    /// A namespace without pages in this epoch, which has room for some in `buckets` buckets.
    pub(super) fn new(id: NamespaceId, namespace: Namespace, chunk_bytes: u32, epoch: Epoch, buckets: u32) -> Self {
        let geometry = namespace.geometry();
        let slot_bytes = geometry.slot_bytes(chunk_bytes);
        let table = Table::new(geometry.shards(), buckets);
        Self { id, fingerprint: namespace.fingerprint(), namespace, epoch, deleted_at: 0, geometry, slot_bytes, table }
    }

    /// Pages present now.
    pub fn pages(&self) -> u64 {
        self.table.entries()
    }

    /// The highest n of which there are 2^n buckets, each whole or of whole ones ([`foreword_proto::buckets`]). It
    /// never falls in an epoch.
    pub fn whole_bits(&self) -> u32 {
        self.table.count().ilog2()
    }

    /// The digest of one of 2^`bits` buckets, which are not more than there are whole ones; costs what it consists of.
    pub fn bucket_digest(&self, bits: u32, bucket: u32) -> u64 {
        self.table.digest_of(bits, bucket)
    }

    /// What the digests of its pages count times, so that those of another namespace or epoch are others.
    pub(super) fn weight(&self) -> u64 {
        (u64::from(self.id) << 32 | u64::from(self.epoch)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
    }

    /// Its hash, without its pages: it counts with its fingerprint, which is of all its fields.
    fn hash(&self) -> u64 {
        let mut bytes = [0; 52];
        bytes[..32].copy_from_slice(&self.fingerprint.0);
        bytes[32..36].copy_from_slice(&self.id.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.deleted_at.to_le_bytes());
        bytes[48..].copy_from_slice(&self.table.count().to_le_bytes());
        xxh3_64(&bytes)
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
    /// Sum over the hashes of all namespaces.
    hashes: u64,
    /// Pages of all namespaces.
    pages: u64,
    /// Sum over the digests of all tables, each times its weight.
    pages_digest: u64,
}

impl Namespaces {
    pub(super) fn get(&self, id: NamespaceId) -> Option<&NamespaceInfo> {
        self.by_id.get(id as usize)
    }

    /// Changes a namespace; None if it is not there.
    pub(super) fn change<T>(&mut self, id: NamespaceId, change: impl FnOnce(&mut NamespaceInfo) -> T) -> Option<T> {
        let info = self.by_id.present_mut(id as usize)?;
        let before = Counted::of(info);
        let result = change(info);
        let after = Counted::of(info);
        self.count(before, after);
        Some(result)
    }

    fn count(&mut self, before: Counted, after: Counted) {
        self.hashes = self.hashes.wrapping_sub(before.hash).wrapping_add(after.hash);
        self.pages = self.pages - before.pages + after.pages;
        self.pages_digest = self.pages_digest.wrapping_sub(before.pages_digest).wrapping_add(after.pages_digest);
    }

    /// Pages of all of them.
    pub(super) fn pages(&self) -> u64 {
        self.pages
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
        self.count(Counted::default(), Counted::of(&info));
        self.by_id.put(info.id as usize, info);
    }

    /// Takes a namespace out; None if it is not there.
    pub(super) fn remove(&mut self, id: NamespaceId) -> Option<Arc<NamespaceInfo>> {
        let info = self.by_id.take(id as usize)?;
        self.registered -= 1;
        self.count(Counted::of(&info), Counted::default());
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

    /// All of them, in the order of their ids. A clone shares their pages.
    pub(super) fn list(&self) -> Vec<Arc<NamespaceInfo>> {
        self.by_id.shared().collect()
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { by_id, registered, last_id, by_fingerprint: _, by_identity: _, hashes, pages, pages_digest } = self;
        fields.add((last_id, *registered as u64)).add(pages);
        match sums {
            Sums::Kept => fields.add((hashes, pages_digest)),
            Sums::FromScratch => {
                let add = |(hashes, digests): (u64, u64), (_, info): (usize, &NamespaceInfo)| {
                    let digest = info.table.digest_from_scratch().wrapping_mul(info.weight());
                    (hashes.wrapping_add(info.hash()), digests.wrapping_add(digest))
                };
                fields.add(by_id.iter().fold((0, 0), add))
            }
        };
    }

    /// A fault for the check that recomputes digests.
    #[cfg(test)]
    pub(super) fn spoil_digest(&mut self) {
        self.pages_digest ^= 1;
    }

    /// Heap bytes of their pages, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        self.iter().map(|info| info.table.heap_bytes()).sum()
    }
}

/// What a namespace adds to the sums.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    hash: u64,
    pages: u64,
    pages_digest: u64,
}

impl Counted {
    fn of(info: &NamespaceInfo) -> Self {
        let pages_digest = info.table.digest().wrapping_mul(info.weight());
        Self { hash: info.hash(), pages: info.pages(), pages_digest }
    }
}
