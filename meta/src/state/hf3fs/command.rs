//! What SGLang's hf3fs metadata clients ask of the state machine, as decided by the leader.
//!
//! A section of its own: nothing here touches namespaces, slots or sessions, and these pages have no checksum. Only
//! time and ownership protect them.

use foreword_proto::EntryKey;

use crate::state::codec::{kinds, record};

/// Number of a page file: never given out twice.
pub type FileId = u32;
/// Position of a page in its file, in pages.
pub type PageIndex = u32;

/// What SGLang tells page files apart by: one file on 3FS each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// The path of the base URL: keeps models apart. Empty where the URL has none.
    pub deployment: String,
    /// The engine's rank, as its URL names it.
    pub rank: i64,
    /// SGLang's `namespace`: `kv`, `mamba`, `indexer`...
    pub pool: String,
}

/// One operation of a log entry on page files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hf3fsCommand {
    /// Makes a page file of `pages` pages, or finds it.
    Initialize { name: FileName, pages: u32 },
    /// An operation on a page file. `touched`: pages that were read since the last one, oldest read first.
    On { file: FileId, touched: Vec<PageIndex>, operation: Hf3fsOperation },
    /// Forgets a page file. In one of its name that is made anew, all pages rest, for `rest_ms` or the cluster's
    /// `write_rest` from now, whichever is longer.
    Drop { file: FileId, rest_ms: u64 },
}

impl Hf3fsCommand {
    /// As of [`super::super::command::Command::may_repeat`].
    pub fn may_repeat(&self) -> bool {
        match self {
            Self::Initialize { .. } | Self::Drop { .. } => true,
            Self::On { operation, .. } => {
                !matches!(operation, Hf3fsOperation::Delete { .. } | Hf3fsOperation::Clear { .. })
            }
        }
    }
}

/// What is done to a page file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hf3fsOperation {
    /// A page for each key: the one it has, or one reserved for its writer. `victims` are confirmed pages that the
    /// leader of `term` allows to be evicted for it; in an entry of another term they are void.
    Reserve { term: u64, keys: Vec<EntryKey>, victims: Vec<PageIndex> },
    /// Pages that were written, and pages that were reserved and not written. What fits no reservation is counted and
    /// ignored.
    Confirm { written: Vec<(EntryKey, PageIndex)>, released: Vec<PageIndex> },
    /// Confirmed pages of these keys go to rest, for `rest_ms` or the cluster's `write_rest`, whichever is longer.
    Delete { keys: Vec<EntryKey>, rest_ms: u64 },
    /// All pages go to rest, for as long.
    Clear { rest_ms: u64 },
    /// Nothing but `touched`.
    Touch,
    /// Reservations of which nothing was heard for longer than `unheard_ms` end, at most `pages_max` of them.
    Expire { unheard_ms: u64, pages_max: u32 },
    /// Pages of a server that was here before, the least recently used first; the rest of the file rests for `rest_ms`
    /// or `write_rest`.
    Import { entries: Vec<(EntryKey, PageIndex)>, rest_ms: u64 },
}

/// The answer to one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hf3fsOutcome {
    /// The file has the size asked for.
    Initialized {
        file: FileId,
    },
    /// The file is there with another number of pages.
    OtherSize {
        pages: u32,
    },
    /// One a key.
    Reserved {
        pages: Vec<Reserved>,
    },
    /// What fitted no reservation.
    Confirmed {
        ignored_confirms: u32,
        ignored_releases: u32,
    },
    /// Pages deleted.
    Deleted {
        pages: u32,
    },
    Cleared,
    Touched,
    /// Reservations that ended; `left`: more are due.
    Expired {
        pages: u32,
        left: bool,
    },
    /// Entries that are not what the file has: its page or its key is in use otherwise.
    Imported {
        conflicts: u32,
    },
    /// There is no such file.
    NoFile,
    Dropped,
}

/// What a reserve says of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// Confirmed before: nobody need write it.
    Existing(PageIndex),
    /// The caller may write it.
    Page(PageIndex),
    /// All pages are protected, reserved or resting.
    NoPage,
}

record!(FileName { deployment, rank, pool });

kinds!(Hf3fsCommand, "hf3fs command" {
    1 => Initialize { name, pages },
    2 => On { file, touched, operation },
    3 => Drop { file, rest_ms },
});

kinds!(Hf3fsOperation, "hf3fs operation" {
    2 => Reserve { term, keys, victims },
    3 => Confirm { written, released },
    4 => Delete { keys, rest_ms },
    5 => Clear { rest_ms },
    6 => Touch,
    7 => Expire { unheard_ms, pages_max },
    8 => Import { entries, rest_ms },
});

kinds!(Hf3fsOutcome, "hf3fs outcome" {
    1 => Initialized { file },
    2 => OtherSize { pages },
    3 => Reserved { pages },
    4 => Confirmed { ignored_confirms, ignored_releases },
    5 => Deleted { pages },
    6 => Cleared,
    7 => Touched,
    8 => Expired { pages, left },
    9 => Imported { conflicts },
    10 => NoFile,
    11 => Dropped,
});

kinds!(Reserved, "hf3fs reserve" {
    1 => Existing(index),
    2 => Page(index),
    3 => NoPage,
});

impl Hf3fsCommand {
    /// The feature level from which on every member of the group applies it.
    pub fn level(&self) -> u32 {
        match self {
            Self::Initialize { .. } | Self::Drop { .. } => 1,
            Self::On { operation, .. } => operation.level(),
        }
    }
}

impl Hf3fsOperation {
    /// The feature level from which on every member of the group applies it.
    pub fn level(&self) -> u32 {
        match self {
            Self::Reserve { .. }
            | Self::Confirm { .. }
            | Self::Delete { .. }
            | Self::Clear { .. }
            | Self::Touch
            | Self::Expire { .. }
            | Self::Import { .. } => 1,
        }
    }
}
