//! Page bytes in a session's staging memory, to which the engine may write at any time.

use std::ptr::NonNull;

use foreword_session::wire::Mapping;

use crate::api::PieceBytes;

/// A piece of staging memory. There is never a reference to it: bytes are copied by address, and what was copied is
/// what is summed up.
pub(super) struct StagedBytes<'a> {
    base: NonNull<u8>,
    bytes: usize,
    _mapping: &'a Mapping,
}

// SAFETY: it only copies from memory that stays mapped as long as it lives, on whatever thread.
unsafe impl Send for StagedBytes<'_> {}
// SAFETY: as above.
unsafe impl Sync for StagedBytes<'_> {}

impl<'a> StagedBytes<'a> {
    /// None: it does not lie within the staging memory.
    pub(super) fn new(mapping: &'a Mapping, offset: u64, bytes: u64) -> Option<Self> {
        let base = mapping.at(offset, bytes)?;
        Some(Self { base, bytes: usize::try_from(bytes).ok()?, _mapping: mapping })
    }
}

impl PieceBytes for StagedBytes<'_> {
    fn len(&self) -> usize {
        self.bytes
    }

    fn copy_to(&self, from: usize, to: &mut [u8]) {
        assert!(from <= self.bytes && to.len() <= self.bytes - from, "{} bytes at {from} of {}", to.len(), self.bytes);
        // SAFETY: within the mapping (new()), which is borrowed; `to` is memory of our own. The engine may write there
        // meanwhile: then some bytes are old and some new, and the checksum is of what was copied.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(from).as_ptr(), to.as_mut_ptr(), to.len()) };
    }
}
