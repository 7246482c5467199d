//! Commands.

use bytes::{BufMut, Bytes, BytesMut};
use foreword_proto::limits::ENTRY_KEY_BYTES;
use foreword_proto::records::SuspectRecord;
use foreword_proto::{Namespace, RetireReason};

use super::{
    CODEC_VERSION, SLOT_REF_BYTES, hf3fs, put_bytes, put_slot, put_slots, take_key, take_list, take_slot, take_slots,
};
use crate::state::command::{Command, Retirement, SessionOperation};
use crate::state::input::{DecodeError, Input};

const WHAT: &str = "command";

mod kind {
    pub(super) const TICK: u8 = 1;
    pub(super) const REGISTER_NAMESPACE: u8 = 2;
    pub(super) const OPEN_SESSION: u8 = 3;
    pub(super) const END_SESSION: u8 = 4;
    pub(super) const GRANT: u8 = 5;
    pub(super) const PUBLISH: u8 = 6;
    pub(super) const ABORT: u8 = 7;
    pub(super) const SUSPECT: u8 = 8;
    pub(super) const RETIRE: u8 = 9;
    pub(super) const CLEAR: u8 = 10;
    pub(super) const DELETE: u8 = 11;
    pub(super) const RECLAIM: u8 = 12;
    pub(super) const DROP_SLABS: u8 = 13;
    pub(super) const RAISE_FEATURE_LEVEL: u8 = 14;
    pub(super) const HF3FS: u8 = 15;
}

/// Appends one command.
pub fn encode_command(command: &Command, out: &mut BytesMut) {
    out.put_u8(CODEC_VERSION);
    match command {
        Command::Tick { now_ms } => {
            out.put_u8(kind::TICK);
            out.put_u64_le(*now_ms);
        }
        Command::RegisterNamespace { namespace } => {
            out.put_u8(kind::REGISTER_NAMESPACE);
            put_namespace(out, namespace);
        }
        Command::OpenSession { node, incarnation, endpoint } => {
            out.put_u8(kind::OPEN_SESSION);
            put_bytes(out, node.as_bytes());
            out.put_u64_le(*incarnation);
            put_bytes(out, endpoint.as_bytes());
        }
        Command::EndSession { session } => {
            out.put_u8(kind::END_SESSION);
            out.put_u64_le(*session);
        }
        Command::Session { session, sequence, operation } => put_session(out, *session, *sequence, operation),
        Command::Suspect { session, namespace, suspects } => {
            out.put_u8(kind::SUSPECT);
            out.put_u64_le(*session);
            out.put_u32_le(*namespace);
            out.put_u32_le(suspects.len() as u32);
            suspects.iter().for_each(|suspect| put_suspect(out, suspect));
        }
        Command::Retire { reason, entries } => {
            out.put_u8(kind::RETIRE);
            out.put_u8(*reason as u8);
            out.put_u32_le(entries.len() as u32);
            entries.iter().for_each(|entry| put_retirement(out, entry));
        }
        Command::Clear { namespace } => {
            out.put_u8(kind::CLEAR);
            out.put_u32_le(*namespace);
        }
        Command::Delete { namespace, keys } => {
            out.put_u8(kind::DELETE);
            out.put_u32_le(*namespace);
            out.put_u32_le(keys.len() as u32);
            keys.iter().for_each(|key| out.put_slice(&key.0));
        }
        Command::Reclaim { entries_max } => {
            out.put_u8(kind::RECLAIM);
            out.put_u32_le(*entries_max);
        }
        Command::DropSlabs { slabs } => {
            out.put_u8(kind::DROP_SLABS);
            out.put_u32_le(slabs.len() as u32);
            slabs.iter().for_each(|slab| out.put_u32_le(*slab));
        }
        Command::RaiseFeatureLevel { level } => {
            out.put_u8(kind::RAISE_FEATURE_LEVEL);
            out.put_u32_le(*level);
        }
        Command::Hf3fs(command) => {
            out.put_u8(kind::HF3FS);
            hf3fs::put_command(out, command);
        }
    }
}

fn put_session(out: &mut BytesMut, session: u64, sequence: u64, operation: &SessionOperation) {
    out.put_u8(match operation {
        SessionOperation::Grant { .. } => kind::GRANT,
        SessionOperation::Publish { .. } => kind::PUBLISH,
        SessionOperation::Abort { .. } => kind::ABORT,
    });
    out.put_u64_le(session);
    out.put_u64_le(sequence);
    match operation {
        SessionOperation::Grant { slot_bytes, slots } => {
            out.put_u64_le(*slot_bytes);
            out.put_u32_le(*slots);
        }
        SessionOperation::Publish { namespace, epoch, pages } => {
            out.put_u32_le(*namespace);
            out.put_u32_le(*epoch);
            put_bytes(out, pages);
        }
        SessionOperation::Abort { unwritten, unknown } => {
            put_slots(out, unwritten);
            put_slots(out, unknown);
        }
    }
}

fn put_suspect(out: &mut BytesMut, suspect: &SuspectRecord) {
    out.put_slice(&suspect.key.0);
    put_slot(out, &suspect.slot);
    out.put_u32_le(suspect.shard);
    out.put_u64_le(suspect.checksum);
}

fn put_retirement(out: &mut BytesMut, entry: &Retirement) {
    out.put_u32_le(entry.namespace);
    out.put_slice(&entry.key.0);
    put_slot(out, &entry.slot);
}

/// Every field in declared order.
pub(in crate::state) fn put_namespace(out: &mut BytesMut, n: &Namespace) {
    for text in [&n.tenant, &n.model, &n.revision, &n.dtype, &n.layout, &n.storage_format] {
        put_bytes(out, text.as_bytes());
    }
    for number in [n.page_tokens, n.layer_first, n.layer_count, n.cp_rank, n.cp_size, n.dcp_rank, n.dcp_size] {
        out.put_u32_le(number);
    }
    for number in [n.tp_first, n.tp_count, n.tp_size] {
        out.put_u32_le(number);
    }
    put_bytes(out, n.head_split.as_bytes());
    out.put_u32_le(n.shard_bytes.len() as u32);
    n.shard_bytes.iter().for_each(|bytes| out.put_u64_le(*bytes));
    for text in [&n.pool, &n.draft_model, &n.draft_revision] {
        put_bytes(out, text.as_bytes());
    }
    put_bytes(out, &n.salt);
}

pub(in crate::state) fn take_namespace(input: &mut Input<'_>) -> Result<Namespace, DecodeError> {
    Ok(Namespace {
        tenant: input.text()?,
        model: input.text()?,
        revision: input.text()?,
        dtype: input.text()?,
        layout: input.text()?,
        storage_format: input.text()?,
        page_tokens: input.u32()?,
        layer_first: input.u32()?,
        layer_count: input.u32()?,
        cp_rank: input.u32()?,
        cp_size: input.u32()?,
        dcp_rank: input.u32()?,
        dcp_size: input.u32()?,
        tp_first: input.u32()?,
        tp_count: input.u32()?,
        tp_size: input.u32()?,
        head_split: input.text()?,
        shard_bytes: {
            let count = input.count(8)?;
            (0..count).map(|_| input.u64()).collect::<Result<_, _>>()?
        },
        pool: input.text()?,
        draft_model: input.text()?,
        draft_revision: input.text()?,
        salt: input.bytes()?.to_vec(),
    })
}

/// Takes one command off the front of `bytes`.
pub fn decode_command(bytes: &mut Bytes) -> Result<Command, DecodeError> {
    let mut input = Input::new(bytes, WHAT);
    input.version(CODEC_VERSION)?;
    let input = &mut input;
    Ok(match input.u8()? {
        kind::TICK => Command::Tick { now_ms: input.u64()? },
        kind::REGISTER_NAMESPACE => Command::RegisterNamespace { namespace: Box::new(take_namespace(input)?) },
        kind::OPEN_SESSION => {
            Command::OpenSession { node: input.text()?, incarnation: input.u64()?, endpoint: input.text()? }
        }
        kind::END_SESSION => Command::EndSession { session: input.u64()? },
        found @ (kind::GRANT | kind::PUBLISH | kind::ABORT) => take_session(found, input)?,
        kind::SUSPECT => Command::Suspect {
            session: input.u64()?,
            namespace: input.u32()?,
            suspects: take_list(input, ENTRY_KEY_BYTES + SLOT_REF_BYTES + 12, take_suspect)?,
        },
        kind::RETIRE => Command::Retire {
            reason: take_reason(input)?,
            entries: take_list(input, 4 + ENTRY_KEY_BYTES + SLOT_REF_BYTES, take_retirement)?,
        },
        kind::CLEAR => Command::Clear { namespace: input.u32()? },
        kind::DELETE => Command::Delete { namespace: input.u32()?, keys: take_list(input, ENTRY_KEY_BYTES, take_key)? },
        kind::RECLAIM => Command::Reclaim { entries_max: input.u32()? },
        kind::DROP_SLABS => Command::DropSlabs { slabs: take_list(input, 4, |input| input.u32())? },
        kind::RAISE_FEATURE_LEVEL => Command::RaiseFeatureLevel { level: input.u32()? },
        kind::HF3FS => Command::Hf3fs(hf3fs::take_command(input)?),
        found => return Err(DecodeError::Kind { what: WHAT, found: found.into(), known: CODEC_VERSION.into() }),
    })
}

/// Reads bytes that are one command and nothing else.
pub fn decode_whole(mut bytes: Bytes) -> Result<Command, DecodeError> {
    let command = decode_command(&mut bytes)?;
    match bytes.len() {
        0 => Ok(command),
        left => Err(DecodeError::Invalid { what: WHAT, detail: format!("{left} bytes after its end") }),
    }
}

fn take_session(found: u8, input: &mut Input<'_>) -> Result<Command, DecodeError> {
    let (session, sequence) = (input.u64()?, input.u64()?);
    let operation = match found {
        kind::GRANT => SessionOperation::Grant { slot_bytes: input.u64()?, slots: input.u32()? },
        kind::PUBLISH => {
            SessionOperation::Publish { namespace: input.u32()?, epoch: input.u32()?, pages: input.bytes()? }
        }
        _ => SessionOperation::Abort { unwritten: take_slots(input)?, unknown: take_slots(input)? },
    };
    Ok(Command::Session { session, sequence, operation })
}

fn take_suspect(input: &mut Input<'_>) -> Result<SuspectRecord, DecodeError> {
    Ok(SuspectRecord { key: take_key(input)?, slot: take_slot(input)?, shard: input.u32()?, checksum: input.u64()? })
}

fn take_retirement(input: &mut Input<'_>) -> Result<Retirement, DecodeError> {
    Ok(Retirement { namespace: input.u32()?, key: take_key(input)?, slot: take_slot(input)? })
}

fn take_reason(input: &mut Input<'_>) -> Result<RetireReason, DecodeError> {
    let number = input.u8()?;
    RetireReason::from_u8(number).ok_or_else(|| input.invalid(format!("retire reason {number} is not known")))
}
