//! Lookups: answered from the mirror, without a network hop.

use foreword_proto::bad_input::status_for;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::{common, meta as wire};
use foreword_proto::{EntryKey, PageKey, Revision};
use tokio::time::Instant;
use tonic::Code;

use super::Reading;
use crate::api::{ApiError, Found, LOCATED_L1, LOCATED_L3, Located, LookupAsk};
use crate::namespaces::OpenNamespace;
use crate::plan::lookup::leading_run;

impl Reading {
    /// The leading pages this agent could deliver now.
    pub(crate) async fn lookup(&self, ask: LookupAsk) -> Result<Found, ApiError> {
        let reads = self.namespaces.get(ask.namespace)?;
        let open = &reads.open;
        self.be_fresh(open, &ask).await?;
        let keys: Vec<EntryKey> = ask.keys.iter().map(PageKey::entry).collect();
        let (run, revision) = open.mirror.read(|view| {
            let readable = self.l3.readable();
            let run = self.l1.read(|pages| {
                let in_l1 = |key: &EntryKey| pages.contains(&open.page(view.epoch(), *key));
                leading_run(&keys, in_l1, |key| view.readable(key, |slab| readable.has(slab)))
            });
            (run, view.revision())
        });
        reads.heat.used(&keys[..run.pages as usize]);
        self.counters.lookups.add(1);
        self.counters.lookup_keys.add(keys.len() as u64);
        Ok(Found { pages: run.pages, revision, l1_pages: run.l1_pages, l3_pages: run.l3_pages })
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
        Ok(open.mirror.read(|view| {
            let readable = self.l3.readable();
            let tiers = self.l1.read(|pages| {
                let tiers_of = |key: EntryKey| {
                    let in_l1 = pages.contains(&open.page(view.epoch(), key));
                    let on_l3 = view.readable(&key, |slab| readable.has(slab));
                    (u8::from(in_l1) * LOCATED_L1) | (u8::from(on_l3) * LOCATED_L3)
                };
                ask.keys.iter().map(|key| tiers_of(key.entry())).collect()
            });
            Located { revision: view.revision(), tiers }
        }))
    }
}
