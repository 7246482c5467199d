//! One entry's events as they go to every watcher, by namespace.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use foreword_proto::records::NamespaceEvent;
use foreword_proto::{Epoch, NamespaceId, RetireReason, Revision, SlotRef};

use crate::replica::observer::EntryEvents;
use crate::state::command::Event;

/// What an entry costs beside its events' bytes, for each namespace.
const OVERHEAD_BYTES: usize = 64;

/// One entry's events, by namespace.
#[derive(Debug)]
pub struct EncodedEntry {
    pub revision: Revision,
    by_namespace: Vec<(NamespaceId, NamespaceChange)>,
    pub(super) bytes: usize,
}

/// What one entry did to one namespace.
#[derive(Debug, Clone, Default)]
pub struct NamespaceChange {
    /// [`NamespaceEvent`] records, in order; empty when nothing was published or retired.
    pub events: Bytes,
    /// Its watchers start over after this entry.
    pub over: Option<StartOver>,
}

/// Why a watcher starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOver {
    /// The namespace was cleared: it is in this epoch now.
    Cleared(Epoch),
    /// There is no such namespace any more: who asks again is told so.
    Dropped,
}

impl EncodedEntry {
    /// Encodes an entry.
    pub(super) fn new(entry: &EntryEvents) -> Self {
        let mut by_namespace: BTreeMap<NamespaceId, Building> = BTreeMap::new();
        for of_one in entry.events.chunk_by(|one, next| namespace_of(one) == namespace_of(next)) {
            let Some(namespace) = namespace_of(&of_one[0]) else { continue };
            let building = by_namespace.entry(namespace).or_default();
            of_one.iter().for_each(|event| building.add(event));
        }
        let by_namespace: Vec<_> = by_namespace
            .into_iter()
            .map(|(namespace, Building { events, over })| {
                (namespace, NamespaceChange { events: events.freeze(), over })
            })
            .collect();
        let bytes = by_namespace.iter().map(|(_, change)| change.events.len() + OVERHEAD_BYTES).sum();
        Self { revision: entry.revision, by_namespace, bytes }
    }

    /// The namespaces it changed.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = NamespaceId> {
        self.by_namespace.iter().map(|(namespace, _)| *namespace)
    }

    /// What it did to each of them.
    pub(super) fn changes(&self) -> impl Iterator<Item = (NamespaceId, &NamespaceChange)> {
        self.by_namespace.iter().map(|(namespace, change)| (*namespace, change))
    }

    /// What this entry did to a namespace, if anything.
    pub fn of(&self, namespace: NamespaceId) -> Option<&NamespaceChange> {
        let at = self.by_namespace.binary_search_by_key(&namespace, |(id, _)| *id).ok()?;
        Some(&self.by_namespace[at].1)
    }
}

fn namespace_of(event: &Event) -> Option<NamespaceId> {
    match event {
        Event::Published { namespace, .. }
        | Event::Retired { namespace, .. }
        | Event::AbsentDeleted { namespace, .. }
        | Event::Cleared { namespace, .. }
        | Event::NamespaceDropped { namespace } => Some(*namespace),
        Event::SessionEnded { .. } => None,
    }
}

#[derive(Default)]
struct Building {
    events: BytesMut,
    over: Option<StartOver>,
}

impl Building {
    fn add(&mut self, event: &Event) {
        match event {
            Event::Published { page, .. } => NamespaceEvent::put_published(page, &mut self.events),
            Event::Retired { key, slot, reason, .. } => {
                NamespaceEvent::Retired { key: *key, slot: *slot, reason: *reason }.put(&mut self.events);
            }
            Event::AbsentDeleted { key, .. } => {
                NamespaceEvent::Retired { key: *key, slot: SlotRef::NONE, reason: RetireReason::Deleted }
                    .put(&mut self.events);
            }
            Event::Cleared { epoch, .. } => self.start_over(StartOver::Cleared(*epoch)),
            Event::NamespaceDropped { .. } => self.start_over(StartOver::Dropped),
            Event::SessionEnded { .. } => {}
        }
    }

    fn start_over(&mut self, why: StartOver) {
        self.events.clear();
        self.over = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::location::{Checksums, Location};
    use foreword_proto::records::PageRecord;
    use foreword_proto::{EntryKey, RetireReason, SlotRef};

    use super::*;

    const SLOT: SlotRef = SlotRef { slab: 1, slot: 2, generation: 3 };

    fn retired(namespace: NamespaceId) -> Event {
        Event::Retired { namespace, key: EntryKey([7; 16]), slot: SLOT, reason: RetireReason::Evicted }
    }

    fn published(namespace: NamespaceId) -> Event {
        let location = Location { slot: SLOT, checksums: Checksums::new(&[5]) };
        Event::Published { namespace, page: PageRecord { key: EntryKey([7; 16]), parent: 9, location } }
    }

    fn encoded(events: Vec<Event>) -> EncodedEntry {
        EncodedEntry::new(&EntryEvents { revision: 1, events })
    }

    #[test]
    fn each_namespace_gets_its_events_in_order() {
        let entry = encoded(vec![retired(2), published(1), published(2), retired(1), retired(2)]);
        assert_eq!(entry.namespaces().collect::<Vec<_>>(), [1, 2]);
        let kinds = |namespace| {
            let events = NamespaceEvent::decode_all(&entry.of(namespace).unwrap().events, 1).unwrap();
            events.iter().map(|event| matches!(event, NamespaceEvent::Published { .. })).collect::<Vec<_>>()
        };
        assert_eq!((kinds(1), kinds(2)), (vec![true, false], vec![false, true, false]));
        assert!(entry.of(3).is_none());
    }

    #[test]
    fn a_clear_drops_what_came_before_it_in_its_entry() {
        let entry = encoded(vec![retired(1), Event::Cleared { namespace: 1, epoch: 2 }, retired(1)]);
        let change = entry.of(1).unwrap();
        assert_eq!(change.over, Some(StartOver::Cleared(2)));
        assert_eq!(NamespaceEvent::decode_all(&change.events, 1).unwrap().len(), 1);
    }

    #[test]
    fn a_namespace_dropped_in_the_entry_that_published_in_it_ends_its_watchers() {
        let entry = encoded(vec![published(1), Event::NamespaceDropped { namespace: 1 }]);
        let change = entry.of(1).unwrap();
        assert_eq!((change.over, change.events.is_empty()), (Some(StartOver::Dropped), true));
    }
}
