//! How pages leave the index: retired, deleted, cleared and reclaimed. Their slots rest.

use foreword_proto::limits::KEYS_MAX;
use foreword_proto::{EntryKey, NamespaceId, RetireReason, SlotRef};
use foreword_seams::{Marker, sometimes};

use super::Pages;
use super::garbage::Left;
use super::namespaces::NamespaceInfo;
use crate::state::command::{Event, Limit, Outcome, Refusal, Retirement};
use crate::state::moment::Moment;
use crate::state::room::{RestKind, Room};
use foreword_index::Table;

/// Buckets one reclaim looks through at most, so that a few entries of a namespace that once had many cost no walk over
/// all its buckets.
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

    /// Retires the pages of these keys, wherever they are. What was evicted before may still be in an agent's memory:
    /// that is said, too.
    pub(in crate::state) fn delete(&mut self, namespace: NamespaceId, keys: &[EntryKey]) -> Result<Outcome, Refusal> {
        self.pages.namespace(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        if keys.len() > KEYS_MAX {
            return Err(Refusal::TooMany(Limit::DeletedKeys));
        }
        let at = self.at.revision;
        self.pages.namespaces.change(namespace, |info| info.deleted_at = at);
        let mut retired = 0;
        for key in keys {
            let present = self.retire_page(namespace, key, RetireReason::Deleted);
            retired += u32::from(present);
            if !present {
                self.events.push(Event::AbsentDeleted { namespace, key: *key });
            }
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
        let removed = self.pages.namespaces.change(namespace, |info| info.table.remove(key)).flatten();
        let Some((slot, _)) = removed else { return false };
        self.room.rest(slot, RestKind::Read, self.at);
        self.events.push(Event::Retired { namespace, key: *key, slot, reason });
        true
    }

    /// All entries of the namespace are invisible from now on.
    pub(in crate::state) fn clear(&mut self, namespace: NamespaceId) -> Result<Outcome, Refusal> {
        let clear = |info: &mut NamespaceInfo| {
            info.epoch = info.epoch.checked_add(1).ok_or(Refusal::TooMany(Limit::Clears))?;
            let fresh = Table::new(info.shards(), 1);
            let left = std::mem::replace(&mut info.table, fresh);
            Ok((info.epoch, left, info.slot_bytes))
        };
        let cleared = self.pages.namespaces.change(namespace, clear);
        let (epoch, left, slot_bytes) = cleared.unwrap_or(Err(Refusal::NoNamespace { namespace }))?;
        self.pages.garbage.add(left, slot_bytes);
        sometimes(Marker::NamespaceCleared);
        self.events.push(Event::Cleared { namespace, epoch });
        Ok(Outcome::Cleared { epoch })
    }

    /// Forgets the namespace. Its id is never given out again; its entries are reclaimed as those of a clear are.
    pub(in crate::state) fn drop_namespace(&mut self, namespace: NamespaceId) -> Result<Outcome, Refusal> {
        let info = self.pages.namespaces.remove(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        self.pages.garbage.add(info.table.clone(), info.slot_bytes);
        sometimes(Marker::NamespaceDropped);
        self.events.push(Event::NamespaceDropped { namespace });
        Ok(Outcome::NamespaceDropped { pages: info.pages() })
    }

    /// Reclaims up to `entries_max` cleared entries, looking through a bounded part of the index.
    pub(in crate::state) fn reclaim(&mut self, entries_max: u32) -> Outcome {
        let had_some = !self.pages.garbage.is_empty();
        let mut room = entries_max as usize;
        for _ in 0..BUCKETS_PER_RECLAIM_MAX {
            let Some(mut left) = self.pages.garbage.left.pop_front() else { break };
            let before = left.table.entries();
            let whole = self.reclaim_bucket(&mut left, &mut room);
            self.pages.garbage.entries -= before - left.table.entries();
            left.bucket += u32::from(whole);
            if left.table.entries() > 0 {
                self.pages.garbage.left.push_front(left);
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

    /// Reclaims entries of the first bucket, at most `room`, which falls by as many; true if none is left there.
    fn reclaim_bucket(&mut self, left: &mut Left, room: &mut usize) -> bool {
        let mut entries: Vec<(EntryKey, SlotRef)> =
            left.table.pages_in(left.bucket).map(|(key, location)| (key, location.slot)).collect();
        let whole = entries.len() <= *room;
        // Sorted: where an entry lies in its bucket must never decide anything.
        entries.sort_unstable();
        entries.truncate(*room);
        if whole {
            left.table.take_bucket(left.bucket);
        } else {
            for (key, _) in &entries {
                left.table.remove(key);
            }
        }
        for (_, slot) in &entries {
            self.room.rest(*slot, RestKind::Read, self.at);
        }
        *room -= entries.len();
        whole
    }
}
