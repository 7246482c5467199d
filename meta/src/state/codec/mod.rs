//! How commands and outcomes travel: little-endian, with a version, in the log and between replicas.
//!
//! ```text
//! command   level u8 · kind u8 · fields            outcome   version u8 · kind u8 · fields
//! batch     version u8 · count u32 · count x (bytes u32 · command) · what the version has at its end
//! ```
//! A command starts with the feature level that brought its kind. A kind never changes, so that a command looks the
//! same at every level from there on; a batch is of the format version that goes with the committed level. Kinds and
//! fields are where the types are: `command.rs`, `hf3fs/command.rs`; [`record`] says what a field looks like. An
//! unknown version or kind is an error that names what was found and what this binary reads. Decoding never panics.

mod record;

use bytes::{Bytes, BytesMut};
use foreword_proto::Versions;
use foreword_proto::limits::{COMMANDS_PER_ENTRY_MAX, FEATURE_LEVEL_MAX, FORMAT_VERSION, FORMAT_VERSIONS};
use foreword_proto::versions::trailer;

use super::command::{Command, Outcome};
use super::input::{DecodeError, Input};

pub(super) use record::{Decode, Encode, Sink, field_bytes_min, kinds, record};

/// Version of the encoding of outcomes.
pub const CODEC_VERSION: u8 = 1;

/// Feature levels whose kinds of commands this binary knows.
const LEVELS: Versions = Versions { min: 1, max: FEATURE_LEVEL_MAX };

/// Bytes that a batch takes for each command beside the command's own.
pub const COMMAND_FRAME_BYTES: usize = 4;

/// Appends one command.
pub fn encode_command(command: &Command, out: &mut BytesMut) {
    put_versioned(command.level() as u8, command, out);
}

/// Takes one command off the front of `bytes`.
pub fn decode_command(bytes: &mut Bytes) -> Result<Command, DecodeError> {
    let mut input = Input::new(bytes, "command");
    let level = input.version_in(LEVELS)?;
    let command = Command::decode(&mut input)?;
    match command.level() {
        of_kind if of_kind == level => Ok(command),
        of_kind => Err(input.invalid(format!("a kind of feature level {of_kind} that says it is of level {level}"))),
    }
}

/// Reads bytes that are one command and nothing else.
pub fn decode_whole(mut bytes: Bytes) -> Result<Command, DecodeError> {
    let command = decode_command(&mut bytes)?;
    match bytes.len() {
        0 => Ok(command),
        left => Err(DecodeError::Invalid { what: "command", detail: format!("{left} bytes after its end") }),
    }
}

/// Appends one outcome.
pub fn encode_outcome(outcome: &Outcome, out: &mut BytesMut) {
    put_versioned(CODEC_VERSION, outcome, out);
}

/// Takes one outcome off the front of `bytes`.
pub fn decode_outcome(bytes: &mut Bytes) -> Result<Outcome, DecodeError> {
    let mut input = Input::new(bytes, "outcome");
    input.version_in(Versions { min: CODEC_VERSION.into(), max: CODEC_VERSION.into() })?;
    Outcome::decode(&mut input)
}

/// An outcome as bytes of its own, with no room to spare: sessions keep many.
pub fn outcome_bytes(outcome: &Outcome) -> Bytes {
    let mut out = BytesMut::new();
    put_versioned(CODEC_VERSION, outcome, &mut out);
    out.freeze()
}

/// Packs encoded commands into the payload of one log entry, in a format version.
pub fn encode_batch(version: u32, commands: &[Bytes]) -> Bytes {
    let bytes = commands.iter().map(|command| COMMAND_FRAME_BYTES + command.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(5 + bytes + trailer(version).len());
    out.put(&[version as u8]);
    (commands.len() as u32).encode(&mut out);
    commands.iter().for_each(|command| command.encode(&mut out));
    out.put(trailer(version));
    out.freeze()
}

/// Unpacks a log entry's payload. Pages of a publish are slices of it, uncopied.
pub fn decode_batch(mut payload: Bytes) -> Result<Vec<Command>, DecodeError> {
    let mut input = Input::new(&mut payload, "log entry");
    let version = input.version_in(FORMAT_VERSIONS)?;
    let count = input.count(COMMAND_FRAME_BYTES)?;
    let mut commands = Vec::with_capacity(count.min(COMMANDS_PER_ENTRY_MAX));
    for _ in 0..count {
        commands.push(decode_whole(input.bytes()?)?);
    }
    input.trailer(version)?;
    input.end()?;
    Ok(commands)
}

fn put_versioned(version: u8, value: &impl Encode, out: &mut BytesMut) {
    out.reserve(1 + value.encoded_bytes());
    out.put(&[version]);
    value.encode(out);
}

/// An error for a kind that this version does not have.
pub(super) fn unknown_kind(what: &'static str, found: u8) -> DecodeError {
    DecodeError::Kind { what, found: found.into(), known: FORMAT_VERSION }
}
