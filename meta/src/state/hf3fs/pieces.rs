//! Page files in a snapshot: heads of files, then the pages of each, list by list in the lists' order.
//!
//! ```text
//! numbers      the next file's number, dropped files: count, then each: name, due_ms
//! page files   count, then each: number, name, pages, sequence, never_used, never_held, cleared (start, end, from_ms), counters
//! pages        file, list u8, count, then each: index, stamp, key (not of a resting page)
//! ```
//! Nothing that comes back is trusted: lists, keys and deadlines are built up again page by page.

use std::sync::Arc;

use bytes::BytesMut;
use foreword_proto::EntryKey;
use foreword_proto::limits::HF3FS_FILES_MAX;

use super::dropped::DroppedFile;
use super::file::{File, Head};
use super::lists::{ListName, NO_PAGE};
use super::{FileId, Hf3fs, PageIndex, check_name, check_pages};
use crate::state::codec::{Decode, Encode, Sink};
use crate::state::input::{DecodeError, Input};
use crate::state::pieces::{PieceKind, piece, pieces};

/// A page in its list.
struct OfList {
    index: PageIndex,
    stamp: u64,
    /// None for a resting page.
    key: Option<EntryKey>,
}

impl Encode for OfList {
    fn encode(&self, out: &mut impl Sink) {
        let Self { index, stamp, key } = self;
        (index, stamp).encode(out);
        if let Some(key) = key {
            key.encode(out);
        }
    }
}

impl OfList {
    const BYTES_MIN: usize = <(PageIndex, u64)>::BYTES_MIN;

    /// The counterpart of its encoding.
    fn decode(list: ListName, input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let (index, stamp) = Decode::decode(input)?;
        let key = if list == ListName::Resting { None } else { Some(Decode::decode(input)?) };
        Ok(Self { index, stamp, key })
    }
}

impl Hf3fs {
    /// All pieces. What has been passed is let go of.
    pub(in crate::state) fn into_pieces(self) -> impl Iterator<Item = BytesMut> {
        let Self { files, next_file, by_name: _, dropped } = self;
        let dropped: Vec<DroppedFile> = dropped.iter().cloned().collect();
        let heads: Vec<(FileId, Head)> = files.iter().map(|(id, file)| (*id, file.head())).collect();
        let pages = files.into_iter().flat_map(|(id, file)| {
            ListName::ALL
                .into_iter()
                .flat_map(move |list| pieces(PieceKind::Pages, (id, list), pages_of(Arc::clone(&file), list)))
        });
        // Nothing where there never was a page file.
        let numbers = (next_file > 0).then(|| piece(PieceKind::PageFileNumbers, (next_file, dropped)));
        numbers.into_iter().chain(pieces(PieceKind::PageFiles, (), heads.into_iter())).chain(pages)
    }

    /// Takes the next number and what was dropped. `input` is after the piece's kind.
    pub(in crate::state) fn take_numbers(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let (next_file, dropped) = <(FileId, Vec<DroppedFile>)>::decode(input)?;
        self.next_file = next_file;
        for file in dropped {
            if self.dropped.len() >= HF3FS_FILES_MAX || !self.dropped.put_back(file) {
                return Err(input.invalid("dropped page files: too many, or not in their order"));
            }
        }
        Ok(())
    }

    /// Takes heads of files. `input` is after the piece's kind.
    pub(in crate::state) fn take_heads(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for (id, head) in Vec::<(FileId, Head)>::decode(input)? {
            if id >= self.next_file || self.files.contains_key(&id) {
                return Err(input.invalid(format!("page file number {id}: twice, or never given out")));
            }
            if self.file_id(&head.name).is_some() {
                return Err(input.invalid(format!("two page files of one name, {:?}", head.name)));
            }
            if !head.is_sound() {
                return Err(input.invalid(format!("a page file that cannot be, {head:?}")));
            }
            if self.files.len() >= HF3FS_FILES_MAX {
                return Err(input.invalid(format!("more than {HF3FS_FILES_MAX} page files")));
            }
            let fits = check_name(&head.name).and_then(|()| check_pages(head.pages));
            fits.map_err(|refusal| input.invalid(refusal.to_string()))?;
            self.put(id, File::of_head(head));
        }
        Ok(())
    }

    /// Takes pages of one list. `input` is after the piece's kind.
    pub(in crate::state) fn take_pages(&mut self, tick_ms: u64, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let (id, list) = <(FileId, ListName)>::decode(input)?;
        let Some(file) = self.files.get_mut(&id) else {
            return Err(input.invalid(format!("pages of page file {id}, which is not there")));
        };
        let file = Arc::make_mut(file);
        for _ in 0..input.count(OfList::BYTES_MIN)? {
            let OfList { index, stamp, key } = OfList::decode(list, input)?;
            if !file.put_back(list, index, key, stamp, tick_ms) {
                return Err(input.invalid(format!("page {index} of page file {id} in {list:?}, stamp {stamp}")));
            }
        }
        Ok(())
    }
}

/// The pages of a list of a file, in order.
fn pages_of(file: Arc<File>, list: ListName) -> impl Iterator<Item = OfList> {
    let mut at = file.table.head(list).map(|(index, _)| index);
    std::iter::from_fn(move || {
        let index = at?;
        let record = file.table.get(index);
        at = Some(record.next).filter(|next| *next != NO_PAGE);
        let key = (list != ListName::Resting).then_some(record.key);
        Some(OfList { index, stamp: record.stamp, key })
    })
}

impl File {
    /// Puts a page back at the end of its list; false if it cannot be there.
    fn put_back(&mut self, list: ListName, index: PageIndex, key: Option<EntryKey>, stamp: u64, tick_ms: u64) -> bool {
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
        match key {
            None => self.push_resting(index, stamp, tick_ms),
            Some(key) if self.find(&key).is_some() => return false,
            Some(key) => self.hold(list, index, key, stamp),
        }
        true
    }
}
