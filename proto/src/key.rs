//! Page keys: 32 bytes at the edge, 16 inside.

use std::fmt;

use crate::BadInput;
use crate::limits::PAGE_KEY_BYTES;

/// Key of one page: the digest of its prefix chain, or of an opaque key. 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PageKey(pub [u8; 32]);

/// What the index stores of a [`PageKey`]: its first 16 bytes. Unique only within one namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct EntryKey(pub [u8; 16]);

/// The first 8 bytes of a parent's key, 0 for none: enough for a hint.
pub type ParentHint = u64;

impl PageKey {
    /// A key for a caller's own name of a page: BLAKE3 of its bytes.
    pub fn opaque(name: &[u8]) -> Self {
        Self(*blake3::hash(name).as_bytes())
    }

    /// The index's key for this page.
    pub fn entry(&self) -> EntryKey {
        EntryKey(std::array::from_fn(|i| self.0[i]))
    }
}

impl EntryKey {
    /// The key of a page file's page, by the name that its engine gave it: XXH3-128 of it.
    ///
    /// Not a cryptographic hash: whoever can send a name can confirm any page under it anyway, so a forged one gains
    /// nothing.
    pub fn named(name: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(name).to_le_bytes())
    }

    /// What a child's record says of this page as its parent. Never 0.
    pub fn parent_hint(&self) -> ParentHint {
        self.prefix().max(1)
    }

    /// The first 8 bytes, little-endian: uniformly distributed, since keys are digests.
    pub fn prefix(&self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|i| self.0[i]))
    }
}

/// Parses a wire field of concatenated 32-byte page keys.
///
/// Errors: a length that is no multiple of 32, or more than `keys_max` keys.
pub fn page_keys_from_wire(field: &str, bytes: &[u8], keys_max: usize) -> Result<Vec<PageKey>, BadInput> {
    let (chunks, rest) = bytes.as_chunks::<PAGE_KEY_BYTES>();
    if !rest.is_empty() {
        return Err(BadInput::new(field, format!("a multiple of {PAGE_KEY_BYTES} bytes, got {}", bytes.len())));
    }
    if chunks.len() > keys_max {
        return Err(BadInput::new(field, format!("at most {keys_max} keys, got {}", chunks.len())));
    }
    Ok(chunks.iter().copied().map(PageKey).collect())
}

/// Concatenates page keys into one wire field.
pub fn page_keys_to_wire(keys: &[PageKey]) -> bytes::Bytes {
    let mut out = Vec::with_capacity(keys.len() * PAGE_KEY_BYTES);
    for key in keys {
        out.extend_from_slice(&key.0);
    }
    out.into()
}

impl fmt::Debug for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageKey({})", hex::encode(self.0))
    }
}

impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryKey({})", hex::encode(self.0))
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for PageKey {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| BadInput::new("key", format!("64 hexadecimal digits, got {text:?}")))?;
        Ok(Self(bytes))
    }
}
