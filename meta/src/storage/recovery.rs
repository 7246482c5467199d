//! What the disk says at a start: the log as it will be kept in memory, or why it cannot be trusted.

use std::io;

use bytes::Bytes;
use foreword_proto::versions::OtherVersion;
use foreword_seams::{Marker, sometimes};

use super::engine::{LogEngine, MetaKey};
use super::log_memory::Memory;
use super::mark::Mark;
use crate::consensus::entry_codec::{CorruptEntry, Unreadable, decode_entry, decode_log_id, decode_vote};
use crate::consensus::types::LogId;

/// Indexes read from the engine at a time; their entries are mostly 64 KiB or less.
const READ_ENTRIES: u64 = 64;

/// Why a log did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What this replica had acknowledged is gone: it must not vote with this log. Its directory is set aside, and it
    /// rejoins empty.
    #[error("log: expected everything that was acknowledged, {0}")]
    Lost(String),
    /// The log, or its mark, is whole and another version's: nothing is set aside, and nobody starts here but a binary
    /// that reads it.
    #[error("data_dir.{0}")]
    OtherVersion(OtherVersion),
    /// An entry that was stored whole is damaged.
    #[error(transparent)]
    Corrupt(CorruptEntry),
    /// A named value of the log is damaged.
    #[error("log: {key:?}: {what}")]
    CorruptMeta { key: MetaKey, what: String },
    /// The disk failed.
    #[error("log: {0}")]
    Io(#[from] io::Error),
}

impl From<CorruptEntry> for OpenError {
    fn from(entry: CorruptEntry) -> Self {
        match entry.what {
            Unreadable::Foreign(what) => Self::OtherVersion(what.of(format!("log entry {}", entry.index))),
            Unreadable::Damaged(_) => Self::Corrupt(entry),
        }
    }
}

fn meta<T>(
    engine: &mut dyn LogEngine,
    key: MetaKey,
    decode: impl FnOnce(&Bytes) -> Result<T, Unreadable>,
) -> Result<Option<T>, OpenError> {
    let stored = engine.get_meta(key)?;
    let unreadable = |what| match what {
        Unreadable::Foreign(what) => OpenError::OtherVersion(what.of(format!("the log's {key:?}"))),
        Unreadable::Damaged(what) => OpenError::CorruptMeta { key, what },
    };
    stored.map(|bytes| decode(&bytes).map_err(unreadable)).transpose()
}

/// Reads the whole log and checks it against the mark.
pub(crate) fn recover(engine: &mut dyn LogEngine, mark: &Mark) -> Result<Memory, OpenError> {
    let vote = meta(engine, MetaKey::Vote, decode_vote)?;
    let purged = meta(engine, MetaKey::Purged, decode_log_id)?;
    let committed = meta(engine, MetaKey::Committed, decode_log_id)?;
    let mut memory = Memory::new(vote, purged, committed);
    let whole = load(engine, &mut memory);
    if let Err(other @ OpenError::OtherVersion(_)) = whole {
        return Err(other);
    }
    // A loss explains any damage; it is the more useful answer.
    check_mark(&memory, mark, whole.is_ok()).inspect_err(|_| sometimes(Marker::MarkCaughtLoss))?;
    whole?;
    // Saved with a later group than the entries it covers, so it can only be ahead when a tail that nobody waited for
    // is gone.
    memory.committed = memory.committed.min(memory.last());
    Ok(memory)
}

fn load(engine: &mut dyn LogEngine, memory: &mut Memory) -> Result<(), OpenError> {
    let next = memory.purged.map_or(0, |purged| purged.index + 1);
    let Some((first, last)) = engine.bounds().filter(|(_, last)| *last >= next) else { return Ok(()) };
    if first > next {
        return Err(CorruptEntry { index: next, what: format!("missing; the log starts at {first}").into() }.into());
    }
    let mut expected = next;
    while expected <= last {
        let items = engine.read(expected..(expected + READ_ENTRIES).min(last + 1))?;
        if items.is_empty() {
            return Err(
                CorruptEntry { index: expected, what: format!("missing; the log ends at {last}").into() }.into()
            );
        }
        for (index, stored) in items {
            if index != expected {
                return Err(CorruptEntry { index: expected, what: format!("missing; {index} follows").into() }.into());
            }
            memory.push(decode_entry(index, &stored)?);
            expected += 1;
        }
    }
    Ok(())
}

/// What the mark promises must be there. `whole`: every stored entry was read.
fn check_mark(memory: &Memory, mark: &Mark, whole: bool) -> Result<(), OpenError> {
    if mark.vote > memory.vote {
        return Err(OpenError::Lost(format!("found vote {:?}, acknowledged was {:?}", memory.vote, mark.vote)));
    }
    let Some((index, term)) = mark.last.filter(|_| whole) else { return Ok(()) };
    let last = memory.last();
    if last.is_none_or(|last| last.index < index) {
        let end = last.map_or_else(|| "it is empty".to_owned(), |last| format!("it ends at {last}"));
        return Err(OpenError::Lost(format!("{end}, acknowledged was entry {index} of term {term}")));
    }
    let found = memory.log_id(index);
    if found.is_some_and(|found: LogId| found.leader_id.term != term) {
        return Err(OpenError::Lost(format!("entry {index} is {found:?}, acknowledged was one of term {term}")));
    }
    Ok(())
}
