//! What an agent knows of one namespace: table, overlay and avoid-list at one revision. Pure.

use std::ops::Range;

use foreword_index::KEYS_AT_ONCE;
use foreword_proto::records::{EntryEvents, NamespaceEvent};
use foreword_proto::{EntryKey, Epoch, Location, RetireReason, Revision, SlabId, SlotRef};

use super::avoid::AvoidList;
use super::departed::Departed;
use super::overlay::Overlay;
use super::table::Table;

/// The knowledge of one namespace.
#[derive(Debug)]
pub struct View {
    shards: usize,
    epoch: Epoch,
    revision: Revision,
    synced: bool,
    /// False: the table serves, but the stream cannot go on from its revision; only a resync helps. It holds every page
    /// of its revision then, but for those that a resync that broke off replaced by later ones.
    resumable: bool,
    /// The table has parts of later revisions, up to this one, as its file had.
    mixed_until: Revision,
    resyncing: bool,
    table: Table,
    overlay: Overlay,
    avoid: AvoidList,
    departed: Departed,
}

/// A table as it was saved, part by part while events came: each is as of some revision between these two. The events
/// after the first make all of it as of the second: an event whose effect a part has already changes nothing that a
/// later one of them does not.
#[derive(Debug)]
pub struct SavedTable {
    pub revision: Revision,
    pub mixed_until: Revision,
    pub table: Table,
}

/// Why a watch message cannot be taken: the stream is broken and starts anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    #[error("no resync began, and without one nothing can be continued")]
    NoResync,
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
            mixed_until: 0,
            resyncing: false,
            table: Table::new(shards, 0),
            overlay: Overlay::default(),
            avoid: AvoidList::default(),
            departed: Departed::default(),
        }
    }

    /// Takes over a table saved earlier.
    pub fn restore(&mut self, epoch: Epoch, saved: SavedTable) {
        let SavedTable { revision, mixed_until, table } = saved;
        self.epoch = epoch;
        self.revision = revision;
        self.mixed_until = mixed_until;
        self.table = table;
        self.synced = true;
        self.resumable = true;
        self.overlay.reached(revision);
    }

    /// The namespace was dropped: nothing is present in it from now on, and nothing enters. Answers with the table, to
    /// be let go of.
    pub fn close(&mut self) -> Table {
        self.epoch = Epoch::MAX;
        self.resyncing = false;
        self.resumable = false;
        self.overlay.clear();
        self.departed.clear();
        std::mem::replace(&mut self.table, Table::new(self.shards, 0))
    }

    /// A resync begins, of a namespace with about so many pages. In a new epoch everything older is invisible at once:
    /// the table of the old one is the answer, to be let go of; else the table serves, and its buckets are replaced one
    /// by one. What they hold is of later revisions than the mirror's, which rises at the end. A resync that is older
    /// than what is known here is refused: another replica has a newer one.
    pub fn begin_resync(&mut self, epoch: Epoch, revision: Revision, pages: u64) -> Result<Option<Table>, OutOfOrder> {
        if epoch < self.epoch || revision < self.revision {
            return Err(OutOfOrder::Behind { epoch, revision });
        }
        self.resyncing = true;
        self.resumable = false;
        // They may have come again and been deleted, which nobody tells.
        self.departed.clear();
        if epoch == self.epoch && !self.table.is_empty() {
            return Ok(None);
        }
        if epoch != self.epoch {
            self.epoch = epoch;
            self.overlay.clear();
        }
        Ok(Some(std::mem::replace(&mut self.table, Table::new(self.shards, pages))))
    }

    /// The pages of one bucket, where there are 2^`bits` of them. Answers with the keys whose copies must go: the page
    /// is gone or another one, or was both since the copy was made.
    pub fn resync_bucket(
        &mut self,
        bits: u32,
        bucket: u32,
        pages: &[(EntryKey, Location)],
    ) -> Result<Vec<EntryKey>, OutOfOrder> {
        if !self.resyncing {
            return Err(OutOfOrder::NoResync);
        }
        let mut changed = self.table.replace_bucket(bits, bucket, pages);
        changed.retain(|key| !self.is_own(key));
        Ok(changed)
    }

    /// True for an own publish that the table had not seen: a copy is of the page that is there now.
    fn is_own(&self, key: &EntryKey) -> bool {
        self.overlay.get(key).is_some_and(|own| self.table.slot(key) == Some(own.slot))
    }

    /// Every bucket that differed was replaced, and every event up to this revision was applied: the table is as of it.
    pub fn end_resync(&mut self, revision: Revision) -> Result<(), OutOfOrder> {
        if !self.resyncing {
            return Err(OutOfOrder::NoResync);
        }
        self.resyncing = false;
        self.revision = self.revision.max(revision);
        self.mixed_until = 0;
        self.synced = true;
        self.resumable = true;
        self.overlay.reached(self.revision);
        Ok(())
    }

    /// The stream broke: a resync that was not whole is given up. `distrusted`: the next stream begins with a resync.
    pub fn stream_broke(&mut self, distrusted: bool) {
        self.resyncing = false;
        self.resumable &= !distrusted;
    }

    /// Everything up to this revision was told.
    pub fn progress(&mut self, revision: Revision) {
        if self.resumable {
            self.revision = self.revision.max(revision);
            self.overlay.reached(self.revision);
        }
    }

    /// True if the table holds what the index has at [`Self::revision`], and nothing else.
    pub fn exact(&self) -> bool {
        self.resumable && self.revision >= self.mixed_until
    }

    /// The bits of the buckets whose digests tell a resync what the table has by now.
    pub fn digest_bits(&self) -> u32 {
        self.table.digest_bits()
    }

    /// The digests of these of 2^[`Self::digest_bits`] buckets.
    pub fn digests(&self, buckets: Range<u32>) -> impl Iterator<Item = u64> {
        let bits = self.digest_bits();
        buckets.map(move |bucket| self.table.digest_of(bits, bucket))
    }

    /// The revision from which a stream can go on; 0: only with a snapshot.
    pub fn resume_from(&self) -> Revision {
        if self.resumable { self.revision } else { 0 }
    }

    /// The next entries of the log; answers with the keys whose copies must go as well. Entries seen before are
    /// skipped. In a resync they take effect, and the revision stays until its end.
    pub fn apply(&mut self, revision: Revision, entries: &[EntryEvents]) -> Result<Vec<EntryKey>, OutOfOrder> {
        if !self.resumable && !self.resyncing {
            return Err(OutOfOrder::NoResync);
        }
        let (mut purged, seen) = (Vec::new(), self.revision);
        for entry in entries.iter().filter(|entry| entry.revision > seen) {
            for event in &entry.events {
                self.apply_event(entry.revision, event, &mut purged);
            }
        }
        self.progress(revision);
        Ok(purged)
    }

    fn apply_event(&mut self, revision: Revision, event: &NamespaceEvent, purged: &mut Vec<EntryKey>) {
        match event {
            NamespaceEvent::Published { key, location, .. } => {
                let before = self.table.insert(*key, location);
                // In a resync, of what was before the page that it was deleted may never be told.
                if self.resyncing && before != Some(location.slot) && !self.is_own(key) {
                    purged.push(*key);
                }
            }
            NamespaceEvent::Retired { key, slot, reason } => {
                let there = self.table.get(key).filter(|location| location.slot == *slot);
                match there {
                    _ if *reason != RetireReason::Evicted || self.avoid.has(key, *slot) => self.departed.remove(key),
                    Some(location) => self.departed.add(revision, *key, location),
                    None => {}
                }
                self.table.remove(key, *slot);
                self.avoid.retired(key, *slot);
                if matches!(reason, RetireReason::Deleted | RetireReason::Cleared) {
                    purged.push(*key);
                }
            }
        }
    }

    /// An own publish was acknowledged. True if the page is present as far as is known here: then its bytes may be kept
    /// in L1.
    ///
    /// A publish at a revision that the table already has reached is the table's to judge: the page may be retired by
    /// now, deleted even, and what is there under its key another one.
    pub fn acknowledge(&mut self, epoch: Epoch, revision: Revision, key: EntryKey, location: Location) -> bool {
        if epoch != self.epoch {
            return false;
        }
        if revision <= self.revision {
            return self.table.slot(&key) == Some(location.slot);
        }
        self.overlay.insert(key, revision, location);
        true
    }

    /// Where the page is, if it is present and not avoided.
    pub fn location(&self, key: &EntryKey) -> Option<Location> {
        let location = self.location_of(key)?;
        (!self.avoid.has(key, location.slot)).then_some(location)
    }

    /// Where a page was that is not present any more, but was until lately, and whose bytes may still be there: the
    /// checksum says. Not for who wants to know of anything later than its eviction.
    pub fn departed(&self, key: &EntryKey, min_revision: Revision) -> Option<Location> {
        self.departed.get(key, min_revision)
    }

    /// A span of time is over, after which what was evicted in the span before it is forgotten. The answer is to be let
    /// go of.
    #[must_use]
    pub fn forget_departed(&mut self) -> impl Sized + use<> {
        self.departed.turn()
    }

    /// True if the page is present and not avoided.
    pub fn present(&self, key: &EntryKey) -> bool {
        self.slot(key).is_some_and(|slot| !self.avoid.has(key, slot))
    }

    /// Which of these pages, [`KEYS_AT_ONCE`] at most, are present, not avoided, and in a slab that `serves`; in order.
    pub fn readable(&self, keys: &[EntryKey], serves: impl Fn(SlabId) -> bool) -> [bool; KEYS_AT_ONCE] {
        let mut slots = self.table.slots(keys);
        if !self.overlay.is_empty() {
            for (slot, key) in slots.iter_mut().zip(keys) {
                *slot = self.overlay.get(key).map(|own| own.slot).or(*slot);
            }
        }
        let mut readable = [false; KEYS_AT_ONCE];
        for ((readable, key), slot) in readable.iter_mut().zip(keys).zip(slots) {
            *readable = slot.is_some_and(|slot| serves(slot.slab) && !self.avoid.has(key, slot));
        }
        readable
    }

    /// The slot the index names for the page, avoided or not.
    pub fn slot(&self, key: &EntryKey) -> Option<SlotRef> {
        match self.overlay.get(key) {
            Some(location) => Some(location.slot),
            None => self.table.slot(key),
        }
    }

    /// A revision at which the page was present; None for one that is avoided: who has its bytes may write it again.
    pub fn present_at(&self, key: &EntryKey) -> Option<Revision> {
        self.present(key).then_some(())?;
        match self.overlay.revision(key) {
            Some(revision) => Some(revision),
            None => self.table.contains(key).then_some(self.revision),
        }
    }

    /// The page's bytes at this slot can be read after all.
    pub fn trust(&mut self, key: &EntryKey, slot: SlotRef) {
        self.avoid.retired(key, slot);
    }

    /// Where the page is, avoided or not.
    pub fn location_of(&self, key: &EntryKey) -> Option<Location> {
        self.overlay.get(key).cloned().or_else(|| self.table.get(key))
    }

    /// The revision of what is known of the page: an own publish may be newer than the table.
    pub fn known_at(&self, key: &EntryKey) -> Revision {
        self.overlay.revision(key).unwrap_or(0).max(self.revision)
    }

    /// The page's bytes at this slot are bad.
    pub fn avoid(&mut self, key: EntryKey, slot: SlotRef) {
        self.departed.remove(&key);
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

    use foreword_proto::buckets::{bucket_of, hash_of_page};
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
        view.begin_resync(1, 0, 0).unwrap();
        view.end_resync(0).unwrap();
        view
    }

    /// Everything is in the one bucket there is.
    fn bucket(view: &mut View, pages: &[(u8, u32)]) -> Vec<EntryKey> {
        let pages: Vec<_> = pages.iter().map(|(number, slot)| (key(*number), location(*slot))).collect();
        view.resync_bucket(0, 0, &pages).unwrap()
    }

    #[test]
    fn the_revision_rises_when_a_resync_is_whole() {
        let mut view = synced();
        view.apply(5, &[published(5, 1, 10), published(5, 3, 30)]).unwrap();
        view.begin_resync(1, 9, 1).unwrap();
        assert!(view.present(&key(1)) && !view.present(&key(2)) && !view.exact());
        assert_eq!(bucket(&mut view, &[(2, 20), (3, 30)]), [key(1), key(2)], "copies of what is gone or new go");
        // Events come meanwhile, of entries from before a bucket was read, too.
        view.apply(11, &[published(8, 2, 20), retired(10, 3, 30, RetireReason::Deleted)]).unwrap();
        assert_eq!((view.revision(), view.resume_from()), (5, 0));
        view.end_resync(11).unwrap();
        let present = [1, 2, 3].map(|number| view.present(&key(number)));
        assert_eq!((view.revision(), view.exact(), present), (11, true, [false, true, false]));
        assert_eq!(view.end_resync(12), Err(OutOfOrder::NoResync));
        assert_eq!(view.resync_bucket(0, 0, &[]), Err(OutOfOrder::NoResync));
    }

    #[test]
    fn an_evicted_page_is_where_it_was_for_a_while_and_a_deleted_one_is_not() {
        let mut view = synced();
        view.apply(5, &[published(5, 1, 10), published(5, 2, 20), published(5, 3, 30)]).unwrap();
        let gone = [(1, 10, RetireReason::Evicted), (2, 20, RetireReason::Deleted), (3, 30, RetireReason::Evicted)];
        view.apply(6, &gone.map(|(number, slot, reason)| retired(6, number, slot, reason))).unwrap();
        assert_eq!([1, 2, 3].map(|number| view.location(&key(number))), [None, None, None]);
        assert_eq!([1, 2].map(|number| view.departed(&key(number), 6)), [Some(location(10)), None]);
        assert_eq!(view.departed(&key(1), 7), None);
        // Another one came in its place and was deleted: so was the page.
        view.apply(8, &[published(7, 3, 31), retired(8, 3, 31, RetireReason::Deleted)]).unwrap();
        assert_eq!(view.departed(&key(3), 0), None);
        view.begin_resync(1, 9, 0).unwrap();
        assert_eq!(view.departed(&key(1), 0), None, "it may have come again and been deleted");
    }

    #[test]
    fn a_copy_of_an_own_publish_that_a_resync_finds_stays() {
        let mut view = synced();
        assert!(view.acknowledge(1, 7, key(1), location(10)) && view.acknowledge(1, 7, key(2), location(20)));
        view.begin_resync(1, 9, 2).unwrap();
        assert_eq!(bucket(&mut view, &[(1, 10), (2, 21)]), [key(2)], "another's page is there by now");
        view.end_resync(9).unwrap();
        assert_eq!(view.location(&key(2)), Some(location(21)));
    }

    #[test]
    fn a_new_epoch_hides_everything_at_once() {
        let mut view = synced();
        view.apply(5, &[published(5, 1, 10)]).unwrap();
        assert!(view.acknowledge(1, 8, key(2), location(11)));
        assert_eq!(view.begin_resync(2, 8, 0).unwrap().map(|table| table.len()), Some(1));
        assert!(!view.present(&key(1)) && !view.present(&key(2)));
        assert!(!view.acknowledge(1, 9, key(3), location(12)));
    }

    #[test]
    fn a_resync_that_breaks_off_goes_on_by_digests_only() {
        let mut view = View::new(1, 1);
        assert_eq!((view.resume_from(), view.apply(5, &[])), (0, Err(OutOfOrder::NoResync)));
        view.begin_resync(1, 5, 0).unwrap();
        view.end_resync(5).unwrap();
        assert_eq!(view.resume_from(), 5);
        view.begin_resync(1, 8, 1).unwrap();
        bucket(&mut view, &[(1, 10)]);
        view.stream_broke(false);
        assert_eq!((view.resume_from(), view.revision()), (0, 5), "it is neither as of 5 nor as of 8");
        view.progress(9);
        assert_eq!((view.revision(), view.apply(9, &[])), (5, Err(OutOfOrder::NoResync)));
        let digests: Vec<u64> = view.digests(0..1).collect();
        view.begin_resync(1, 8, 1).unwrap();
        assert_eq!(view.digests(0..1).collect::<Vec<_>>(), digests, "what it has by now is kept");
        view.end_resync(8).unwrap();
        view.stream_broke(true);
        assert_eq!((view.resume_from(), view.revision()), (0, 8));
        assert_eq!(view.begin_resync(1, 7, 0).unwrap_err(), OutOfOrder::Behind { epoch: 1, revision: 7 });
        assert_eq!(view.begin_resync(0, 9, 0).unwrap_err(), OutOfOrder::Behind { epoch: 0, revision: 9 });
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
    fn a_delete_of_what_was_evicted_takes_its_copy() {
        let mut view = synced();
        view.apply(5, &[published(5, 1, 10), retired(5, 1, 10, RetireReason::Evicted), published(5, 2, 20)]).unwrap();
        let deleted = |number| {
            let (slot, reason) = (SlotRef::NONE, RetireReason::Deleted);
            EntryEvents { revision: 6, events: vec![NamespaceEvent::Retired { key: key(number), slot, reason }] }
        };
        assert_eq!(view.apply(6, &[deleted(1)]).unwrap(), [key(1)]);
        assert!(view.present(&key(2)) && !view.present(&key(1)));
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

    /// Revision i + 1 publishes this page at slot i, or retires it where it is there.
    fn entries(log: &[u8]) -> Vec<EntryEvents> {
        let mut index = BTreeMap::new();
        let entry = |(i, number): (usize, &u8)| match index.remove(number) {
            Some(slot) => retired(i as u64 + 1, *number, slot, RetireReason::Deleted),
            None => {
                index.insert(*number, i as u32);
                published(i as u64 + 1, *number, i as u32)
            }
        };
        log.iter().enumerate().map(entry).collect()
    }

    /// The index at each revision of [`entries`], from 0.
    fn history(log: &[u8]) -> Vec<BTreeMap<u8, u32>> {
        let mut history = vec![BTreeMap::new()];
        for (i, number) in log.iter().enumerate() {
            let mut next = history[i].clone();
            if next.remove(number).is_none() {
                next.insert(*number, i as u32);
            }
            history.push(next);
        }
        history
    }

    proptest! {
        /// A log of publishes and retires reaches the view by its own acknowledgements first and by the stream later.
        /// At every moment: what the stream's prefix and the acknowledgements say together is what the view says, and
        /// in the end it is the log.
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

        /// A mirror that lost its place, resynced while the log goes on: each bucket that differed is read at a
        /// revision of its own, in between the events. Whatever the log, it ends as the index is then; what it was told
        /// to purge is all that went meanwhile.
        #[test]
        fn a_resync_ends_as_the_index_is_whatever_happens_meanwhile(
            log in prop::collection::vec(0u8..24, 1..150),
            (lost, began, cursor) in (0usize..50, 0usize..50, 0usize..8),
            (bits, by_digest, breaks) in (0u32..4, any::<bool>(), any::<bool>()),
            pace in prop::collection::vec(0usize..6, 40),
        ) {
            let history = history(&log);
            let (last, log) = (history.len() - 1, entries(&log));
            let (lost, began) = (lost.min(last), (lost + began).min(last));
            let mut view = synced();
            view.apply(lost as u64, &log[..lost]).unwrap();
            view.stream_broke(true);
            let copies: Vec<u8> = history[lost].keys().copied().collect();
            let mut purged = Vec::new();
            let mut at = began;
            for round in 0..if breaks { 2 } else { 1 } {
                view.begin_resync(1, began as u64, 0).unwrap();
                let placed = |index: &BTreeMap<u8, u32>, bucket: u32| -> Vec<(EntryKey, Location)> {
                    let all = index.iter().map(|(number, slot)| (key(*number), location(*slot)));
                    all.filter(|(key, _)| bucket_of(key, bits) == bucket).collect()
                };
                let digest = |pages: &[(EntryKey, Location)]| {
                    let hash = |(key, location): &(EntryKey, Location)| {
                        hash_of_page(key, location.slot, location.checksums.as_slice()[0], &[])
                    };
                    pages.iter().map(hash).fold(0, u64::wrapping_add)
                };
                let theirs: BTreeMap<EntryKey, Location> = view.table().iter().collect();
                let theirs_in = |bucket| {
                    let all = theirs.iter().filter(|(key, _)| bucket_of(key, bits) == bucket);
                    all.map(|(key, location)| (*key, location.clone())).collect::<Vec<_>>()
                };
                let differs = |bucket: &u32| digest(&theirs_in(*bucket)) != digest(&placed(&history[at], *bucket));
                let todo: Vec<u32> = (0..1 << bits).filter(|bucket| !by_digest || differs(bucket)).collect();
                // The stream had told others of entries up to some before the digests were compared.
                let mut told = at.saturating_sub(cursor);
                for (step, bucket) in todo.iter().enumerate() {
                    let pages = placed(&history[at], *bucket);
                    purged.extend(view.resync_bucket(bits, *bucket, &pages).unwrap());
                    if breaks && round == 0 && step == todo.len() / 2 {
                        break;
                    }
                    at = (at + pace[step % pace.len()]).min(last);
                    let upto = (told + pace[(step + 7) % pace.len()]).min(at);
                    purged.extend(view.apply(upto as u64, &log[told..upto.max(told)]).unwrap());
                    told = upto.max(told);
                }
                if breaks && round == 0 {
                    view.stream_broke(false);
                    prop_assert_eq!((view.resume_from(), view.revision()), (0, lost as u64));
                    continue;
                }
                purged.extend(view.apply(at as u64, &log[told..at]).unwrap());
                prop_assert_eq!(view.revision(), lost as u64);
                view.end_resync(at as u64).unwrap();
            }
            let found: BTreeMap<EntryKey, Location> = view.table().iter().collect();
            let expected = history[at].iter().map(|(number, slot)| (key(*number), location(*slot))).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!((view.revision(), view.exact()), (at as u64, true));
            for number in copies {
                let (before, now) = (history[lost].get(&number), history[at].get(&number));
                // What is absent is purged at the end, whatever was said.
                prop_assert!(now.is_none() || now == before || purged.contains(&key(number)), "a copy of {} stays", number);
            }
        }
    }
}
