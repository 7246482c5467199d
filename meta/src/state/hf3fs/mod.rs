//! Page files of SGLang's hf3fs backend: which key has which page of a file, and whose turn a page is.
//!
//! ```text
//! never used ──reserve──► reserved ──confirm──► confirmed ──evicted: reserve──► reserved
//!                            │ release, expire      │ delete, clear
//!                            └──────► resting ◄─────┘        resting ──its time is over: reserve──► reserved
//! ```

pub mod command;

use std::sync::Arc;

use foreword_proto::EntryKey;

use super::State;
use super::command::Refusal;

pub use command::{FileId, FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageIndex, Reserved};

/// All page files. A clone is cheap: both share what neither changes.
#[derive(Debug, Clone, Default)]
pub struct Hf3fs {
    files: Vec<Arc<File>>,
}

/// One page file.
#[derive(Debug, Clone)]
pub struct File {
    name: FileName,
    pages: u32,
}

/// What a key has in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Absent,
    Reserved(PageIndex),
    Confirmed(PageIndex),
}

/// What a page is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageUse {
    /// Not in use since the file was made or cleared.
    Unused,
    Reserved {
        key: EntryKey,
        heard_ms: u64,
    },
    Confirmed {
        key: EntryKey,
    },
    Resting {
        due_ms: u64,
    },
}

/// Pages of a file by use, and what it has counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileCounts {
    pub confirmed: u64,
    pub reserved: u64,
    /// Resting, those whose time is over included; after a clear or an import also what nobody holds.
    pub resting: u64,
    pub unused: u64,
    pub evicted: u64,
    pub expired: u64,
    /// Keys that were answered "no page".
    pub no_page: u64,
    pub ignored_confirms: u64,
    pub ignored_releases: u64,
}

impl Hf3fs {
    /// The number of a file.
    pub fn file_id(&self, name: &FileName) -> Option<FileId> {
        self.files.iter().position(|file| file.name == *name).map(|at| at as FileId)
    }

    /// A file.
    pub fn file(&self, id: FileId) -> Option<&File> {
        self.files.get(id as usize).map(|file| &**file)
    }

    /// All files with their numbers, in the order of their numbers.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &File)> {
        self.files.iter().enumerate().map(|(id, file)| (id as FileId, &**file))
    }
}

impl State {
    /// Applies one operation on page files.
    pub(super) fn apply_hf3fs(&mut self, _command: &Hf3fsCommand) -> Result<Hf3fsOutcome, Refusal> {
        let _ = (self.entry_term, self.tick_ms, &self.hf3fs.files);
        todo!()
    }
}

impl File {
    /// What it is called.
    pub fn name(&self) -> &FileName {
        &self.name
    }

    /// Its pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// What a key has.
    pub fn presence(&self, _key: &EntryKey) -> Presence {
        todo!()
    }

    /// What a page is used for; None beyond the file's end.
    pub fn page(&self, _index: PageIndex) -> Option<PageUse> {
        todo!()
    }

    /// Pages that a reserve at `tick_ms` can have without an eviction.
    pub fn room(&self, _tick_ms: u64) -> u64 {
        todo!()
    }

    /// Up to `count` confirmed pages for which `may_go`, the least recently used first. Gives up after looking at `skips_max`
    /// pages that may not go in each of the two queues (pages last read, pages last written).
    pub fn victims(&self, _count: usize, _skips_max: usize, _may_go: impl FnMut(PageIndex) -> bool) -> Vec<PageIndex> {
        todo!()
    }

    /// When the reservation that was heard of longest ago was last heard of.
    pub fn oldest_reservation_ms(&self) -> Option<u64> {
        todo!()
    }

    /// Its pages by use, and its counters.
    pub fn counts(&self) -> FileCounts {
        todo!()
    }
}
