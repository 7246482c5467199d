//! What may be logged. Every replica applies what the log holds, now and at each start: what one of them could not read
//! or apply would stop them all. So it is refused here, before it is logged.

use bytes::Bytes;
use foreword_proto::limits::{COMMANDS_PER_ENTRY_MAX, ENTRY_BYTES_MAX, ENTRY_FRAME_BYTES, FEATURE_LEVEL_MAX};
use tonic::Code;

use crate::state::DecodeError;
use crate::state::codec::{COMMAND_FRAME_BYTES, decode_whole};
use crate::state::command::Command;

/// Who proposes a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// The leader itself.
    Leader,
    /// Anyone else, through whichever replica.
    Caller,
}

/// Encoded commands that every replica of the group reads; they fit one entry, and share it.
#[derive(Debug, Clone)]
pub struct Checked {
    commands: Vec<Bytes>,
    bytes: usize,
    level: u32,
}

/// Why commands may not be logged. `position`: of the command that is at fault, from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unloggable {
    #[error("commands.{position}: expected a command that this leader reads, got one it does not: {error}")]
    Unreadable { position: usize, error: DecodeError },
    #[error("commands.{position}: expected one of feature level {committed} or below, got one of level {level}")]
    AboveLevel { position: usize, level: u32, committed: u32 },
    #[error("commands.{position}: expected a feature level of {FEATURE_LEVEL_MAX} or below, got {level}")]
    UnknownLevel { position: usize, level: u32 },
    #[error("commands.{position}: expected none that tells the time, which is the leader's, got a tick")]
    Tick { position: usize },
    #[error(
        "commands.{position}: expected none that raises the feature level, for which the leader asks all members, got one"
    )]
    Raise { position: usize },
    #[error("commands: expected at most {COMMANDS_PER_ENTRY_MAX}, got {found}")]
    TooMany { found: usize },
    #[error("commands: expected at most {ENTRY_BYTES_MAX} bytes, got {found}")]
    TooLarge { found: usize },
}

impl Unloggable {
    /// The field at fault.
    pub fn field(&self) -> String {
        match self {
            Self::Unreadable { position, .. }
            | Self::AboveLevel { position, .. }
            | Self::UnknownLevel { position, .. }
            | Self::Raise { position }
            | Self::Tick { position } => format!("commands.{position}"),
            Self::TooMany { .. } | Self::TooLarge { .. } => "commands".into(),
        }
    }

    /// The status a caller gets.
    pub fn code(&self) -> Code {
        match self {
            Self::Unreadable { .. } | Self::Tick { .. } => Code::InvalidArgument,
            Self::AboveLevel { .. } | Self::UnknownLevel { .. } | Self::Raise { .. } => Code::FailedPrecondition,
            Self::TooMany { .. } | Self::TooLarge { .. } => Code::ResourceExhausted,
        }
    }
}

impl Checked {
    /// Checks commands against what this binary reads and against the group's committed feature level.
    pub fn new(commands: Vec<Bytes>, author: Author, committed_level: u32) -> Result<Self, Unloggable> {
        if commands.len() > COMMANDS_PER_ENTRY_MAX {
            return Err(Unloggable::TooMany { found: commands.len() });
        }
        let bytes = commands.iter().map(|command| COMMAND_FRAME_BYTES + command.len()).sum();
        if bytes + ENTRY_FRAME_BYTES > ENTRY_BYTES_MAX {
            return Err(Unloggable::TooLarge { found: bytes + ENTRY_FRAME_BYTES });
        }
        for (position, encoded) in commands.iter().enumerate() {
            let unreadable = |error| Unloggable::Unreadable { position, error };
            check(position, &decode_whole(encoded.clone()).map_err(unreadable)?, author, committed_level)?;
        }
        Ok(Self { commands, bytes, level: committed_level })
    }

    /// The feature level they were checked against, which the group has committed.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Bytes they take in an entry.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.commands.len()
    }

    pub(super) fn into_commands(self) -> Vec<Bytes> {
        self.commands
    }
}

fn check(position: usize, command: &Command, author: Author, committed: u32) -> Result<(), Unloggable> {
    if command.level() > committed {
        return Err(Unloggable::AboveLevel { position, level: command.level(), committed });
    }
    match command {
        Command::Tick { .. } if author == Author::Caller => Err(Unloggable::Tick { position }),
        Command::RaiseFeatureLevel { .. } if author == Author::Caller => Err(Unloggable::Raise { position }),
        Command::RaiseFeatureLevel { level } if *level > FEATURE_LEVEL_MAX => {
            Err(Unloggable::UnknownLevel { position, level: *level })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::group::encode_commands;

    #[test]
    fn a_command_above_the_committed_level_is_not_logged() {
        let commands = encode_commands(&[Command::Reclaim { entries_max: 1 }]);
        let error = Checked::new(commands.clone(), Author::Leader, 0).unwrap_err();
        assert_eq!(error, Unloggable::AboveLevel { position: 0, level: 1, committed: 0 });
        assert_eq!((error.code(), error.field().as_str()), (Code::FailedPrecondition, "commands.0"));
        Checked::new(commands, Author::Caller, 1).unwrap();
    }

    #[test]
    fn only_the_leader_tells_the_time() {
        let tick = encode_commands(&[Command::Tick { now_ms: 5 }]);
        assert_eq!(Checked::new(tick.clone(), Author::Caller, 1).unwrap_err(), Unloggable::Tick { position: 0 });
        Checked::new(tick, Author::Leader, 1).unwrap();
    }
}
