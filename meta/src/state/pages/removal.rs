//! How pages leave the index: retired, deleted, cleared and reclaimed. Their slots rest.

use foreword_proto::limits::KEYS_MAX;
use foreword_proto::{EntryKey, NamespaceId, RetireReason};
use foreword_seams::{Marker, sometimes};

use super::Pages;
use super::garbage::Garbage;
use super::index::{BUCKETS, TableId};
use crate::state::command::{Event, Limit, Outcome, Refusal, Retirement};
use crate::state::moment::Moment;
use crate::state::room::{RestKind, Room};

/// Buckets one reclaim looks through at most, so that a few entries of a cleared namespace cost no walk over the whole
/// index.
const BUCKETS_PER_RECLAIM_MAX: usize = 512;

/// What a removal may touch.
pub(in crate::state) struct RemovalHandler<'st> {
    pub(in crate::state) pages: &'st mut Pages,
    pub(in crate::state) room: &'st mut Room,
    pub(in crate::state) at: Moment<'st>,
    pub(in crate::state) events: &'st mut Vec<Event>,
}

impl RemovalHandler<'_> {
    /// Retires entries that are still at the slot named.
    pub(in crate::state) fn retire(&mut self, reason: RetireReason, entries: &[Retirement]) -> Outcome {
        let mut retired = 0;
        for entry in entries {
            let found = self.pages.location(entry.namespace, &entry.key);
            if found.is_some_and(|location| location.slot == entry.slot) {
                retired += u32::from(self.retire_page(entry.namespace, &entry.key, reason));
            }
        }
        if retired > 0 && reason == RetireReason::Evicted {
            sometimes(Marker::PageEvicted);
        }
        Outcome::Retired { entries: retired }
    }

    /// Retires the pages of these keys, wherever they are.
    pub(in crate::state) fn delete(&mut self, namespace: NamespaceId, keys: &[EntryKey]) -> Result<Outcome, Refusal> {
        self.pages.namespace(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        if keys.len() > KEYS_MAX {
            return Err(Refusal::TooMany(Limit::DeletedKeys));
        }
        let mut retired = 0;
        for key in keys {
            retired += u32::from(self.retire_page(namespace, key, RetireReason::Deleted));
        }
        Ok(Outcome::Retired { entries: retired })
    }

    /// Retires the page of this key, wherever it is. False if there is none.
    pub(in crate::state) fn retire_page(
        &mut self,
        namespace: NamespaceId,
        key: &EntryKey,
        reason: RetireReason,
    ) -> bool {
        let Some(info) = self.pages.namespaces.get(namespace) else { return false };
        let Some(slot) = self.pages.remove(info.shards(), info.table, key) else { return false };
        self.room.rest(slot, RestKind::Read, self.at);
        if let Some(info) = self.pages.namespaces.get_mut(namespace) {
            info.pages -= 1;
        }
        self.events.push(Event::Retired { namespace, key: *key, slot, reason });
        true
    }

    /// All entries of the namespace are invisible from now on.
    pub(in crate::state) fn clear(&mut self, namespace: NamespaceId) -> Result<Outcome, Refusal> {
        self.pages.namespace(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        let fresh = self.pages.take_table()?;
        let info = self.pages.namespaces.get_mut(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        let left = Garbage::of(info);
        // Each clear takes a table id, so an epoch can never run out before they do.
        info.epoch += 1;
        info.table = fresh;
        info.pages = 0;
        let epoch = info.epoch;
        self.leave(left);
        sometimes(Marker::NamespaceCleared);
        self.events.push(Event::Cleared { namespace, epoch });
        Ok(Outcome::Cleared { epoch })
    }

    /// Forgets the namespace. Its id is never given out again; its entries are reclaimed as those of a clear are.
    pub(in crate::state) fn drop_namespace(&mut self, namespace: NamespaceId) -> Result<Outcome, Refusal> {
        let info = self.pages.namespaces.remove(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        self.leave(Garbage::of(&info));
        sometimes(Marker::NamespaceDropped);
        self.events.push(Event::NamespaceDropped { namespace });
        Ok(Outcome::NamespaceDropped { pages: info.pages })
    }

    /// Leaves what is in a namespace's table to be reclaimed.
    fn leave(&mut self, left: Garbage) {
        if left.entries > 0 {
            self.pages.garbage.push_back(left);
        }
    }

    /// Reclaims up to `entries_max` cleared entries, looking through a bounded part of the index.
    pub(in crate::state) fn reclaim(&mut self, entries_max: u32) -> Outcome {
        let had_some = !self.pages.garbage.is_empty();
        let mut room = entries_max as usize;
        for _ in 0..BUCKETS_PER_RECLAIM_MAX {
            let Some(mut garbage) = self.pages.garbage.pop_front() else { break };
            let whole = self.reclaim_bucket(&mut garbage, &mut room);
            garbage.bucket += u32::from(whole);
            if garbage.entries > 0 && (garbage.bucket as usize) < BUCKETS {
                self.pages.garbage.push_front(garbage);
            }
            if room == 0 {
                break;
            }
        }
        if had_some && self.pages.garbage.is_empty() {
            sometimes(Marker::GarbageReclaimed);
        }
        Outcome::Reclaimed { left: self.pages.reclaimable() }
    }

    /// Reclaims entries of one bucket, at most `room`, which falls by as many; true if none is left there.
    fn reclaim_bucket(&mut self, garbage: &mut Garbage, room: &mut usize) -> bool {
        let (table, shards): (TableId, usize) = (garbage.table, garbage.shards as usize);
        let entries = self.pages.index.bucket(shards, garbage.bucket as usize);
        let mut keys: Vec<EntryKey> =
            entries.filter(|(entry, _)| entry.table == table).map(|(entry, _)| entry.key).collect();
        let whole = keys.len() <= *room;
        // Sorted: where an entry lies in its bucket must never decide anything.
        keys.sort_unstable();
        keys.truncate(*room);
        for key in &keys {
            if let Some(slot) = self.pages.remove(shards, table, key) {
                self.room.rest(slot, RestKind::Read, self.at);
            }
        }
        *room -= keys.len();
        garbage.entries -= keys.len() as u64;
        whole
    }
}
