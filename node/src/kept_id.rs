//! Who an agent is: an id in its state directory, drawn once, that one process at a time may use, and which of its
//! processes this is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use foreword_proto::AgentId;
use foreword_seams::{Entropy, replace_file};

/// The file in the state directory: 32 hexadecimal digits and a line feed.
const FILE: &str = "agent-id";
/// How many processes have used it: a decimal number and a line feed.
const STARTS: &str = "agent-starts";

/// Why an agent's id cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptIdError {
    #[error("a directory that can be written: {0}")]
    Io(#[from] io::Error),
    #[error("a directory of its own; another agent runs on this one")]
    InUse,
    #[error("32 hexadecimal digits in {FILE}, got {0:?}; remove the file to draw a new id")]
    Damaged(String),
    #[error("a number in {STARTS}, got {0:?}; remove the file to draw a new id, and {FILE} with it")]
    DamagedStarts(String),
}

/// An agent's id. The file is locked until this is dropped, or the process ends in any way.
#[derive(Debug)]
pub struct KeptId {
    id: AgentId,
    starts: u32,
    _locked: Option<File>,
}

impl KeptId {
    /// The id in a state directory, drawn now if there is none.
    ///
    /// Errors: another process holds it, or what stands there is no id.
    pub fn open(dir: &Path, entropy: &dyn Entropy) -> Result<Self, KeptIdError> {
        std::fs::create_dir_all(dir)?;
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join(FILE))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(KeptIdError::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        if text.is_empty() {
            // Nothing, or what a power cut left of the first start.
            text = format!("{}\n", AgentId(entropy.bytes16()));
            file.rewind()?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            File::open(dir)?.sync_all()?;
        }
        let id = text.trim_end().parse().map_err(|_| KeptIdError::Damaged(text.clone()))?;
        let starts = one_more_start(dir)?;
        Ok(Self { id, starts, _locked: Some(file) })
    }

    /// An id that needs no directory: of a simulated machine, in its process of this number.
    pub fn of(id: AgentId, starts: u32) -> Self {
        Self { id, starts, _locked: None }
    }

    /// The id.
    pub fn id(&self) -> AgentId {
        self.id
    }

    /// Which of the processes that used it this is, from 1. Copies of a state directory count each for itself.
    pub fn starts(&self) -> u32 {
        self.starts
    }
}

/// Counts this process, durably: a later one must come after it.
fn one_more_start(dir: &Path) -> Result<u32, KeptIdError> {
    let path = dir.join(STARTS);
    let before: u32 = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim_end().parse().map_err(|_| KeptIdError::DamagedStarts(text.clone()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
    let starts = before.saturating_add(1);
    replace_file(&path, format!("{starts}\n").as_bytes())?;
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use foreword_seams::OsEntropy;

    use super::*;

    #[test]
    fn an_id_is_drawn_once_and_used_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = KeptId::open(&path, &OsEntropy).unwrap();
        let id = first.id();
        assert!(matches!(KeptId::open(&path, &OsEntropy), Err(KeptIdError::InUse)));
        assert_eq!(first.starts(), 1);
        drop(first);
        let second = KeptId::open(&path, &OsEntropy).unwrap();
        assert_eq!((second.id(), second.starts()), (id, 2));
        drop(second);
        std::fs::write(path.join(STARTS), "many").unwrap();
        assert!(matches!(KeptId::open(&path, &OsEntropy), Err(KeptIdError::DamagedStarts(_))));
        std::fs::write(path.join(FILE), "another thing").unwrap();
        assert!(matches!(KeptId::open(&path, &OsEntropy), Err(KeptIdError::Damaged(_))));
    }
}
