//! Who an agent is: an id in its state directory, drawn once, that one process at a time may use.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use foreword_proto::AgentId;
use foreword_seams::Entropy;

/// The file in the state directory: 32 hexadecimal digits and a line feed.
const FILE: &str = "agent-id";

/// Why an agent's id cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptIdError {
    #[error("a directory that can be written: {0}")]
    Io(#[from] io::Error),
    #[error("a directory of its own; another agent runs on this one")]
    InUse,
    #[error("32 hexadecimal digits in {FILE}, got {0:?}; remove the file to draw a new id")]
    Damaged(String),
}

/// An agent's id. The file is locked until this is dropped, or the process ends in any way.
#[derive(Debug)]
pub struct KeptId {
    id: AgentId,
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
        Ok(Self { id, _locked: Some(file) })
    }

    /// An id that needs no directory: of a simulated machine.
    pub fn of(id: AgentId) -> Self {
        Self { id, _locked: None }
    }

    /// The id.
    pub fn id(&self) -> AgentId {
        self.id
    }
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
        drop(first);
        assert_eq!(KeptId::open(&path, &OsEntropy).unwrap().id(), id);
        std::fs::write(path.join(FILE), "another thing").unwrap();
        assert!(matches!(KeptId::open(&path, &OsEntropy), Err(KeptIdError::Damaged(_))));
    }
}
