//! Reading little-endian fields from bytes that may be anything: every read is checked, nothing panics.

use bytes::{Buf, Bytes};
use foreword_proto::limits::FORMAT_VERSIONS;
use foreword_proto::versions::{Foreign, Versions, trailer};

/// Why bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by another version of the format.
    #[error("{what}: format version {found} cannot be read by this binary, which reads version {known}")]
    Version { what: &'static str, found: u32, known: u32 },
    /// A kind this version does not have.
    #[error("{what}: unknown kind {found} (this binary reads format version {known})")]
    Kind { what: &'static str, found: u32, known: u32 },
    /// The bytes end before the value does.
    #[error("{what}: the input ends too early")]
    Truncated { what: &'static str },
    /// A value that cannot be.
    #[error("{what}: {detail}")]
    Invalid { what: &'static str, detail: String },
}

impl DecodeError {
    /// What another version wrote, if that is why: the bytes came with a checksum that was right.
    pub fn foreign(&self) -> Option<Foreign> {
        match *self {
            Self::Version { found, .. } => Some(Foreign::Version { found, reads: FORMAT_VERSIONS }),
            Self::Kind { what, found, .. } => Some(Foreign::Kind { record: what, found, reads: FORMAT_VERSIONS }),
            Self::Truncated { .. } | Self::Invalid { .. } => None,
        }
    }
}

/// A reader over shared bytes; byte fields come out as slices of them, uncopied.
pub(super) struct Input<'a> {
    bytes: &'a mut Bytes,
    what: &'static str,
}

impl<'a> Input<'a> {
    /// Reads `bytes`; errors call the value `what`.
    pub(super) fn new(bytes: &'a mut Bytes, what: &'static str) -> Self {
        Self { bytes, what }
    }

    fn need(&self, bytes: usize) -> Result<(), DecodeError> {
        if self.bytes.len() < bytes { Err(DecodeError::Truncated { what: self.what }) } else { Ok(()) }
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.need(4)?;
        Ok(self.bytes.get_u32_le())
    }

    /// A fixed number of bytes, copied.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.need(N)?;
        let mut out = [0; N];
        self.bytes.copy_to_slice(&mut out);
        Ok(out)
    }

    /// A u32 length and as many bytes, shared.
    pub(super) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        self.need(length)?;
        Ok(self.bytes.split_to(length))
    }

    /// A u32 length and as many bytes of UTF-8.
    pub(super) fn text(&mut self) -> Result<String, DecodeError> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.invalid("text that is not UTF-8"))
    }

    /// A u32 count of items of at least `item_bytes` each: a count the rest cannot hold is refused before anything is
    /// reserved for it.
    pub(super) fn count(&mut self, item_bytes: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        self.need(count.saturating_mul(item_bytes))?;
        Ok(count)
    }

    /// An error for a value that cannot be.
    pub(super) fn invalid(&self, detail: impl Into<String>) -> DecodeError {
        DecodeError::Invalid { what: self.what, detail: detail.into() }
    }

    /// The version byte that starts a value; it must be one of `reads`.
    pub(super) fn version_in(&mut self, reads: Versions) -> Result<u32, DecodeError> {
        let found = self.u8()?.into();
        if reads.contains(found) {
            Ok(found)
        } else {
            Err(DecodeError::Version { what: self.what, found, known: reads.max })
        }
    }

    /// Takes what a value of this version has at its end.
    pub(super) fn trailer(&mut self, version: u32) -> Result<(), DecodeError> {
        let expected = trailer(version);
        self.need(expected.len())?;
        let found = self.bytes.split_to(expected.len());
        if found == expected { Ok(()) } else { Err(self.invalid(format!("it does not end as version {version} does"))) }
    }

    /// Checks that nothing is left.
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.invalid(format!("{} bytes too many", self.bytes.len()))) }
    }
}
