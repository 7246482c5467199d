//! The mark: one small checksummed record of how far this replica has acknowledged, synced with every flush of the log.
//!
//! A log store that loses its tail looks like a shorter, healthy log. The mark is written to another file by plain
//! overwrites, so that a replica whose log ends before it knows that it has lost what it promised to keep.
//!
//! The file is 4 KiB, two halves written in turn: a torn write leaves the older half, which is at most one flush behind
//! and so never ahead of the log.
//!
//! A half starts with a record that every version keeps as it is here, and that has its own checksum: a half of another
//! version is so told from a damaged one. What a later version adds stands behind it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use foreword_proto::limits::FORMAT_VERSIONS;
use foreword_proto::versions::{Foreign, trailer};
use foreword_seams::{Marker, sometimes};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::recovery::OpenError;
use crate::consensus::entry_codec::Unreadable;
use crate::consensus::types::Vote;
use crate::consensus::write_version::WriteVersion;

/// Bytes of the mark's file.
pub const MARK_BYTES: usize = 4096;
/// Bytes of each half.
pub const MARK_HALF_BYTES: usize = MARK_BYTES / 2;

const MAGIC: [u8; 8] = *b"FWMARK\r\n";
/// Magic, version, sequence, index, term, vote (flags, term, node), crc32.
const RECORD_BYTES: usize = 8 + 4 + 8 + 8 + 8 + 1 + 8 + 8 + 4;

/// How far a replica has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Index and term of the last acknowledged entry (or of the last purged one); None before the first.
    pub last: Option<(u64, u64)>,
    /// The last acknowledged vote.
    pub vote: Option<Vote>,
}

/// Where the mark is kept.
pub trait MarkFile: Send + 'static {
    /// The whole file; None before the first write.
    fn load(&mut self) -> io::Result<Option<[u8; MARK_BYTES]>>;

    /// Overwrites one half (0 or 1) and makes it durable.
    fn store(&mut self, half: usize, bytes: [u8; MARK_HALF_BYTES]) -> BoxFuture<'_, io::Result<()>>;
}

/// The mark and the half it goes to next.
pub(crate) struct MarkKeeper {
    file: Box<dyn MarkFile>,
    version: WriteVersion,
    sequence: u64,
    pub(crate) mark: Mark,
}

impl MarkKeeper {
    /// Reads the newer valid half. [`OpenError::Lost`] when the file exists and neither half is valid.
    pub(crate) fn open(mut file: Box<dyn MarkFile>, version: WriteVersion) -> Result<Self, OpenError> {
        let (sequence, mark) = match file.load()? {
            None => (0, Mark::default()),
            Some(bytes) => newest(&bytes).map_err(|what| match what {
                Unreadable::Damaged(what) => OpenError::Lost(format!("found no readable mark: {what}")),
                Unreadable::Foreign(what) => OpenError::OtherVersion(what.of("MARK")),
            })?,
        };
        Ok(Self { file, version, sequence, mark })
    }

    /// Makes `mark` durable; does nothing when it already is.
    pub(crate) async fn save(&mut self, mark: Mark) -> io::Result<()> {
        if mark == self.mark {
            return Ok(());
        }
        let sequence = self.sequence + 1;
        self.file.store((sequence % 2) as usize, encode(self.version.get(), sequence, &mark)).await?;
        self.sequence = sequence;
        self.mark = mark;
        Ok(())
    }
}

/// Whether a mark's file is another version's. Damage is not: what is left of it decides at the open.
pub(crate) fn check_version(bytes: &[u8; MARK_BYTES]) -> Result<(), Foreign> {
    match newest(bytes) {
        Err(Unreadable::Foreign(what)) => Err(what),
        Ok(_) | Err(Unreadable::Damaged(_)) => Ok(()),
    }
}

/// The newer valid half of a mark file: its sequence and mark. A half of zeros was never written: it holds the empty
/// mark, so that a first write that is torn leaves what was before it.
fn newest(bytes: &[u8; MARK_BYTES]) -> Result<(u64, Mark), Unreadable> {
    let (first, second) = bytes.split_at(MARK_HALF_BYTES);
    match (decode(first), decode(second)) {
        (Ok(a), Ok(b)) => Ok(if a.0 > b.0 { a } else { b }),
        (Ok(valid), Err(Unreadable::Damaged(_))) | (Err(Unreadable::Damaged(_)), Ok(valid)) => {
            sometimes(Marker::MarkHalfTorn);
            Ok(valid)
        }
        // Versions only grow: beside one that was written and is read, a half of an older version is the older half.
        (Ok(valid), Err(Unreadable::Foreign(Foreign::Version { found, reads })))
        | (Err(Unreadable::Foreign(Foreign::Version { found, reads })), Ok(valid))
            if valid.0 > 0 && found < reads.min =>
        {
            Ok(valid)
        }
        (Err(foreign @ Unreadable::Foreign(_)), _) | (_, Err(foreign @ Unreadable::Foreign(_))) => Err(foreign),
        (Err(a), Err(b)) => Err(format!("the mark has no valid half: {a}; {b}").into()),
    }
}

fn encode(version: u32, sequence: u64, mark: &Mark) -> [u8; MARK_HALF_BYTES] {
    let mut half = [0; MARK_HALF_BYTES];
    let mut out = &mut half[..];
    let (index, term) = mark.last.unwrap_or_default();
    let vote = mark.vote.unwrap_or_default();
    out.put_slice(&MAGIC);
    out.put_u32_le(version);
    out.put_u64_le(sequence);
    out.put_u64_le(index);
    out.put_u64_le(term);
    out.put_u8(u8::from(mark.last.is_some()) | u8::from(mark.vote.is_some()) << 1 | u8::from(vote.committed) << 2);
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.node_id);
    let crc = crc32fast::hash(&half[..RECORD_BYTES - 4]);
    half[RECORD_BYTES - 4..RECORD_BYTES].copy_from_slice(&crc.to_le_bytes());
    let added = trailer(version);
    half[RECORD_BYTES..RECORD_BYTES + added.len()].copy_from_slice(added);
    half
}

fn decode(half: &[u8]) -> Result<(u64, Mark), Unreadable> {
    if half.iter().all(|byte| *byte == 0) {
        return Ok((0, Mark::default()));
    }
    let (record, mut crc) = half[..RECORD_BYTES].split_at(RECORD_BYTES - 4);
    let mut rest = record;
    let mut magic = [0; 8];
    rest.copy_to_slice(&mut magic);
    if magic != MAGIC {
        return Err("no mark".to_owned().into());
    }
    if crc32fast::hash(record) != crc.get_u32_le() {
        return Err("its checksum differs".to_owned().into());
    }
    let version = rest.get_u32_le();
    Foreign::check_version(version, FORMAT_VERSIONS).map_err(Unreadable::Foreign)?;
    if !half[RECORD_BYTES..].starts_with(trailer(version)) {
        return Err(format!("what version {version} adds is missing").into());
    }
    let (sequence, index, term, flags) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le(), rest.get_u8());
    let (vote_term, vote_node) = (rest.get_u64_le(), rest.get_u64_le());
    let vote = if flags & 4 == 0 { Vote::new(vote_term, vote_node) } else { Vote::new_committed(vote_term, vote_node) };
    let mark = Mark { last: (flags & 1 != 0).then_some((index, term)), vote: (flags & 2 != 0).then_some(vote) };
    Ok((sequence, mark))
}

fn wrong_size(path: &Path, bytes: usize) -> io::Error {
    let what = format!("{}: expected a mark of {MARK_BYTES} bytes, found {bytes}", path.display());
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The mark as a preallocated local file.
#[derive(Debug)]
pub struct LocalMark {
    file: File,
}

impl LocalMark {
    /// Opens the file, or makes it: 4 KiB of zeros, durable with its name. `InvalidData` when it holds anything of
    /// another size.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let bytes = file.metadata()?.len() as usize;
        if bytes < MARK_BYTES {
            // Preallocating is the first thing done to it: a crash in the middle leaves fewer zeros.
            let mut found = vec![0; bytes];
            file.read_exact_at(&mut found, 0)?;
            if found.iter().any(|byte| *byte != 0) {
                return Err(wrong_size(path, bytes));
            }
            file.write_all_at(&[0; MARK_BYTES], 0)?;
            file.sync_all()?;
            if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                File::open(dir)?.sync_all()?;
            }
        } else if bytes > MARK_BYTES {
            return Err(wrong_size(path, bytes));
        }
        Ok(Self { file })
    }

    fn overwrite(&self, half: usize, bytes: &[u8; MARK_HALF_BYTES]) -> io::Result<()> {
        self.file.write_all_at(bytes, (half * MARK_HALF_BYTES) as u64)?;
        self.file.sync_data()
    }
}

impl MarkFile for LocalMark {
    fn load(&mut self) -> io::Result<Option<[u8; MARK_BYTES]>> {
        let mut bytes = [0; MARK_BYTES];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(Some(bytes))
    }

    fn store(&mut self, half: usize, bytes: [u8; MARK_HALF_BYTES]) -> BoxFuture<'_, io::Result<()>> {
        // Called from the writer, which has its thread to itself: blocking here is what it is for.
        let stored = self.overwrite(half, &bytes);
        Box::pin(async move { stored })
    }
}

/// A mark in memory that outlives its replica: clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryMark {
    bytes: Arc<Mutex<Option<[u8; MARK_BYTES]>>>,
}

impl MemoryMark {
    /// Changes the bytes, as a fault would; zeros are there before the first write.
    pub fn damage(&self, change: impl FnOnce(&mut [u8; MARK_BYTES])) {
        change(self.bytes.lock().get_or_insert([0; MARK_BYTES]));
    }
}

impl MarkFile for MemoryMark {
    fn load(&mut self) -> io::Result<Option<[u8; MARK_BYTES]>> {
        Ok(*self.bytes.lock())
    }

    fn store(&mut self, half: usize, bytes: [u8; MARK_HALF_BYTES]) -> BoxFuture<'_, io::Result<()>> {
        self.damage(|file| file[half * MARK_HALF_BYTES..][..MARK_HALF_BYTES].copy_from_slice(&bytes));
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks() -> impl Strategy<Value = Vec<Mark>> {
        let last = proptest::option::of((any::<u64>(), any::<u64>()));
        let vote = proptest::option::of((any::<u64>(), any::<u64>(), any::<bool>()));
        let mark = (last, vote).prop_map(|(last, vote)| Mark {
            last,
            vote: vote.map(
                |(term, node, committed)| {
                    if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) }
                },
            ),
        });
        proptest::collection::vec(mark, 1..8)
    }

    fn open(file: &MemoryMark) -> Result<Mark, OpenError> {
        Ok(MarkKeeper::open(Box::new(file.clone()), WriteVersion::default())?.mark)
    }

    fn save(file: &MemoryMark, marks: &[Mark]) {
        let mut keeper = MarkKeeper::open(Box::new(file.clone()), WriteVersion::default()).unwrap();
        for mark in marks {
            futures::executor::block_on(keeper.save(*mark)).unwrap();
        }
    }

    proptest! {
        #[test]
        fn the_last_mark_is_read_back(marks in marks()) {
            let file = MemoryMark::default();
            for mark in &marks {
                save(&file, &[*mark]);
                prop_assert_eq!(open(&file).unwrap(), *mark);
            }
        }

        /// A write cut anywhere gives the mark before or after it, never a third.
        #[test]
        fn a_torn_write_leaves_the_mark_before_it(marks in marks(), cut in 0..MARK_HALF_BYTES, backwards: bool) {
            let (new, before) = marks.split_last().unwrap();
            let file = MemoryMark::default();
            save(&file, before);
            let mut old = None;
            file.damage(|bytes| old = Some(*bytes));
            save(&file, &[*new]);
            let old = old.unwrap();
            file.damage(|bytes| {
                for half in 0..2 {
                    let at = half * MARK_HALF_BYTES;
                    let torn = if backwards { at..at + cut } else { at + cut..at + MARK_HALF_BYTES };
                    bytes[torn.clone()].copy_from_slice(&old[torn]);
                }
            });
            let found = open(&file).unwrap();
            let previous = before.last().copied().unwrap_or_default();
            prop_assert!(found == *new || found == previous, "{found:?}");
        }

        /// One damaged byte is noticed: the other half answers.
        #[test]
        fn a_flipped_bit_is_never_believed(marks in marks(), at in 0..MARK_BYTES, bit in 0..8u8) {
            let file = MemoryMark::default();
            save(&file, &marks);
            file.damage(|bytes| bytes[at] ^= 1u8 << bit);
            if let Ok(found) = open(&file) {
                prop_assert!(marks.contains(&found) || found == Mark::default());
            }
        }
    }

    #[test]
    fn a_file_without_a_valid_half_is_an_error_and_an_empty_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("MARK");
        let mark = Mark { last: Some((7, 2)), vote: Some(Vote::new(2, 1)) };
        for _ in 0..2 {
            let mut keeper =
                MarkKeeper::open(Box::new(LocalMark::open(&path).unwrap()), WriteVersion::default()).unwrap();
            futures::executor::block_on(keeper.save(mark)).unwrap();
        }
        assert_eq!(
            MarkKeeper::open(Box::new(LocalMark::open(&path).unwrap()), WriteVersion::default()).unwrap().mark,
            mark
        );
        std::fs::write(&path, [7; MARK_BYTES]).unwrap();
        let error = MarkKeeper::open(Box::new(LocalMark::open(&path).unwrap()), WriteVersion::default()).err().unwrap();
        assert!(matches!(error, OpenError::Lost(_)), "{error}");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(LocalMark::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(&path, [0; 100]).unwrap();
        assert_eq!(
            MarkKeeper::open(Box::new(LocalMark::open(&path).unwrap()), WriteVersion::default()).unwrap().mark,
            Mark::default()
        );
    }
}
