//! Page files of SGLang's hf3fs backend: which key has which page of a file, and whose turn a page is.
//!
//! ```text
//! never used ──reserve──► reserved ──confirm──► confirmed ──evicted: reserve──► reserved
//!                            │ release, expire      │ delete, clear
//!                            └──────► resting ◄─────┘        resting ──its time is over: reserve──► reserved
//! ```
//! Every operation costs as much as it names keys and pages, whatever the file holds.

mod apply;
pub(super) mod checks;
pub mod command;
mod dropped;
mod dues;
mod file;
mod lists;
mod pieces;
mod places;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::EntryKey;
use foreword_proto::limits::{HF3FS_DEPLOYMENT_BYTES_MAX, HF3FS_FILES_MAX, HF3FS_PAGES_MAX, HF3FS_POOL_BYTES_MAX};
use foreword_seams::{Marker, sometimes};

use super::command::{Invalid, Limit, Refusal};
use super::digest::{Fields, Sums};
use super::moment::Moment;

use apply::due_ms;
use dropped::Dropped;

pub use command::{FileId, FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageIndex, Reserved};
pub use file::File;

/// All page files. A clone is cheap: both share what neither changes.
#[derive(Debug, Clone, Default)]
pub struct Hf3fs {
    files: BTreeMap<FileId, Arc<File>>,
    /// Numbers are never given out twice.
    next_file: FileId,
    by_name: Arc<BTreeMap<FileName, FileId>>,
    dropped: Dropped,
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
    /// Not in use since the file was made.
    Unused,
    Reserved {
        key: EntryKey,
        heard_ms: u64,
    },
    Confirmed {
        key: EntryKey,
    },
    /// May be given out from `due_ms` on; after a clear or an import, so is what nobody holds.
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
        self.by_name.get(name).copied()
    }

    /// A file.
    pub fn file(&self, id: FileId) -> Option<&File> {
        self.files.get(&id).map(|file| &**file)
    }

    /// All files with their numbers, in the order of their numbers.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &File)> {
        self.files.iter().map(|(id, file)| (*id, &**file))
    }

    /// Adds a file whose name is new. Errors: a name or a size that cannot be, or too many files.
    fn add(&mut self, name: &FileName, pages: u32, tick_ms: u64) -> Result<FileId, Refusal> {
        check_name(name)?;
        check_pages(pages)?;
        if self.files.len() + self.dropped.len() >= HF3FS_FILES_MAX {
            return Err(Refusal::TooMany(Limit::PageFiles));
        }
        let id = self.next_file;
        self.next_file = id.checked_add(1).ok_or(Refusal::TooMany(Limit::PageFileIds))?;
        let file = match self.dropped.rest_of(name).filter(|due_ms| *due_ms > tick_ms) {
            Some(due_ms) => {
                sometimes(Marker::PageFileMadeAnewResting);
                File::resting(name.clone(), pages, due_ms)
            }
            None => File::new(name.clone(), pages),
        };
        self.put(id, file);
        Ok(id)
    }

    fn put(&mut self, id: FileId, file: File) {
        Arc::make_mut(&mut self.by_name).insert(file.name().clone(), id);
        self.files.insert(id, Arc::new(file));
    }

    /// Takes a file out; its pages rest until `due_ms` at least. False: there is no such file.
    fn drop_file(&mut self, id: FileId, due_ms: u64) -> bool {
        let Some(file) = self.files.remove(&id) else { return false };
        Arc::make_mut(&mut self.by_name).remove(file.name());
        self.dropped.add(file, due_ms);
        sometimes(Marker::PageFileDropped);
        true
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, tick_ms: u64) {
        self.dropped.tick(tick_ms);
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { files, next_file, by_name: _, dropped } = self;
        fields.add(next_file).add_all(dropped.iter());
        files.iter().for_each(|(id, file)| {
            fields.add(id);
            file.hash_into(fields, sums);
        });
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let files: usize = self.files.values().map(|file| size_of::<File>() + file.heap_bytes()).sum();
        files + self.dropped.heap_bytes()
    }
}

fn check_pages(pages: u32) -> Result<(), Refusal> {
    if (1..=HF3FS_PAGES_MAX).contains(&pages) {
        return Ok(());
    }
    Err(Refusal::Invalid(Invalid::FilePages { found: pages }))
}

fn check_name(name: &FileName) -> Result<(), Refusal> {
    let FileName { deployment, pool, .. } = name;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_path = deployment == "." || deployment == "..";
    if is_path || deployment.len() > HF3FS_DEPLOYMENT_BYTES_MAX || !deployment.bytes().all(plain) {
        return Err(Refusal::Invalid(Invalid::Deployment { found: deployment.clone() }));
    }
    if pool.is_empty() || pool.len() > HF3FS_POOL_BYTES_MAX {
        return Err(Refusal::Invalid(Invalid::Pool { bytes: pool.len() as u32 }));
    }
    Ok(())
}

impl Hf3fs {
    /// Applies one operation.
    pub(super) fn apply(&mut self, command: &Hf3fsCommand, at: Moment<'_>) -> Result<Hf3fsOutcome, Refusal> {
        match command {
            Hf3fsCommand::Initialize { name, pages } => self.initialize(name, *pages, at),
            Hf3fsCommand::On { file, touched, operation } => {
                let Some(file) = self.files.get_mut(file) else { return Ok(Hf3fsOutcome::NoFile) };
                Ok(Arc::make_mut(file).apply(touched, operation, at))
            }
            Hf3fsCommand::Drop { file, rest_ms } => Ok(match self.drop_file(*file, due_ms(*rest_ms, at)) {
                true => Hf3fsOutcome::Dropped,
                false => Hf3fsOutcome::NoFile,
            }),
        }
    }

    fn initialize(&mut self, name: &FileName, pages: u32, at: Moment<'_>) -> Result<Hf3fsOutcome, Refusal> {
        check_pages(pages)?;
        let found = self.file_id(name).and_then(|id| Some((id, self.file(id)?.pages())));
        Ok(match found {
            Some((file, size)) if size == pages => Hf3fsOutcome::Initialized { file },
            Some((_, size)) => Hf3fsOutcome::OtherSize { pages: size },
            None => Hf3fsOutcome::Initialized { file: self.add(name, pages, at.tick_ms)? },
        })
    }
}
