//! Page files in a snapshot: heads of files, then the pages of each, list by list in the lists' order.
//!
//! ```text
//! page files   count, then each: name, pages, sequence, never_used, never_held, cleared (start, end, from_ms), counters
//! pages        file, list u8, count, then each: index, stamp, key (not of a resting page)
//! ```
//! Nothing that comes back is trusted: lists, keys and deadlines are built up again page by page.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use foreword_proto::EntryKey;
use foreword_proto::limits::ENTRY_KEY_BYTES;

use super::file::{Counters, File};
use super::lists::ListName;
use super::{FileName, Hf3fs, PageIndex};
use crate::state::codec::{put_file_name, take_file_name};
use crate::state::input::{DecodeError, Input};
use crate::state::snapshot::{PIECE_BYTES, kind, piece, reserve_count, set_count};

/// Bytes of a file's head, at least.
const HEAD_BYTES: usize = 16 + 4 + 8 + 4 * 4 + 8 + 5 * 8;
/// Bytes of a resting page.
const RESTING_BYTES: usize = 4 + 8;

/// Where the pages that come next are.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::state) struct Cursor {
    file: usize,
    list: usize,
    /// None: the list's head.
    from: Option<PageIndex>,
}

impl Hf3fs {
    /// Heads of files from a number on, and the number after them. None when no file is left.
    pub(in crate::state) fn heads_piece(&self, from: usize) -> Option<(BytesMut, usize)> {
        let left = self.files.get(from..).filter(|left| !left.is_empty())?;
        let mut out = piece(kind::PAGE_FILES);
        let count_at = reserve_count(&mut out);
        let mut count = 0;
        for file in left {
            put_head(&mut out, file);
            count += 1;
            if out.len() >= PIECE_BYTES {
                break;
            }
        }
        set_count(&mut out, count_at, count);
        Some((out, from + count as usize))
    }

    /// Pages of one list, as many as fit, and where the next ones are. None when no page is left. Files that were passed are
    /// let go of.
    pub(in crate::state) fn pages_piece(&mut self, mut at: Cursor) -> Option<(BytesMut, Cursor)> {
        loop {
            let file = self.files.get_mut(at.file)?;
            let Some(list) = ListName::ALL.get(at.list).copied() else {
                let name = FileName { deployment: String::new(), rank: 0, pool: String::new() };
                *file = Arc::new(File::new(name, 1));
                at = Cursor { file: at.file + 1, ..Cursor::default() };
                continue;
            };
            if file.table.ends(list).pages > 0 {
                let (out, from) = list_piece(file, at.file as u32, list, at.from);
                let list = at.list + usize::from(from.is_none());
                return Some((out, Cursor { file: at.file, list, from }));
            }
            at.list += 1;
        }
    }

    /// Takes heads of files. `input` is after the piece's kind.
    pub(in crate::state) fn take_heads(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for _ in 0..input.count(HEAD_BYTES)? {
            let name = take_file_name(input)?;
            let pages = input.u32()?;
            if self.file_id(&name).is_some() {
                return Err(input.invalid(format!("two page files of one name, {name:?}")));
            }
            let id = self.add(&name, pages).map_err(|refusal| input.invalid(refusal.to_string()))?;
            let file = Arc::make_mut(&mut self.files[id as usize]);
            take_head(file, input)?;
        }
        Ok(())
    }

    /// Takes pages of one list. `input` is after the piece's kind.
    pub(in crate::state) fn take_pages(&mut self, tick_ms: u64, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let (id, number) = (input.u32()?, input.u8()?);
        let list = ListName::from_number(number);
        let (Some(file), Some(list)) = (self.files.get_mut(id as usize), list) else {
            return Err(input.invalid(format!("pages of list {number} of page file {id}, which is not there")));
        };
        let file = Arc::make_mut(file);
        let has_key = list != ListName::Resting;
        let page_bytes = RESTING_BYTES + if has_key { ENTRY_KEY_BYTES } else { 0 };
        for _ in 0..input.count(page_bytes)? {
            let (index, stamp) = (input.u32()?, input.u64()?);
            let key = EntryKey(if has_key { input.array::<ENTRY_KEY_BYTES>()? } else { [0; ENTRY_KEY_BYTES] });
            if !file.put_back(list, index, key, stamp, tick_ms) {
                return Err(input.invalid(format!("page {index} of page file {id} in list {number}, stamp {stamp}")));
            }
        }
        Ok(())
    }
}

impl File {
    /// Puts a page back at the end of its list; false if it cannot be there.
    fn put_back(&mut self, list: ListName, index: PageIndex, key: EntryKey, stamp: u64, tick_ms: u64) -> bool {
        let last = self.table.tail(list).map(|(_, record)| record.stamp);
        let follows = match list {
            ListName::Written | ListName::Read => stamp < self.sequence && last.is_none_or(|last| last < stamp),
            ListName::Reserved => stamp <= tick_ms && last.is_none_or(|last| last <= stamp),
            ListName::Resting => last.is_none_or(|last| last <= stamp),
        };
        let unheld = (self.never_used..self.pages()).contains(&index) && self.table.get(index).list.is_none();
        if !follows || !unheld {
            return false;
        }
        match list {
            ListName::Resting => self.push_resting(index, stamp, tick_ms),
            _ if self.find(&key).is_some() => return false,
            _ => self.hold(list, index, key, stamp),
        }
        true
    }
}

fn put_head(out: &mut BytesMut, file: &File) {
    put_file_name(out, file.name());
    out.put_u32_le(file.pages());
    out.put_u64_le(file.sequence);
    for number in [file.never_used, file.never_held, file.cleared.start, file.cleared.end] {
        out.put_u32_le(number);
    }
    out.put_u64_le(file.cleared_from_ms);
    file.counters.all().iter().for_each(|counter| out.put_u64_le(*counter));
}

fn take_head(file: &mut File, input: &mut Input<'_>) -> Result<(), DecodeError> {
    let pages = file.pages();
    file.sequence = input.u64()?;
    file.never_used = input.u32()?;
    file.never_held = input.u32()?;
    file.cleared = input.u32()?..input.u32()?;
    file.cleared_from_ms = input.u64()?;
    file.counters = Counters {
        evicted: input.u64()?,
        expired: input.u64()?,
        no_page: input.u64()?,
        ignored_confirms: input.u64()?,
        ignored_releases: input.u64()?,
    };
    let cleared = &file.cleared;
    let fits = file.never_used <= pages && file.never_held <= pages && cleared.end <= pages;
    if !fits || cleared.start > cleared.end || (!cleared.is_empty() && cleared.start < file.never_used) {
        let (never_used, never_held) = (file.never_used, file.never_held);
        let detail = format!("{never_used} never used, {never_held} never held, {cleared:?} cleared of {pages} pages");
        return Err(input.invalid(detail));
    }
    Ok(())
}

/// Pages of a list from one of them on, and the first that did not fit.
fn list_piece(file: &File, id: u32, list: ListName, from: Option<PageIndex>) -> (BytesMut, Option<PageIndex>) {
    let mut out = piece(kind::PAGES);
    out.put_u32_le(id);
    out.put_u8(list.number());
    let count_at = reserve_count(&mut out);
    let (mut count, mut left) = (0, None);
    for (index, record) in file.table.list(list, from) {
        if out.len() >= PIECE_BYTES {
            left = Some(index);
            break;
        }
        out.put_u32_le(index);
        out.put_u64_le(record.stamp);
        if list != ListName::Resting {
            out.put_slice(&record.key.0);
        }
        count += 1;
    }
    set_count(&mut out, count_at, count);
    (out, left)
}
