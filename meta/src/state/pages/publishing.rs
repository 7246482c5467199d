//! How pages enter the index.

use bytes::{Bytes, BytesMut};
use foreword_proto::limits::{ENTRY_KEY_BYTES, PAGES_PER_PUBLISH_MAX};
use foreword_proto::records::{PageRecord, Record};
use foreword_proto::{EntryKey, Epoch, NamespaceId, PublishOutcome};
use foreword_seams::{Marker, sometimes};

use super::Pages;
use super::namespaces::NamespaceInfo;
use crate::state::command::{Event, Invalid, Limit, Outcome, Refusal};
use crate::state::moment::Moment;
use crate::state::room::{Holder, Room};
use foreword_index::{KEYS_AT_ONCE, Table};

/// What a publish may touch.
pub(in crate::state) struct PublishHandler<'st> {
    pub(in crate::state) pages: &'st mut Pages,
    pub(in crate::state) room: &'st mut Room,
    pub(in crate::state) at: Moment<'st>,
    pub(in crate::state) events: &'st mut Vec<Event>,
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
        let Self { pages: index, room, at, events } = self;
        let publish = |info: &mut NamespaceInfo| {
            let shards = info.shards();
            check_size(pages, shards)?;
            let (slot_bytes, cleared) = (info.slot_bytes, epoch != info.epoch);
            let mut publish = Publish { holder, slot_bytes, cleared, table: &mut info.table, room };
            let (outcomes, existing) = publish.pages(pages, |page| events.push(Event::Published { namespace, page }));
            Ok(Outcome::Published { revision: at.revision, outcomes, existing })
        };
        index.namespaces.change(namespace, publish).unwrap_or(Err(Refusal::NoNamespace { namespace }))
    }
}

fn check_size(pages: &Bytes, shards: usize) -> Result<(), Refusal> {
    let record_bytes = PageRecord::bytes(shards);
    if pages.len() / record_bytes > PAGES_PER_PUBLISH_MAX {
        return Err(Refusal::TooMany(Limit::PublishedPages));
    }
    if !pages.len().is_multiple_of(record_bytes) {
        let invalid = Invalid::Pages { bytes: pages.len() as u32, record_bytes: record_bytes as u32 };
        return Err(Refusal::Invalid(invalid));
    }
    Ok(())
}

/// A batch of pages on its way into one table.
struct Publish<'st> {
    holder: Holder,
    slot_bytes: u64,
    /// The writer saw another epoch: its pages stay cleared.
    cleared: bool,
    table: &'st mut Table,
    room: &'st mut Room,
}

impl Publish<'_> {
    /// Publishes whole records; the outcome of each, and the locations of those that exist.
    fn pages(&mut self, records: &[u8], mut published: impl FnMut(PageRecord)) -> (Vec<PublishOutcome>, Bytes) {
        let shards = self.table.shards();
        let record_bytes = PageRecord::bytes(shards);
        let mut existing = BytesMut::new();
        let mut outcomes = Vec::with_capacity(records.len() / record_bytes);
        for some in records.chunks(KEYS_AT_ONCE * record_bytes) {
            self.table.touch(some.chunks_exact(record_bytes).map(key_of));
            for mut record in some.chunks_exact(record_bytes) {
                let Some(page) = PageRecord::take(&mut record, shards) else { continue };
                let outcome = self.page(&page, &mut existing);
                if outcome == PublishOutcome::Published {
                    published(page);
                }
                outcomes.push(outcome);
            }
        }
        (outcomes, existing.freeze())
    }

    /// Publishes one page. The slot is looked at first: only a slot that it holds may be said to stay with it.
    fn page(&mut self, page: &PageRecord, existing: &mut BytesMut) -> PublishOutcome {
        let slot = page.location.slot;
        if !self.room.is_granted_of(slot, self.holder, self.slot_bytes) {
            return PublishOutcome::NotGranted;
        }
        if self.cleared {
            sometimes(Marker::PublishAfterClear);
            return PublishOutcome::Cleared;
        }
        match self.table.insert(page.key, slot, page.location.checksums.as_slice()) {
            Ok(None) => {
                self.room.publish(slot, page.parent);
                PublishOutcome::Published
            }
            Ok(Some(location)) => {
                sometimes(Marker::PublishFoundExisting);
                location.put(existing);
                PublishOutcome::Existing
            }
            Err(_) => PublishOutcome::IndexFull,
        }
    }
}

/// A page record starts with its key.
fn key_of(record: &[u8]) -> EntryKey {
    let mut key = [0; ENTRY_KEY_BYTES];
    key.copy_from_slice(&record[..ENTRY_KEY_BYTES]);
    EntryKey(key)
}
