//! A session that publishes batches of pages: what a publish costs the group, without an agent's L3 writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foreword_proto::location::{Checksums, Location};
use foreword_proto::records::{self, PageRecord};
use foreword_proto::wire::meta as m;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_proto::{AgentId, Namespace, PageKey, SlotRef};
use foreword_seams::{Endpoint, TokioNet, rpc};
use tokio::time::Instant;
use tonic::transport::Channel;

/// Pages of one publish.
pub(super) const PAGES: usize = 32;
const PAGE_BYTES: u64 = 4096;
/// A grant gives what it can; several publishes' worth is asked for.
const SLOTS_ASKED: u32 = 1024;

/// A session at one replica, and what it published.
pub(super) struct Publisher {
    replica: MetaClient<Channel>,
    session: Bytes,
    namespace_id: u32,
    epoch: u32,
    sequence: u64,
    slots: Vec<SlotRef>,
    published: Vec<PageKey>,
}

impl Publisher {
    pub(super) async fn open(replica: &Endpoint) -> Self {
        let mut replica = MetaClient::new(rpc::channel(Arc::new(TokioNet), replica));
        let namespace = Namespace::simple("slow-disk", 16, vec![PAGE_BYTES]);
        let request = m::RegisterNamespaceRequest { namespace: Some((&namespace).into()) };
        let registered = replica.register_namespace(request).await.unwrap().into_inner();
        let (node, agent_id) = ("publisher".to_owned(), AgentId([9; 16]).to_wire());
        let request = m::OpenSessionRequest { node, agent_id, ..Default::default() };
        let session = replica.open_session(request).await.unwrap().into_inner().session;
        let (namespace_id, epoch) = (registered.namespace_id, registered.epoch);
        Self { replica, session, namespace_id, epoch, sequence: 0, slots: Vec::new(), published: Vec::new() }
    }

    fn next(&mut self) -> (Bytes, u64) {
        self.sequence += 1;
        (self.session.clone(), self.sequence)
    }

    /// Publishes a batch; how long that took.
    pub(super) async fn publish(&mut self) -> Duration {
        while self.slots.len() < PAGES {
            let (session, sequence) = self.next();
            let request = m::GrantRequest { session, sequence, slot_bytes: PAGE_BYTES as u32, slots: SLOTS_ASKED };
            let granted = self.replica.grant(request).await.unwrap().into_inner();
            self.slots.extend(records::decode::<SlotRef>("slots", &granted.slots, 0, SLOTS_ASKED as usize).unwrap());
        }
        self.replica.renew_session(m::RenewSessionRequest { session: self.session.clone() }).await.unwrap();
        let first = self.published.len();
        let key = |number: usize| PageKey::opaque(&[&self.session[..], &number.to_le_bytes()].concat());
        let keys: Vec<_> = (first..first + PAGES).map(key).collect();
        let slots = self.slots.split_off(self.slots.len() - PAGES);
        let page = |(key, slot): (&PageKey, SlotRef)| {
            let location = Location { slot, checksums: Checksums::One([1]) };
            PageRecord { key: key.entry(), parent: 0, location }
        };
        let pages: Vec<_> = keys.iter().zip(slots).map(page).collect();
        let (session, sequence) = self.next();
        let (namespace_id, epoch, pages) = (self.namespace_id, self.epoch, records::encode(&pages, 1));
        let request = m::PublishRequest { session, sequence, namespace_id, epoch, pages };
        let sent = Instant::now();
        let outcomes = self.replica.publish(request).await.unwrap().into_inner().outcomes;
        let took = sent.elapsed();
        assert!(outcomes.len() == PAGES && outcomes.iter().all(|outcome| *outcome == 1), "{outcomes:?}");
        self.published.extend(keys);
        took
    }

    /// Every page that was published is in the index.
    pub(super) async fn nothing_is_lost(&mut self) {
        for keys in self.published.chunks(1024) {
            let keys = foreword_proto::key::page_keys_to_wire(keys);
            let freshness = Some(foreword_proto::wire::common::Freshness { min_revision: 0, linearizable: true });
            let request = m::LookupRequest {
                namespace_id: self.namespace_id,
                keys,
                freshness,
                every_key: true,
                ..Default::default()
            };
            let present = self.replica.lookup(request).await.unwrap().into_inner().present;
            assert!(present.iter().all(|there| *there == 1), "published and not there");
        }
    }
}
