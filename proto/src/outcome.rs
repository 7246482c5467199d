//! What can become of a page, as one closed set of values each; the numbers are the wire's.

use serde::{Deserialize, Serialize};

/// Where a page's bytes were when the agent was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    L1 = 1,
    L2 = 2,
    L3 = 3,
}

/// What the group answers for one page of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PublishOutcome {
    /// The page is in the index at the answer's revision; the slot now belongs to it.
    Published = 1,
    /// The key was there already: its location is in the answer; the slot stays with the session.
    Existing = 2,
    /// The namespace was cleared after the writer took the bytes; the slot stays with the session.
    Cleared = 3,
    /// The session does not hold that slot in that generation.
    NotGranted = 4,
    /// The key's part of the index holds as many entries as it can; the slot stays with the session.
    IndexFull = 5,
}

impl PublishOutcome {
    /// From the wire's number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Published,
            2 => Self::Existing,
            3 => Self::Cleared,
            4 => Self::NotGranted,
            5 => Self::IndexFull,
            _ => return None,
        })
    }
}

/// Why an entry left the index; every retire event carries one. 2 was never sent and is not given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum RetireReason {
    Evicted = 1,
    Suspect = 3,
    Deleted = 4,
    Cleared = 5,
}

impl RetireReason {
    /// From the wire's number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Evicted,
            3 => Self::Suspect,
            4 => Self::Deleted,
            5 => Self::Cleared,
            _ => return None,
        })
    }
}

/// What became of one page of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// The agent has the bytes and goes on by itself.
    Taken,
    /// In the index, at this revision.
    Published { revision: u64 },
    /// The key was published before, by this agent or another, and is present at this revision.
    Exists { revision: u64 },
    /// Not written: the policy expects no reuse.
    Declined,
    /// Dropped, and why.
    Refused { reason: PutRefusal },
}

/// Why a page of a put was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PutRefusal {
    /// No slot came in time.
    L3Full,
    /// The key's part of the index holds as many entries as it can.
    IndexFull,
    /// Too many pages are on their way already.
    QueueFull,
    /// Not all shards came.
    Incomplete,
    /// No session that may write, or it ended before the page was published.
    Fenced,
    /// The group did not answer in time. The page is in the index all the same if the group has the publish.
    GroupGone,
    /// L3, or the group, did not take it.
    WriteFailed,
    /// The namespace was cleared after the bytes came.
    Cleared,
}

impl PutRefusal {
    /// All of them, in the order of their numbers.
    const ALL: [Self; 8] = [
        Self::L3Full,
        Self::IndexFull,
        Self::QueueFull,
        Self::Incomplete,
        Self::Fenced,
        Self::GroupGone,
        Self::WriteFailed,
        Self::Cleared,
    ];

    /// Its number in a session's answers, from 1.
    pub fn number(self) -> u32 {
        Self::ALL.iter().zip(1..).find(|(refusal, _)| **refusal == self).map_or(0, |(_, number)| number)
    }

    /// The refusal of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
    }

    /// Its name in answers and in labels of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L3Full => "l3_full",
            Self::IndexFull => "index_full",
            Self::QueueFull => "queue_full",
            Self::Incomplete => "incomplete",
            Self::Fenced => "fenced",
            Self::GroupGone => "group_gone",
            Self::WriteFailed => "write_failed",
            Self::Cleared => "cleared",
        }
    }
}
