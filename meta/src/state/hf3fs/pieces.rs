//! Page files in a snapshot: heads of files, then the pages of each, list by list in the lists' order.
//!
//! ```text
//! page files   count, then each: name, pages, sequence, never_used, never_held, cleared (start, end, from_ms), counters
//! pages        file, list u8, count, then each: index, stamp, key (not of a resting page)
//! ```
//! Nothing that comes back is trusted: lists, keys and deadlines are built up again page by page.

use std::sync::Arc;

use bytes::BytesMut;
use foreword_proto::EntryKey;

use super::file::{File, Head};
use super::lists::{ListName, NO_PAGE};
use super::{FileId, Hf3fs, PageIndex};
use crate::state::codec::{Decode, Encode, Sink};
use crate::state::input::{DecodeError, Input};
use crate::state::pieces::{PieceKind, pieces};

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
        let Self { files, by_name: _ } = self;
        let heads: Vec<Head> = files.iter().map(|file| file.head()).collect();
        let pages = files.into_iter().enumerate().flat_map(|(id, file)| {
            ListName::ALL
                .into_iter()
                .flat_map(move |list| pieces(PieceKind::Pages, (id as FileId, list), pages_of(Arc::clone(&file), list)))
        });
        pieces(PieceKind::PageFiles, (), heads.into_iter()).chain(pages)
    }

    /// Takes heads of files. `input` is after the piece's kind.
    pub(in crate::state) fn take_heads(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for head in Vec::<Head>::decode(input)? {
            if self.file_id(&head.name).is_some() {
                return Err(input.invalid(format!("two page files of one name, {:?}", head.name)));
            }
            if !head.is_sound() {
                return Err(input.invalid(format!("a page file that cannot be, {head:?}")));
            }
            let id = self.add(&head.name, head.pages).map_err(|refusal| input.invalid(refusal.to_string()))?;
            self.files[id as usize] = Arc::new(File::of_head(head));
        }
        Ok(())
    }

    /// Takes pages of one list. `input` is after the piece's kind.
    pub(in crate::state) fn take_pages(&mut self, tick_ms: u64, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let (id, list) = <(FileId, ListName)>::decode(input)?;
        let Some(file) = self.files.get_mut(id as usize) else {
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
