//! How commands and outcomes travel: little-endian, with a version, in the log and between replicas.
//!
//! ```text
//! command   version u8 · kind u8 · fields          outcome   version u8 · kind u8 · fields
//! batch     version u8 · count u32 · count x (bytes u32 · command)
//! text, bytes, lists: u32 length or count before them; SlotRef: slab u32, slot u32, generation u32
//! ```
//! An unknown version or kind is an error that names what was found and what this binary reads. Decoding never panics.

mod command;
mod hf3fs;
mod outcome;

use bytes::{BufMut, Bytes, BytesMut};
use foreword_proto::limits::{COMMANDS_PER_ENTRY_MAX, ENTRY_KEY_BYTES};
use foreword_proto::{EntryKey, SlotRef};

use super::command::Command;
use super::input::{DecodeError, Input};

pub use command::{decode_command, decode_whole, encode_command};
pub(super) use command::{put_namespace, take_namespace};
pub(super) use hf3fs::{put_file_name, take_file_name};
pub use outcome::{decode_outcome, encode_outcome, outcome_bytes};

/// Version of the encoding of commands, outcomes and batches.
pub const CODEC_VERSION: u8 = 1;

/// Bytes that a batch takes for each command beside the command's own.
pub const COMMAND_FRAME_BYTES: usize = 4;

const SLOT_REF_BYTES: usize = 12;

/// Packs encoded commands into the payload of one log entry.
pub fn encode_batch(commands: &[Bytes]) -> Bytes {
    let bytes = commands.iter().map(|command| COMMAND_FRAME_BYTES + command.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(5 + bytes);
    out.put_u8(CODEC_VERSION);
    out.put_u32_le(commands.len() as u32);
    for command in commands {
        put_bytes(&mut out, command);
    }
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

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn put_slot(out: &mut BytesMut, slot: &SlotRef) {
    out.put_u32_le(slot.slab);
    out.put_u32_le(slot.slot);
    out.put_u32_le(slot.generation);
}

fn put_slots(out: &mut BytesMut, slots: &[SlotRef]) {
    out.put_u32_le(slots.len() as u32);
    slots.iter().for_each(|slot| put_slot(out, slot));
}

fn take_slot(input: &mut Input<'_>) -> Result<SlotRef, DecodeError> {
    Ok(SlotRef { slab: input.u32()?, slot: input.u32()?, generation: input.u32()? })
}

fn take_slots(input: &mut Input<'_>) -> Result<Vec<SlotRef>, DecodeError> {
    let count = input.count(SLOT_REF_BYTES)?;
    (0..count).map(|_| take_slot(input)).collect()
}

fn take_key(input: &mut Input<'_>) -> Result<EntryKey, DecodeError> {
    Ok(EntryKey(input.array::<ENTRY_KEY_BYTES>()?))
}

fn take_list<T>(
    input: &mut Input<'_>,
    item_bytes: usize,
    take: impl Fn(&mut Input<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = input.count(item_bytes)?;
    (0..count).map(|_| take(input)).collect()
}
