//! A log entry as stored and as sent: compact, versioned, checksummed.
//!
//! Stored: crc32 of the rest (u32), format version (u8), kind (u8), index, term, leader (u64 each), payload, what the
//! version has at its end; little-endian. A payload is nothing (blank), the encoded commands, or the membership as
//! JSON.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foreword_proto::BadInput;
use foreword_proto::limits::FORMAT_VERSIONS;
use foreword_proto::versions::{Foreign, trailer};
use foreword_proto::wire::raft::LogEntry;
use openraft::{CommittedLeaderId, EntryPayload};

use crate::consensus::types::{Entry, EntryBatch, LogId, Vote};

/// Bytes of a stored entry before its payload.
pub const ENTRY_HEADER_BYTES: usize = 4 + 1 + 1 + 3 * 8;

const KIND_BLANK: u32 = 0;
const KIND_COMMANDS: u32 = 1;
const KIND_MEMBERSHIP: u32 = 2;

/// Bytes that are no entry, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log entry {index}: {what}")]
pub struct CorruptEntry {
    /// The index under which the bytes were stored.
    pub index: u64,
    pub what: Unreadable,
}

/// Why stored bytes cannot be read. Only what has its right checksum can be another version's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Foreign(Foreign),
}

impl From<String> for Unreadable {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

fn payload_of(entry: &Entry) -> (u32, Bytes) {
    match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(batch) => (KIND_COMMANDS, batch.0.clone()),
        EntryPayload::Membership(membership) => {
            // A map of u64 to strings and sets of u64: JSON has a form for every value of it.
            (KIND_MEMBERSHIP, serde_json::to_vec(membership).expect("a membership has a JSON form").into())
        }
    }
}

fn entry_of(log_id: LogId, kind: u32, payload: Bytes) -> Result<Entry, Unreadable> {
    let payload = match kind {
        KIND_BLANK if payload.is_empty() => EntryPayload::Blank,
        KIND_BLANK => return Err(format!("a blank entry with {} bytes of payload", payload.len()).into()),
        KIND_COMMANDS => EntryPayload::Normal(EntryBatch(payload)),
        KIND_MEMBERSHIP => {
            EntryPayload::Membership(serde_json::from_slice(&payload).map_err(|error| format!("membership: {error}"))?)
        }
        found => {
            return Err(Unreadable::Foreign(Foreign::Kind { record: "log entry", found, reads: FORMAT_VERSIONS }));
        }
    };
    Ok(Entry { log_id, payload })
}

/// The entry as the log stores it in a format version.
pub fn encode_entry(version: u32, entry: &Entry) -> Bytes {
    let (kind, payload) = payload_of(entry);
    let mut out = BytesMut::with_capacity(ENTRY_HEADER_BYTES + payload.len() + trailer(version).len());
    out.put_u32_le(0);
    out.put_u8(version as u8);
    out.put_u8(kind as u8);
    out.put_u64_le(entry.log_id.index);
    out.put_u64_le(entry.log_id.leader_id.term);
    out.put_u64_le(entry.log_id.leader_id.node_id);
    out.put_slice(&payload);
    seal(version, out)
}

/// Reads what [`encode_entry`] wrote under `index`; commands share the input's memory.
pub fn decode_entry(index: u64, stored: &Bytes) -> Result<Entry, CorruptEntry> {
    let corrupt = |what: Unreadable| CorruptEntry { index, what };
    let mut rest = unseal(stored, ENTRY_HEADER_BYTES).map_err(corrupt)?;
    let kind = rest.get_u8();
    let stored_index = rest.get_u64_le();
    let leader_id = CommittedLeaderId::new(rest.get_u64_le(), rest.get_u64_le());
    if stored_index != index {
        return Err(corrupt(format!("holds entry {stored_index}").into()));
    }
    entry_of(LogId { leader_id, index }, kind.into(), rest).map_err(corrupt)
}

/// The entry as a message.
pub fn entry_to_wire(entry: &Entry) -> LogEntry {
    let (kind, payload) = payload_of(entry);
    let LogId { leader_id, index } = entry.log_id;
    LogEntry { term: leader_id.term, leader: leader_id.node_id, index, kind, payload }
}

/// Parses a message; an error names `entries.<index>`.
pub fn entry_from_wire(message: LogEntry) -> Result<Entry, BadInput> {
    let LogEntry { term, leader, index, kind, payload } = message;
    let log_id = LogId { leader_id: CommittedLeaderId::new(term, leader), index };
    entry_of(log_id, kind, payload)
        .map_err(|what| BadInput::new(format!("entries.{index}"), format!("a log entry, got {what}")))
}

/// Bytes the entry takes in the log in the first format version, by which purges and messages are sized.
pub fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(batch) => ENTRY_HEADER_BYTES + batch.0.len(),
        _ => ENTRY_HEADER_BYTES + payload_of(entry).1.len(),
    }
}

/// A log id as a named value of the log.
pub fn encode_log_id(version: u32, id: &LogId) -> Bytes {
    let mut out = value_start(version);
    out.put_u64_le(id.leader_id.term);
    out.put_u64_le(id.leader_id.node_id);
    out.put_u64_le(id.index);
    seal(version, out)
}

/// Reads what [`encode_log_id`] wrote.
pub fn decode_log_id(stored: &Bytes) -> Result<LogId, Unreadable> {
    let mut rest = unseal(stored, VALUE_HEADER_BYTES + 24)?;
    let leader_id = CommittedLeaderId::new(rest.get_u64_le(), rest.get_u64_le());
    Ok(LogId { leader_id, index: rest.get_u64_le() })
}

/// A vote as a named value of the log.
pub fn encode_vote(version: u32, vote: &Vote) -> Bytes {
    let mut out = value_start(version);
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.node_id);
    out.put_u8(vote.committed.into());
    seal(version, out)
}

/// Reads what [`encode_vote`] wrote.
pub fn decode_vote(stored: &Bytes) -> Result<Vote, Unreadable> {
    let mut rest = unseal(stored, VALUE_HEADER_BYTES + 17)?;
    let (term, node) = (rest.get_u64_le(), rest.get_u64_le());
    match rest.get_u8() {
        0 => Ok(Vote::new(term, node)),
        1 => Ok(Vote::new_committed(term, node)),
        other => Err(format!("a vote that is {other}, neither committed nor not").into()),
    }
}

const VALUE_HEADER_BYTES: usize = 4 + 1;

fn value_start(version: u32) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_u32_le(0);
    out.put_u8(version as u8);
    out
}

/// Appends what the version has at its end, and fills in the checksum at the start.
fn seal(version: u32, mut out: BytesMut) -> Bytes {
    out.put_slice(trailer(version));
    let crc = crc32fast::hash(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out.freeze()
}

/// Checks length, checksum and version, in this order; what is left follows the version.
fn unseal(stored: &Bytes, bytes_min: usize) -> Result<Bytes, Unreadable> {
    let too_short = || format!("{} bytes, expected at least {bytes_min}", stored.len());
    if stored.len() < VALUE_HEADER_BYTES {
        return Err(too_short().into());
    }
    let mut rest = stored.clone();
    let expected = rest.get_u32_le();
    let found = crc32fast::hash(&rest);
    if expected != found {
        return Err(format!("checksum {found:08x}, expected {expected:08x}").into());
    }
    let version = rest.get_u8().into();
    Foreign::check_version(version, FORMAT_VERSIONS).map_err(Unreadable::Foreign)?;
    let end = rest.len().checked_sub(trailer(version).len()).filter(|end| rest[*end..] == *trailer(version));
    let end = end.ok_or_else(|| format!("without what version {version} ends with"))?;
    rest.truncate(end);
    if VALUE_HEADER_BYTES + end < bytes_min { Err(too_short().into()) } else { Ok(rest) }
}
