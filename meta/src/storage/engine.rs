//! The seam below the log writer: numbered items, a few named values, and one call that makes them durable.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;

/// The named values beside the log. The numbers are on disk and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MetaKey {
    /// The replica's vote.
    Vote = 1,
    /// The last purged log id.
    Purged = 2,
    /// The last committed log id that was saved.
    Committed = 3,
}

impl MetaKey {
    /// Every key.
    pub const ALL: [Self; 3] = [Self::Vote, Self::Purged, Self::Committed];
}

/// One item of the log: its index and its bytes.
pub type Item = (u64, Bytes);

/// A store of consecutively numbered items, owned by one writer.
///
/// Writes take effect at once for reads; they are durable when a later [`LogEngine::sync`] has succeeded. After a crash
/// the store holds what was durable plus a prefix, in order, of the writes made after: an item of several pieces may be
/// cut, and then it and everything after it are gone when the store is opened again.
///
/// After an error nothing is known about unsynced writes; the owner stops using the engine.
pub trait LogEngine: Send + 'static {
    /// Appends items whose indexes follow each other and the last item; any index may be the first of an empty store.
    fn append(&mut self, items: &[Item]) -> io::Result<()>;

    /// Removes the items from `index` to the end, last one first.
    fn truncate_from(&mut self, index: u64) -> io::Result<()>;

    /// Removes items up to and including `index`, first one first, at most `items_max` of them. True when none of them
    /// is left.
    fn purge_to(&mut self, index: u64, items_max: usize) -> io::Result<bool>;

    /// Sets a named value.
    fn put_meta(&mut self, key: MetaKey, value: Bytes) -> io::Result<()>;

    /// A named value, if it was ever set.
    fn get_meta(&mut self, key: MetaKey) -> io::Result<Option<Bytes>>;

    /// The items of `range` that exist, in order.
    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<Item>>;

    /// Index of the first and of the last item; None when there is none.
    fn bounds(&self) -> Option<(u64, u64)>;

    /// Makes every write so far survive a power cut. A future, so that a simulated disk can take its time.
    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>>;

    /// Bytes of all items.
    fn bytes_used(&self) -> u64;
}

/// An item that cannot follow what is there.
pub(crate) fn hole(expected: u64, index: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("index: expected {expected} after the last item, got {index}"))
}

/// Checks that `items` follow each other and `last`.
pub(crate) fn check_consecutive(last: Option<u64>, items: &[Item]) -> io::Result<()> {
    let mut expected = last.map(|last| last + 1);
    for (index, _) in items {
        if let Some(expected) = expected.filter(|expected| expected != index) {
            return Err(hole(expected, *index));
        }
        expected = Some(index + 1);
    }
    Ok(())
}
