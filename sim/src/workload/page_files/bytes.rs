//! The page files themselves: what 3FS would hold. Engines write and read them without the group, so that only time and
//! ownership keep a page what its readers were told.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_meta::state::hf3fs::PageIndex;
use parking_lot::Mutex;

use crate::history::PageName;

/// A page is written and read in so many pieces.
pub(super) const PIECES: usize = 4;

/// A piece: the key that it was written for, and by whom.
type Piece = Option<(PageName, u64)>;

/// Pages by their file and their place in it.
type Pages = BTreeMap<(usize, PageIndex), [Piece; PIECES]>;

/// All page files of a run, shared by its engines.
#[derive(Clone, Default)]
pub struct PageBytes(Arc<Mutex<Pages>>);

impl PageBytes {
    /// Writes one piece of a page of a file.
    pub fn write(&self, file: usize, page: PageIndex, piece: usize, key: &PageName, nonce: u64) {
        self.0.lock().entry((file, page)).or_default()[piece] = Some((key.clone(), nonce));
    }

    /// Reads one piece of a page. Err: what is there instead of the key's. Which of the key's writers wrote it does not
    /// matter: each computed the same prompt.
    pub fn read(&self, file: usize, page: PageIndex, piece: usize, key: &PageName) -> Result<(), String> {
        match self.0.lock().get(&(file, page)).and_then(|pieces| pieces[piece].clone()) {
            Some((of, _)) if of == *key => Ok(()),
            Some((of, nonce)) => Err(format!("piece {piece} is of {}, written by {}", of.text, nonce >> 32)),
            None => Err(format!("piece {piece} was never written")),
        }
    }
}
