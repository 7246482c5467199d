//! How pages enter the index.

use bytes::{Bytes, BytesMut};
use foreword_proto::limits::PAGES_PER_PUBLISH_MAX;
use foreword_proto::records::{self, PageRecord, Record};
use foreword_proto::{Epoch, NamespaceId, PublishOutcome};
use foreword_seams::{Marker, sometimes};

use super::Pages;
use super::index::TableId;
use crate::state::command::{Event, Invalid, Limit, Outcome, Refusal};
use crate::state::moment::Moment;
use crate::state::room::{Holder, Room};

/// What a publish may touch.
pub(in crate::state) struct PublishHandler<'st> {
    pub(in crate::state) pages: &'st mut Pages,
    pub(in crate::state) room: &'st mut Room,
    pub(in crate::state) at: Moment<'st>,
    pub(in crate::state) events: &'st mut Vec<Event>,
}

/// What a publish needs to know of its namespace.
#[derive(Clone, Copy)]
struct PublishInto {
    namespace: NamespaceId,
    table: TableId,
    shards: usize,
    slot_bytes: u64,
    /// The writer saw another epoch: its pages stay cleared.
    cleared: bool,
}

impl PublishHandler<'_> {
    /// Publishes pages that a session wrote into the slots it holds.
    pub(in crate::state) fn apply(
        &mut self,
        holder: Holder,
        namespace: NamespaceId,
        epoch: Epoch,
        pages: &Bytes,
    ) -> Result<Outcome, Refusal> {
        let info = self.pages.namespaces.get(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        let (table, shards, slot_bytes) = (info.table, info.shards(), info.slot_bytes);
        let into = PublishInto { namespace, table, shards, slot_bytes, cleared: epoch != info.epoch };
        let record_bytes = PageRecord::bytes(shards);
        let count = pages.len() / record_bytes;
        if count > PAGES_PER_PUBLISH_MAX {
            return Err(Refusal::TooMany(Limit::PublishedPages));
        }
        let pages: Vec<PageRecord> = records::decode("pages", pages, shards, PAGES_PER_PUBLISH_MAX)
            .map_err(|_| Invalid::Pages { bytes: pages.len() as u32, record_bytes: record_bytes as u32 })
            .map_err(Refusal::Invalid)?;
        let mut existing = BytesMut::new();
        let mut outcomes = Vec::with_capacity(pages.len());
        for page in pages {
            let outcome = self.publish_page(holder, into, &page, &mut existing);
            if outcome == PublishOutcome::Published {
                self.events.push(Event::Published { namespace, page });
            }
            outcomes.push(outcome);
        }
        Ok(Outcome::Published { revision: self.at.revision, outcomes, existing: existing.freeze() })
    }

    /// Publishes one page. The slot is looked at first: only a slot that it holds may be said to stay with it.
    fn publish_page(
        &mut self,
        holder: Holder,
        into: PublishInto,
        page: &PageRecord,
        existing: &mut BytesMut,
    ) -> PublishOutcome {
        let slot = page.location.slot;
        let of_class = self.room.slab(slot.slab).is_some_and(|slab| slab.slot_bytes == into.slot_bytes);
        if !of_class || !self.room.is_granted(slot, holder) {
            return PublishOutcome::NotGranted;
        }
        if into.cleared {
            sometimes(Marker::PublishAfterClear);
            return PublishOutcome::Cleared;
        }
        if let Some(location) = self.pages.index.get(into.shards, into.table, &page.key) {
            sometimes(Marker::PublishFoundExisting);
            location.put(existing);
            return PublishOutcome::Existing;
        }
        if !self.pages.insert(into.table, page.key, slot, page.location.checksums.as_slice()) {
            return PublishOutcome::IndexFull;
        }
        self.room.publish(slot, page.parent);
        if let Some(info) = self.pages.namespaces.get_mut(into.namespace) {
            info.pages += 1;
        }
        PublishOutcome::Published
    }
}
