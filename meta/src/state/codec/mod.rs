//! How commands and outcomes travel: little-endian, with a version, in the log and between replicas.
//!
//! ```text
//! command   version u8 · kind u8 · fields          outcome   version u8 · kind u8 · fields
//! batch     version u8 · count u32 · count x (bytes u32 · command)
//! ```
//! Kinds and fields are where the types are: `command.rs`, `hf3fs/command.rs`; [`record`] says what a field looks like. An
//! unknown version or kind is an error that names what was found and what this binary reads. Decoding never panics.

mod record;

use bytes::{Bytes, BytesMut};
use foreword_proto::limits::COMMANDS_PER_ENTRY_MAX;

use super::command::{Command, Outcome};
use super::input::{DecodeError, Input};

pub(super) use record::{Decode, Encode, Sink, field_bytes_min, kinds, record};

/// Version of the encoding of commands, outcomes and batches.
pub const CODEC_VERSION: u8 = 1;

/// Bytes that a batch takes for each command beside the command's own.
pub const COMMAND_FRAME_BYTES: usize = 4;

/// Appends one command.
pub fn encode_command(command: &Command, out: &mut BytesMut) {
    put_versioned(command, out);
}

/// Takes one command off the front of `bytes`.
pub fn decode_command(bytes: &mut Bytes) -> Result<Command, DecodeError> {
    take_versioned("command", bytes)
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
    put_versioned(outcome, out);
}

/// Takes one outcome off the front of `bytes`.
pub fn decode_outcome(bytes: &mut Bytes) -> Result<Outcome, DecodeError> {
    take_versioned("outcome", bytes)
}

/// An outcome as bytes of its own, with no room to spare: sessions keep many.
pub fn outcome_bytes(outcome: &Outcome) -> Bytes {
    let mut out = BytesMut::new();
    put_versioned(outcome, &mut out);
    out.freeze()
}

/// Packs encoded commands into the payload of one log entry.
pub fn encode_batch(commands: &[Bytes]) -> Bytes {
    let bytes = commands.iter().map(|command| COMMAND_FRAME_BYTES + command.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(5 + bytes);
    out.put(&[CODEC_VERSION]);
    (commands.len() as u32).encode(&mut out);
    commands.iter().for_each(|command| command.encode(&mut out));
    out.freeze()
}

/// Unpacks a log entry's payload. Pages of a publish are slices of it, uncopied.
pub fn decode_batch(mut payload: Bytes) -> Result<Vec<Command>, DecodeError> {
    let mut input = Input::new(&mut payload, "log entry");
    input.version(CODEC_VERSION)?;
    let count = input.count(COMMAND_FRAME_BYTES)?;
    let mut commands = Vec::with_capacity(count.min(COMMANDS_PER_ENTRY_MAX));
    for _ in 0..count {
        commands.push(decode_whole(input.bytes()?)?);
    }
    input.end()?;
    Ok(commands)
}

fn put_versioned(value: &impl Encode, out: &mut BytesMut) {
    out.reserve(1 + value.encoded_bytes());
    out.put(&[CODEC_VERSION]);
    value.encode(out);
}

fn take_versioned<T: Decode>(what: &'static str, bytes: &mut Bytes) -> Result<T, DecodeError> {
    let mut input = Input::new(bytes, what);
    input.version(CODEC_VERSION)?;
    T::decode(&mut input)
}

/// An error for a kind that this version does not have.
pub(super) fn unknown_kind(what: &'static str, found: u8) -> DecodeError {
    DecodeError::Kind { what, found: found.into(), known: CODEC_VERSION.into() }
}
