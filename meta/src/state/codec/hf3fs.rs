//! Commands on SGLang's page files and their outcomes: under one kind each, with a kind of their own inside.
//!
//! ```text
//! command   ... kind 15 · what u8 · initialize: name, pages u32 | else: file u32 · touched · fields
//! outcome   ... kind 10 · what u8 · fields
//! ```

use bytes::{BufMut, BytesMut};
use foreword_proto::EntryKey;
use foreword_proto::limits::ENTRY_KEY_BYTES;

use super::{CODEC_VERSION, put_bytes, take_key, take_list};
use crate::state::hf3fs::{FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageIndex, Reserved};
use crate::state::input::{DecodeError, Input};

mod command {
    pub(super) const INITIALIZE: u8 = 1;
    pub(super) const RESERVE: u8 = 2;
    pub(super) const CONFIRM: u8 = 3;
    pub(super) const DELETE: u8 = 4;
    pub(super) const CLEAR: u8 = 5;
    pub(super) const TOUCH: u8 = 6;
    pub(super) const EXPIRE: u8 = 7;
    pub(super) const IMPORT: u8 = 8;
}

mod outcome {
    pub(super) const INITIALIZED: u8 = 1;
    pub(super) const OTHER_SIZE: u8 = 2;
    pub(super) const RESERVED: u8 = 3;
    pub(super) const CONFIRMED: u8 = 4;
    pub(super) const DELETED: u8 = 5;
    pub(super) const CLEARED: u8 = 6;
    pub(super) const TOUCHED: u8 = 7;
    pub(super) const EXPIRED: u8 = 8;
    pub(super) const IMPORTED: u8 = 9;
    pub(super) const NO_FILE: u8 = 10;
}

mod reserved {
    pub(super) const EXISTING: u8 = 1;
    pub(super) const PAGE: u8 = 2;
    pub(super) const NO_PAGE: u8 = 3;
}

const INDEX_BYTES: usize = 4;
/// What a reserve says of one key takes at most these bytes.
pub(super) const RESERVED_BYTES: usize = 1 + INDEX_BYTES;

pub(super) fn put_command(out: &mut BytesMut, of_file: &Hf3fsCommand) {
    match of_file {
        Hf3fsCommand::Initialize { name, pages } => {
            out.put_u8(command::INITIALIZE);
            put_file_name(out, name);
            out.put_u32_le(*pages);
        }
        Hf3fsCommand::On { file, touched, operation } => {
            out.reserve(command_bytes(touched, operation));
            out.put_u8(number_of(operation));
            out.put_u32_le(*file);
            put_indexes(out, touched);
            put_operation(out, operation);
        }
    }
}

/// Bytes of an operation, give or take a few: for one allocation instead of many.
fn command_bytes(touched: &[PageIndex], operation: &Hf3fsOperation) -> usize {
    let lists = match operation {
        Hf3fsOperation::Reserve { keys, victims, .. } => ENTRY_KEY_BYTES * keys.len() + INDEX_BYTES * victims.len(),
        Hf3fsOperation::Confirm { written, released } => {
            (ENTRY_KEY_BYTES + INDEX_BYTES) * written.len() + INDEX_BYTES * released.len()
        }
        Hf3fsOperation::Delete { keys, .. } => ENTRY_KEY_BYTES * keys.len(),
        Hf3fsOperation::Import { entries, .. } => (ENTRY_KEY_BYTES + INDEX_BYTES) * entries.len(),
        Hf3fsOperation::Clear { .. } | Hf3fsOperation::Touch | Hf3fsOperation::Expire { .. } => 0,
    };
    32 + INDEX_BYTES * touched.len() + lists
}

fn number_of(operation: &Hf3fsOperation) -> u8 {
    match operation {
        Hf3fsOperation::Reserve { .. } => command::RESERVE,
        Hf3fsOperation::Confirm { .. } => command::CONFIRM,
        Hf3fsOperation::Delete { .. } => command::DELETE,
        Hf3fsOperation::Clear { .. } => command::CLEAR,
        Hf3fsOperation::Touch => command::TOUCH,
        Hf3fsOperation::Expire { .. } => command::EXPIRE,
        Hf3fsOperation::Import { .. } => command::IMPORT,
    }
}

fn put_operation(out: &mut BytesMut, operation: &Hf3fsOperation) {
    match operation {
        Hf3fsOperation::Reserve { term, keys, victims } => {
            out.put_u64_le(*term);
            put_keys(out, keys);
            put_indexes(out, victims);
        }
        Hf3fsOperation::Confirm { written, released } => {
            put_pages(out, written);
            put_indexes(out, released);
        }
        Hf3fsOperation::Delete { keys, rest_ms } => {
            put_keys(out, keys);
            out.put_u64_le(*rest_ms);
        }
        Hf3fsOperation::Clear { rest_ms } => out.put_u64_le(*rest_ms),
        Hf3fsOperation::Touch => {}
        Hf3fsOperation::Expire { unheard_ms, pages_max } => {
            out.put_u64_le(*unheard_ms);
            out.put_u32_le(*pages_max);
        }
        Hf3fsOperation::Import { entries, rest_ms } => {
            put_pages(out, entries);
            out.put_u64_le(*rest_ms);
        }
    }
}

pub(super) fn take_command(input: &mut Input<'_>) -> Result<Hf3fsCommand, DecodeError> {
    let found = input.u8()?;
    if found == command::INITIALIZE {
        return Ok(Hf3fsCommand::Initialize { name: take_file_name(input)?, pages: input.u32()? });
    }
    // Before its fields: what this binary does not know may have others.
    if !(command::RESERVE..=command::IMPORT).contains(&found) {
        return Err(unknown("hf3fs command", found));
    }
    let (file, touched) = (input.u32()?, take_indexes(input)?);
    let operation = match found {
        command::RESERVE => {
            Hf3fsOperation::Reserve { term: input.u64()?, keys: take_keys(input)?, victims: take_indexes(input)? }
        }
        command::CONFIRM => Hf3fsOperation::Confirm { written: take_pages(input)?, released: take_indexes(input)? },
        command::DELETE => Hf3fsOperation::Delete { keys: take_keys(input)?, rest_ms: input.u64()? },
        command::CLEAR => Hf3fsOperation::Clear { rest_ms: input.u64()? },
        command::TOUCH => Hf3fsOperation::Touch,
        command::EXPIRE => Hf3fsOperation::Expire { unheard_ms: input.u64()?, pages_max: input.u32()? },
        command::IMPORT => Hf3fsOperation::Import { entries: take_pages(input)?, rest_ms: input.u64()? },
        found => return Err(unknown("hf3fs command", found)),
    };
    Ok(Hf3fsCommand::On { file, touched, operation })
}

pub(super) fn put_outcome(out: &mut BytesMut, of_file: &Hf3fsOutcome) {
    match of_file {
        Hf3fsOutcome::Initialized { file } => put_numbers(out, outcome::INITIALIZED, &[*file]),
        Hf3fsOutcome::OtherSize { pages } => put_numbers(out, outcome::OTHER_SIZE, &[*pages]),
        Hf3fsOutcome::Reserved { pages } => {
            put_numbers(out, outcome::RESERVED, &[pages.len() as u32]);
            pages.iter().for_each(|reserved| put_reserved(out, *reserved));
        }
        Hf3fsOutcome::Confirmed { ignored_confirms, ignored_releases } => {
            put_numbers(out, outcome::CONFIRMED, &[*ignored_confirms, *ignored_releases]);
        }
        Hf3fsOutcome::Deleted { pages } => put_numbers(out, outcome::DELETED, &[*pages]),
        Hf3fsOutcome::Cleared => out.put_u8(outcome::CLEARED),
        Hf3fsOutcome::Touched => out.put_u8(outcome::TOUCHED),
        Hf3fsOutcome::Expired { pages, left } => {
            put_numbers(out, outcome::EXPIRED, &[*pages]);
            out.put_u8((*left).into());
        }
        Hf3fsOutcome::Imported { conflicts } => put_numbers(out, outcome::IMPORTED, &[*conflicts]),
        Hf3fsOutcome::NoFile => out.put_u8(outcome::NO_FILE),
    }
}

fn put_numbers(out: &mut BytesMut, what: u8, numbers: &[u32]) {
    out.put_u8(what);
    numbers.iter().for_each(|number| out.put_u32_le(*number));
}

fn put_reserved(out: &mut BytesMut, reserved: Reserved) {
    match reserved {
        Reserved::Existing(index) => put_numbers(out, reserved::EXISTING, &[index]),
        Reserved::Page(index) => put_numbers(out, reserved::PAGE, &[index]),
        Reserved::NoPage => out.put_u8(reserved::NO_PAGE),
    }
}

pub(super) fn take_outcome(input: &mut Input<'_>) -> Result<Hf3fsOutcome, DecodeError> {
    Ok(match input.u8()? {
        outcome::INITIALIZED => Hf3fsOutcome::Initialized { file: input.u32()? },
        outcome::OTHER_SIZE => Hf3fsOutcome::OtherSize { pages: input.u32()? },
        outcome::RESERVED => Hf3fsOutcome::Reserved { pages: take_list(input, 1, take_reserved)? },
        outcome::CONFIRMED => {
            Hf3fsOutcome::Confirmed { ignored_confirms: input.u32()?, ignored_releases: input.u32()? }
        }
        outcome::DELETED => Hf3fsOutcome::Deleted { pages: input.u32()? },
        outcome::CLEARED => Hf3fsOutcome::Cleared,
        outcome::TOUCHED => Hf3fsOutcome::Touched,
        outcome::EXPIRED => Hf3fsOutcome::Expired { pages: input.u32()?, left: take_bool(input)? },
        outcome::IMPORTED => Hf3fsOutcome::Imported { conflicts: input.u32()? },
        outcome::NO_FILE => Hf3fsOutcome::NoFile,
        found => return Err(unknown("hf3fs outcome", found)),
    })
}

fn take_reserved(input: &mut Input<'_>) -> Result<Reserved, DecodeError> {
    Ok(match input.u8()? {
        reserved::EXISTING => Reserved::Existing(input.u32()?),
        reserved::PAGE => Reserved::Page(input.u32()?),
        reserved::NO_PAGE => Reserved::NoPage,
        found => return Err(input.invalid(format!("reserved {found} is not known"))),
    })
}

fn take_bool(input: &mut Input<'_>) -> Result<bool, DecodeError> {
    match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(input.invalid(format!("{found} is neither 0 nor 1"))),
    }
}

fn unknown(what: &'static str, found: u8) -> DecodeError {
    DecodeError::Kind { what, found: found.into(), known: CODEC_VERSION.into() }
}

/// Deployment, rank, pool.
pub(in crate::state) fn put_file_name(out: &mut BytesMut, name: &FileName) {
    put_bytes(out, name.deployment.as_bytes());
    out.put_i64_le(name.rank);
    put_bytes(out, name.pool.as_bytes());
}

pub(in crate::state) fn take_file_name(input: &mut Input<'_>) -> Result<FileName, DecodeError> {
    Ok(FileName { deployment: input.text()?, rank: input.u64()? as i64, pool: input.text()? })
}

fn put_indexes(out: &mut BytesMut, indexes: &[PageIndex]) {
    out.put_u32_le(indexes.len() as u32);
    indexes.iter().for_each(|index| out.put_u32_le(*index));
}

fn take_indexes(input: &mut Input<'_>) -> Result<Vec<PageIndex>, DecodeError> {
    take_list(input, INDEX_BYTES, |input| input.u32())
}

fn put_keys(out: &mut BytesMut, keys: &[EntryKey]) {
    out.put_u32_le(keys.len() as u32);
    keys.iter().for_each(|key| out.put_slice(&key.0));
}

fn take_keys(input: &mut Input<'_>) -> Result<Vec<EntryKey>, DecodeError> {
    take_list(input, ENTRY_KEY_BYTES, take_key)
}

fn put_pages(out: &mut BytesMut, pages: &[(EntryKey, PageIndex)]) {
    out.put_u32_le(pages.len() as u32);
    for (key, index) in pages {
        out.put_slice(&key.0);
        out.put_u32_le(*index);
    }
}

fn take_pages(input: &mut Input<'_>) -> Result<Vec<(EntryKey, PageIndex)>, DecodeError> {
    take_list(input, ENTRY_KEY_BYTES + INDEX_BYTES, |input| Ok((take_key(input)?, input.u32()?)))
}
