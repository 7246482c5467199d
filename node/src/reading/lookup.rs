//! Lookups: answered from the mirror, without a network hop.

use foreword_index::KEYS_AT_ONCE;
use foreword_proto::bad_input::status_for;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::{common, meta as wire};
use foreword_proto::{EntryKey, NamespaceId, PageKey, Revision};
use tokio::time::Instant;
use tonic::Code;

use super::{NamespaceReads, Reading};
use crate::api::{ApiError, Found, LOCATED_L1, LOCATED_L3, Located, LookupAsk};
use crate::l1::Residents;
use crate::l3::Readable;
use crate::mirror::View;
use crate::namespaces::OpenNamespace;
use crate::plan::lookup::{LeadingRun, PagePlace};

impl Reading {
    /// The leading pages this agent could deliver now.
    pub(crate) async fn lookup(&self, ask: LookupAsk) -> Result<Found, ApiError> {
        let reads = self.namespaces.get(ask.namespace)?;
        self.be_fresh(&reads.open, &ask).await?;
        Ok(self.leading(&reads, &ask.keys))
    }

    /// The leading pages of what the mirror has now.
    pub(crate) fn lookup_now(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<Found, ApiError> {
        Ok(self.leading(&*self.namespaces.get(namespace)?, keys))
    }

    fn leading(&self, reads: &NamespaceReads, keys: &[PageKey]) -> Found {
        let open = &reads.open;
        let keys: Vec<EntryKey> = keys.iter().map(PageKey::entry).collect();
        let (run, revision) = open.mirror.read(|view| {
            let mut run = LeadingRun::default();
            let _end = self.places(open, view).of_all(&keys).find(|place| !run.goes_on(*place));
            (run, view.revision())
        });
        reads.heat.used(&keys[..run.pages as usize]);
        self.counters.lookups.add(1);
        self.counters.lookup_keys.add(keys.len() as u64);
        Found { pages: run.pages, revision, l1_pages: run.l1_pages, l3_pages: run.l3_pages }
    }

    /// Waits until the mirror is as new as was demanded. What is older is no answer: the caller could not tell.
    async fn be_fresh(&self, open: &OpenNamespace, ask: &LookupAsk) -> Result<(), ApiError> {
        let mut min_revision = ask.min_revision;
        if ask.linearizable {
            min_revision = min_revision.max(self.newest_revision(open, &ask.keys, ask.deadline).await?);
        }
        if min_revision == 0 {
            return Ok(());
        }
        let seen = open.mirror.reached(min_revision, ask.deadline).await;
        if seen < min_revision {
            let message = format!("revision {min_revision} is not in the mirror within the deadline, only {seen}");
            return Err(ApiError::Group(status_for(Code::FailedPrecondition, "behind", message)));
        }
        Ok(())
    }

    /// A revision that covers every publish acknowledged before now, from the leader's read index.
    async fn newest_revision(
        &self,
        open: &OpenNamespace,
        keys: &[PageKey],
        deadline: Instant,
    ) -> Result<Revision, ApiError> {
        let freshness = common::Freshness { min_revision: 0, linearizable: true };
        let request = wire::LookupRequest {
            namespace_id: open.id,
            keys: page_keys_to_wire(&keys[..keys.len().min(1)]),
            freshness: Some(freshness),
            ..Default::default()
        };
        let answer = self.meta.retry(deadline, |mut client| {
            let request = request.clone();
            async move { client.lookup(request).await }
        });
        Ok(answer.await.map_err(ApiError::Group)?.revision)
    }

    /// Where each of the pages is.
    pub(crate) async fn locate(&self, ask: LookupAsk) -> Result<Located, ApiError> {
        let open = &self.namespaces.get(ask.namespace)?.open;
        self.be_fresh(open, &ask).await?;
        let keys: Vec<EntryKey> = ask.keys.iter().map(PageKey::entry).collect();
        Ok(open.mirror.read(|view| {
            let tier = |PagePlace { in_l1, on_l3 }| (u8::from(in_l1) * LOCATED_L1) | (u8::from(on_l3) * LOCATED_L3);
            let tiers = self.places(open, view).of_all(&keys).map(tier).collect();
            Located { revision: view.revision(), tiers }
        }))
    }

    /// Where the pages of a namespace are now, as its mirror has them.
    pub(super) fn places<'a>(&'a self, open: &'a OpenNamespace, view: &'a View) -> Places<'a> {
        Places { namespace: open.id, view, residents: self.l1.residents(), readable: self.l3.readable() }
    }
}

/// Where pages are now: asked of the mirror, L1 and the health of L3 without a lock of theirs.
pub(super) struct Places<'a> {
    namespace: NamespaceId,
    view: &'a View,
    residents: &'a Residents,
    readable: Readable<'a>,
}

impl Places<'_> {
    /// Where each of these keys' pages is, [`KEYS_AT_ONCE`] at most, in order.
    pub(super) fn of(&self, keys: &[EntryKey]) -> [PagePlace; KEYS_AT_ONCE] {
        let on_l3 = self.view.readable(keys, |slab| self.readable.has(slab));
        let in_l1 = self.residents.among(self.namespace, self.view.epoch(), keys);
        std::array::from_fn(|i| PagePlace { in_l1: in_l1[i], on_l3: on_l3[i] })
    }

    /// The same, of any number of keys.
    pub(super) fn of_all(&self, keys: &[EntryKey]) -> impl Iterator<Item = PagePlace> {
        keys.chunks(KEYS_AT_ONCE).flat_map(|group| self.of(group).into_iter().take(group.len()))
    }
}
