//! What an agent knows of one namespace: table, overlay and avoid-list at one revision. Pure.

use foreword_proto::records::{EntryEvents, NamespaceEvent, PageRecord};
use foreword_proto::{EntryKey, Epoch, Location, RetireReason, Revision, SlotRef};

use super::avoid::AvoidList;
use super::overlay::Overlay;
use super::table::Table;

/// The knowledge of one namespace.
#[derive(Debug)]
pub struct View {
    shards: usize,
    epoch: Epoch,
    revision: Revision,
    synced: bool,
    /// False: the table serves, but the stream cannot go on from its revision; only a snapshot helps.
    resumable: bool,
    table: Table,
    /// The table that a snapshot is filling, while the old one serves.
    building: Option<Table>,
    overlay: Overlay,
    avoid: AvoidList,
}

/// Why a watch message cannot be taken: the stream is broken and starts anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    #[error("a snapshot did not begin, and without one nothing can be continued")]
    NoSnapshot,
    #[error("events inside a snapshot")]
    InsideSnapshot,
    #[error("behind: the replica is at revision {revision} of epoch {epoch}, which is older than what is known here")]
    Behind { epoch: Epoch, revision: Revision },
}

impl View {
    /// Knows nothing, in this epoch.
    pub fn new(shards: usize, epoch: Epoch) -> Self {
        Self {
            shards,
            epoch,
            revision: 0,
            synced: false,
            resumable: false,
            table: Table::new(shards, 0),
            building: None,
            overlay: Overlay::default(),
            avoid: AvoidList::default(),
        }
    }

    /// Takes over a table saved earlier, which was complete at this revision.
    pub fn restore(&mut self, epoch: Epoch, revision: Revision, table: Table) {
        self.epoch = epoch;
        self.revision = revision;
        self.table = table;
        self.synced = true;
        self.resumable = true;
        self.overlay.reached(revision);
    }

    /// The namespace was dropped: nothing is present in it from now on, and nothing enters.
    pub fn close(&mut self) {
        self.epoch = Epoch::MAX;
        self.table = Table::new(self.shards, 0);
        self.building = None;
        self.overlay.clear();
    }

    /// A snapshot begins. In a new epoch everything older is invisible at once; else the old table serves until the end.
    /// One that is older than what is known here is refused: another replica has a newer one.
    pub fn begin_snapshot(&mut self, epoch: Epoch, revision: Revision, entries: u64) -> Result<(), OutOfOrder> {
        if epoch < self.epoch || revision < self.revision {
            return Err(OutOfOrder::Behind { epoch, revision });
        }
        if epoch != self.epoch {
            self.epoch = epoch;
            self.resumable = false;
            self.table = Table::new(self.shards, 0);
            self.overlay.clear();
        }
        // The count is the sender's word: it only saves some growing.
        self.building = Some(Table::new(self.shards, entries.min(1 << 24) as usize));
        Ok(())
    }

    /// Some of the snapshot's entries.
    pub fn snapshot_part(&mut self, pages: &[PageRecord]) -> Result<(), OutOfOrder> {
        let building = self.building.as_mut().ok_or(OutOfOrder::NoSnapshot)?;
        for page in pages {
            building.insert(page.key, &page.location);
        }
        Ok(())
    }

    /// The snapshot is whole: it is the table now.
    pub fn end_snapshot(&mut self, revision: Revision) -> Result<(), OutOfOrder> {
        self.table = self.building.take().ok_or(OutOfOrder::NoSnapshot)?;
        self.revision = revision;
        self.synced = true;
        self.resumable = true;
        self.overlay.reached(revision);
        Ok(())
    }

    /// The stream broke: a snapshot that was not whole is given up. `distrusted`: the next one begins with a snapshot.
    pub fn stream_broke(&mut self, distrusted: bool) {
        self.building = None;
        self.resumable &= !distrusted;
    }

    /// The revision from which a stream can go on; 0: only with a snapshot.
    pub fn resume_from(&self) -> Revision {
        if self.resumable { self.revision } else { 0 }
    }

    /// The next entries of the log; answers with the keys whose copies must go as well. Entries seen before are skipped.
    pub fn apply(&mut self, revision: Revision, entries: &[EntryEvents]) -> Result<Vec<EntryKey>, OutOfOrder> {
        if self.building.is_some() {
            return Err(OutOfOrder::InsideSnapshot);
        }
        if !self.resumable {
            return Err(OutOfOrder::NoSnapshot);
        }
        let (mut purged, seen) = (Vec::new(), self.revision);
        for entry in entries.iter().filter(|entry| entry.revision > seen) {
            for event in &entry.events {
                self.apply_event(event, &mut purged);
            }
        }
        self.revision = self.revision.max(revision);
        self.overlay.reached(self.revision);
        Ok(purged)
    }

    fn apply_event(&mut self, event: &NamespaceEvent, purged: &mut Vec<EntryKey>) {
        match event {
            NamespaceEvent::Published { key, location, .. } => self.table.insert(*key, location),
            NamespaceEvent::Retired { key, slot, reason } => {
                self.table.remove(key, *slot);
                self.avoid.retired(key, *slot);
                if matches!(reason, RetireReason::Deleted | RetireReason::Cleared) {
                    purged.push(*key);
                }
            }
        }
    }

    /// An own publish was acknowledged. True if the page is present as far as is known here: then its bytes may be kept in L1.
    ///
    /// A publish at a revision that the table already has reached is the table's to judge: the page may be retired by now.
    pub fn acknowledge(&mut self, epoch: Epoch, revision: Revision, key: EntryKey, location: Location) -> bool {
        if epoch != self.epoch {
            return false;
        }
        if revision <= self.revision {
            return self.table.contains(&key);
        }
        self.overlay.insert(key, revision, location);
        true
    }

    /// Where the page is, if it is present and not avoided.
    pub fn location(&self, key: &EntryKey) -> Option<Location> {
        let location = match self.overlay.get(key) {
            Some(location) => location.clone(),
            None => self.table.get(key)?,
        };
        (!self.avoid.has(key, location.slot)).then_some(location)
    }

    /// True if the page is present and not avoided.
    pub fn present(&self, key: &EntryKey) -> bool {
        self.slot(key).is_some_and(|slot| !self.avoid.has(key, slot))
    }

    /// The slot the index names for the page, avoided or not.
    pub fn slot(&self, key: &EntryKey) -> Option<SlotRef> {
        match self.overlay.get(key) {
            Some(location) => Some(location.slot),
            None => self.table.slot(key),
        }
    }

    /// A revision at which the page was present.
    pub fn present_at(&self, key: &EntryKey) -> Option<Revision> {
        match self.overlay.revision(key) {
            Some(revision) => Some(revision),
            None => self.table.contains(key).then_some(self.revision),
        }
    }

    /// The page's bytes at this slot are bad.
    pub fn avoid(&mut self, key: EntryKey, slot: SlotRef) {
        self.avoid.add(key, slot);
    }

    /// The namespace's epoch as far as is known here.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The revision the table has.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// True after the first whole sync, for good.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Pages of the table.
    pub fn pages(&self) -> usize {
        self.table.len()
    }

    /// Own publishes ahead of the table.
    pub fn overlay_pages(&self) -> usize {
        self.overlay.len()
    }

    /// The table as it stands, to be saved.
    pub fn table(&self) -> &Table {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use foreword_proto::location::Checksums;
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> EntryKey {
        EntryKey([number; 16])
    }

    fn location(slot: u32) -> Location {
        let slot = SlotRef { slab: 1, slot, generation: 1 };
        Location { slot, checksums: Checksums::new(&[u64::from(slot.slot)]) }
    }

    fn published(revision: Revision, number: u8, slot: u32) -> EntryEvents {
        let event = NamespaceEvent::Published { key: key(number), parent: 0, location: location(slot) };
        EntryEvents { revision, events: vec![event] }
    }

    fn retired(revision: Revision, number: u8, slot: u32, reason: RetireReason) -> EntryEvents {
        let event = NamespaceEvent::Retired { key: key(number), slot: location(slot).slot, reason };
        EntryEvents { revision, events: vec![event] }
    }

    fn synced() -> View {
        let mut view = View::new(1, 1);
        view.begin_snapshot(1, 0, 0).unwrap();
        view.end_snapshot(0).unwrap();
        view
    }

    fn record(number: u8, slot: u32) -> PageRecord {
        PageRecord { key: key(number), parent: 0, location: location(slot) }
    }

    #[test]
    fn the_old_table_serves_until_a_resync_is_whole() {
        let mut view = synced();
        view.apply(5, &[published(5, 1, 10)]).unwrap();
        view.begin_snapshot(1, 9, 1).unwrap();
        view.snapshot_part(&[record(2, 20)]).unwrap();
        assert!(view.present(&key(1)) && !view.present(&key(2)));
        assert_eq!(view.apply(6, &[]), Err(OutOfOrder::InsideSnapshot));
        view.end_snapshot(9).unwrap();
        assert!(!view.present(&key(1)) && view.present(&key(2)));
        assert_eq!(view.revision(), 9);
        assert_eq!(view.end_snapshot(10), Err(OutOfOrder::NoSnapshot));
    }

    #[test]
    fn a_new_epoch_hides_everything_at_once() {
        let mut view = synced();
        view.apply(5, &[published(5, 1, 10)]).unwrap();
        assert!(view.acknowledge(1, 8, key(2), location(11)));
        view.begin_snapshot(2, 8, 0).unwrap();
        assert!(!view.present(&key(1)) && !view.present(&key(2)));
        assert!(!view.acknowledge(1, 9, key(3), location(12)));
    }

    #[test]
    fn a_snapshot_that_breaks_off_is_not_taken_for_a_table() {
        let mut view = View::new(1, 1);
        assert_eq!((view.resume_from(), view.apply(5, &[])), (0, Err(OutOfOrder::NoSnapshot)));
        view.begin_snapshot(1, 5, 0).unwrap();
        view.end_snapshot(5).unwrap();
        assert_eq!(view.resume_from(), 5);
        view.begin_snapshot(2, 8, 1).unwrap();
        view.stream_broke(false);
        assert_eq!(view.resume_from(), 0, "the table of the new epoch is not there");
        view.begin_snapshot(2, 8, 1).unwrap();
        view.end_snapshot(8).unwrap();
        view.stream_broke(true);
        assert_eq!((view.resume_from(), view.revision()), (0, 8));
        assert_eq!(view.begin_snapshot(2, 7, 0), Err(OutOfOrder::Behind { epoch: 2, revision: 7 }));
        assert_eq!(view.begin_snapshot(1, 9, 0), Err(OutOfOrder::Behind { epoch: 1, revision: 9 }));
    }

    #[test]
    fn an_avoided_page_stays_hidden_until_it_is_elsewhere() {
        let mut view = synced();
        view.apply(5, &[published(5, 1, 10)]).unwrap();
        view.avoid(key(1), location(10).slot);
        assert!(!view.present(&key(1)) && view.location(&key(1)).is_none());
        view.apply(7, &[retired(6, 1, 10, RetireReason::Suspect), published(7, 1, 11)]).unwrap();
        assert_eq!(view.location(&key(1)), Some(location(11)));
    }

    #[test]
    fn only_deleted_and_cleared_pages_are_purged() {
        let mut view = synced();
        let entries = [
            published(1, 1, 1),
            retired(2, 1, 1, RetireReason::Evicted),
            published(3, 2, 2),
            retired(4, 2, 2, RetireReason::Deleted),
        ];
        assert_eq!(view.apply(4, &entries).unwrap(), [key(2)]);
    }

    proptest! {
        /// A log of publishes and retires reaches the view by its own acknowledgements first and by the stream later. At every
        /// moment: what the stream's prefix and the acknowledgements say together is what the view says, and in the end it is the log.
        #[test]
        fn overlay_and_table_together_are_never_behind_what_was_acknowledged(
            log in prop::collection::vec((0u8..6, any::<bool>()), 1..60),
            lag in prop::collection::vec(0usize..8, 60),
        ) {
            let mut view = synced();
            let mut index: BTreeMap<u8, u32> = BTreeMap::new();
            let mut entries: Vec<EntryEvents> = Vec::new();
            let mut streamed = 0;
            for (i, (number, ours)) in log.iter().enumerate() {
                let revision = i as u64 + 1;
                match index.remove(number) {
                    Some(slot) => entries.push(retired(revision, *number, slot, RetireReason::Evicted)),
                    None => {
                        index.insert(*number, i as u32);
                        entries.push(published(revision, *number, i as u32));
                        if *ours {
                            prop_assert!(view.acknowledge(1, revision, key(*number), location(i as u32)));
                            prop_assert_eq!(view.location(&key(*number)), Some(location(i as u32)));
                        }
                    }
                }
                let until = (streamed + lag[i]).min(entries.len());
                if until > streamed {
                    view.apply(until as u64, &entries[streamed..until]).unwrap();
                    streamed = until;
                }
            }
            view.apply(entries.len() as u64, &entries[streamed.min(entries.len())..]).unwrap();
            prop_assert_eq!(view.overlay_pages(), 0);
            for number in 0..6 {
                prop_assert_eq!(view.location(&key(number)), index.get(&number).map(|slot| location(*slot)));
            }
        }
    }
}
