//! Every entry since the last purge, in memory.

use std::collections::VecDeque;

use openraft::EntryPayload;

use super::quorums::Quorums;
use crate::consensus::entry_codec::entry_bytes;
use crate::consensus::types::{Entry, LogId, Vote};

/// The log in memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    /// Entries with consecutive indexes.
    pub(super) entries: VecDeque<Entry>,
    /// For each of them the bytes that it and all before it, since the start, took in the log.
    ends: VecDeque<u64>,
    /// The same of what was purged.
    purged_end: u64,
    pub(super) quorums: Quorums,
}

impl Memory {
    /// A log without entries.
    pub(super) fn new(vote: Option<Vote>, purged: Option<LogId>, committed: Option<LogId>) -> Self {
        Self { vote, purged, committed, ..Self::default() }
    }

    /// The last entry, or the last purged one.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    /// The id at an index: of an entry, or of the last purged one.
    pub(super) fn log_id(&self, index: u64) -> Option<LogId> {
        let purged = self.purged.filter(|purged| purged.index == index);
        purged.or_else(|| self.entries.get(self.offset(index)?).map(|entry| entry.log_id))
    }

    /// Adds an entry that follows the last one.
    pub(super) fn push(&mut self, entry: Entry) {
        self.ends.push_back(self.end() + entry_bytes(&entry) as u64);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.quorums.appended(entry.log_id.index, membership);
        }
        self.entries.push_back(entry);
    }

    fn end(&self) -> u64 {
        self.ends.back().copied().unwrap_or(self.purged_end)
    }

    /// Bytes that the entries take in the log.
    pub(super) fn bytes(&self) -> u64 {
        self.end() - self.purged_end
    }

    /// Bytes of the entries after `index`.
    pub(super) fn bytes_after(&self, index: u64) -> u64 {
        let Some(first) = self.entries.front().map(|entry| entry.log_id.index) else { return 0 };
        let Some(offset) = index.checked_sub(first) else { return self.bytes() };
        self.ends.get(offset as usize).map_or(0, |end| self.end() - end)
    }

    /// The last index with at least `bytes` of entries after it; None when all entries are fewer.
    pub(super) fn index_before(&self, bytes: u64) -> Option<u64> {
        let first = self.entries.front()?.log_id.index;
        let limit = self.end().checked_sub(bytes)?;
        let enough = self.ends.partition_point(|end| *end <= limit) as u64;
        (enough > 0).then(|| first + enough - 1)
    }

    /// Whether entries of this term are this replica's own as their leader, and nothing commits without another
    /// replica: then it is enough that the others' acknowledgements wait for its disk ([`super::LogReader::flushed`]).
    pub(super) fn leads_others(&self, replica_id: u64, term: u64) -> bool {
        let leads = |vote: &Vote| {
            vote.committed && vote.leader_id.voted_for() == Some(replica_id) && vote.leader_id.term == term
        };
        self.vote.as_ref().is_some_and(leads) && self.quorums.need_another()
    }

    fn offset(&self, index: u64) -> Option<usize> {
        let first = self.entries.front()?.log_id.index;
        index.checked_sub(first).map(|offset| offset as usize)
    }

    pub(super) fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= from) {
            self.entries.pop_back();
            self.ends.pop_back();
        }
        self.quorums.truncated(from);
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        if self.last().is_none_or(|last| last.index < upto.index) {
            self.quorums.unknown();
        }
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.entries.pop_front();
            self.purged_end = self.ends.pop_front().unwrap_or(self.purged_end);
        }
        self.quorums.purged(upto.index);
        self.purged = Some(upto);
    }

    /// Entries of `start..end` that exist, until `bytes_max` is exceeded; at least one if there is one.
    pub(super) fn read(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.entries.front().map(|entry| entry.log_id.index) else { return Vec::new() };
        let skip = start.saturating_sub(first) as usize;
        let mut bytes = 0;
        let wanted = self.entries.iter().skip(skip).take_while(|entry| entry.log_id.index < end);
        let bounded = wanted.take_while(|entry| {
            let more = bytes < bytes_max;
            bytes += entry_bytes(entry);
            more
        });
        bounded.cloned().collect()
    }
}
