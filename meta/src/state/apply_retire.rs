//! How pages leave the index: retired, deleted, suspected, cleared and reclaimed.

use foreword_proto::limits::{KEYS_MAX, SUSPECTS_PER_REPORT_MAX};
use foreword_proto::records::SuspectRecord;
use foreword_proto::{EntryKey, NamespaceId, RetireReason, SessionId, SlotRef};

use super::command::{Event, Outcome, Refusal, Retirement, SuspectOutcome};
use super::index::{BUCKETS, TableId};
use super::rests::RestKind;
use super::suspicions::{SUSPICION_ALONE_MS, SUSPICIONS_PER_SESSION_MAX, Suspected, Suspicion};
use super::{Garbage, State, digest};

/// Buckets one reclaim looks through at most, so that a few entries of a cleared namespace cost no walk over the whole index.
const BUCKETS_PER_RECLAIM_MAX: usize = 512;

impl State {
    pub(super) fn retire(&mut self, reason: RetireReason, entries: &[Retirement], events: &mut Vec<Event>) -> Outcome {
        let mut retired = 0;
        for entry in entries {
            let found = self.location(entry.namespace, &entry.key);
            if found.is_some_and(|location| location.slot == entry.slot) {
                retired += u32::from(self.retire_entry(entry.namespace, &entry.key, reason, events));
            }
        }
        Outcome::Retired { entries: retired }
    }

    pub(super) fn delete(
        &mut self,
        namespace: NamespaceId,
        keys: &[EntryKey],
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        self.namespaces.get(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        if keys.len() > KEYS_MAX {
            return Err(Refusal::TooMany { field: "keys".into(), limit: KEYS_MAX as u64 });
        }
        let mut retired = 0;
        for key in keys {
            retired += u32::from(self.retire_entry(namespace, key, RetireReason::Deleted, events));
        }
        Ok(Outcome::Retired { entries: retired })
    }

    /// Retires the page of this key, wherever it is; its slot rests. False if there is none.
    pub(super) fn retire_entry(
        &mut self,
        namespace: NamespaceId,
        key: &EntryKey,
        reason: RetireReason,
        events: &mut Vec<Event>,
    ) -> bool {
        let Some(info) = self.namespaces.get(namespace) else { return false };
        let Some(slot) = self.take_entry(info.shards(), info.table, key) else { return false };
        if let Some(info) = self.namespaces.get_mut(namespace) {
            info.pages -= 1;
        }
        self.drop_suspicion(&(namespace, *key));
        events.push(Event::Retired { namespace, key: *key, slot, reason });
        true
    }

    /// Takes an entry out of the index and puts its slot to rest.
    fn take_entry(&mut self, shards: usize, table: TableId, key: &EntryKey) -> Option<SlotRef> {
        let location = self.index.get(shards, table, key)?;
        let (slot, hash) = (location.slot, digest::of_entry(table, key, &location));
        self.index.remove(shards, table, key);
        self.entries_digest = self.entries_digest.wrapping_sub(hash);
        self.rest(slot, RestKind::Read);
        Some(slot)
    }

    pub(super) fn clear(&mut self, namespace: NamespaceId, events: &mut Vec<Event>) -> Result<Outcome, Refusal> {
        self.namespaces.get(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        let fresh = self.take_table()?;
        let info = self.namespaces.get_mut(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        let (table, shards, entries) = (info.table, info.shards(), info.pages);
        // Each clear takes a table id, so an epoch can never run out before they do.
        info.epoch += 1;
        info.table = fresh;
        info.pages = 0;
        let epoch = info.epoch;
        if entries > 0 {
            self.garbage.push_back(Garbage { table, shards, bucket: 0, entries });
        }
        for page in self.suspicions.pages(|(of, _), _| *of == namespace) {
            self.drop_suspicion(&page);
        }
        events.push(Event::Cleared { namespace, epoch });
        Ok(Outcome::Cleared { epoch })
    }

    /// Reclaims up to `entries_max` cleared entries, looking through a bounded part of the index.
    pub(super) fn reclaim(&mut self, entries_max: u32) -> Outcome {
        let mut room = entries_max as usize;
        for _ in 0..BUCKETS_PER_RECLAIM_MAX {
            let Some(mut garbage) = self.garbage.pop_front() else { break };
            let entries = self.index.bucket(garbage.shards, garbage.bucket);
            let mut keys: Vec<EntryKey> =
                entries.filter(|(entry, _)| entry.table == garbage.table).map(|(entry, _)| entry.key).collect();
            let whole = keys.len() <= room;
            // Sorted: where an entry lies in its bucket must never decide anything.
            keys.sort_unstable();
            keys.truncate(room);
            for key in &keys {
                self.take_entry(garbage.shards, garbage.table, key);
            }
            room -= keys.len();
            garbage.entries -= keys.len() as u64;
            garbage.bucket += usize::from(whole);
            if garbage.entries > 0 && garbage.bucket < BUCKETS {
                self.garbage.push_front(garbage);
            }
            if room == 0 {
                break;
            }
        }
        Outcome::Reclaimed { left: self.reclaimable() }
    }

    pub(super) fn suspect(
        &mut self,
        session: SessionId,
        namespace: NamespaceId,
        suspects: &[SuspectRecord],
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        self.sessions.get(session).ok_or(Refusal::NoSession { session })?;
        self.namespaces.get(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        if suspects.len() > SUSPECTS_PER_REPORT_MAX {
            return Err(Refusal::TooMany { field: "suspects".into(), limit: SUSPECTS_PER_REPORT_MAX as u64 });
        }
        let judge = |report| self.suspect_page(session, namespace, report, events);
        Ok(Outcome::Suspected { outcomes: suspects.iter().map(judge).collect() })
    }

    fn suspect_page(
        &mut self,
        session: SessionId,
        namespace: NamespaceId,
        report: &SuspectRecord,
        events: &mut Vec<Event>,
    ) -> SuspectOutcome {
        let found = self.location(namespace, &report.key);
        let same = found.is_some_and(|location| {
            location.slot == report.slot && location.checksum_of(report.shard as usize) == Some(report.checksum)
        });
        if !same || self.sessions.get(session).is_none_or(|reporter| reporter.suspect_limited) {
            return SuspectOutcome::Void;
        }
        let page = (namespace, report.key);
        let Some(pending) = self.suspicions.get(&page) else { return self.note_suspicion(session, page) };
        let old = self.tick_ms.saturating_sub(pending.since_ms) >= SUSPICION_ALONE_MS;
        let confirmed = pending.session != session || (self.sessions.open.len() == 1 && old);
        if !confirmed {
            return SuspectOutcome::Noted;
        }
        self.retire_entry(namespace, &report.key, RetireReason::Suspect, events);
        SuspectOutcome::Retired
    }

    fn note_suspicion(&mut self, session: SessionId, page: Suspected) -> SuspectOutcome {
        let since_ms = self.tick_ms;
        let Some(reporter) = self.sessions.get_mut(session) else { return SuspectOutcome::Void };
        if reporter.suspicions >= SUSPICIONS_PER_SESSION_MAX {
            reporter.suspect_limited = true;
            return SuspectOutcome::Void;
        }
        reporter.suspicions += 1;
        self.suspicions.add(page, Suspicion { session, since_ms });
        SuspectOutcome::Noted
    }

    /// Forgets a suspicion, if there is one; a limited reporter with none outstanding is heard again.
    pub(super) fn drop_suspicion(&mut self, page: &Suspected) {
        let Some(suspicion) = self.suspicions.remove(page) else { return };
        let Some(reporter) = self.sessions.get_mut(suspicion.session) else { return };
        reporter.suspicions -= 1;
        reporter.suspect_limited &= reporter.suspicions > 0;
    }
}
