//! Token ids and how a page of them is encoded.

use super::Unit;
use crate::BadInput;

/// Largest token id: SGLang's are non-negative i64.
const TOKEN_ID_MAX: u64 = i64::MAX as u64;
/// Stands before the u64 words of a page with an id above u32: an odd number of bytes is never a page of u32 words.
const WIDE_TAG: u8 = 0xff;

/// The token ids of a prompt, in order. Which of the two holds them makes no difference to any key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenIds {
    Narrow(Vec<u32>),
    /// For prompts with ids above u32 (at most 2^63 - 1).
    Wide(Vec<u64>),
}

impl TokenIds {
    /// Tokens of the prompt.
    pub fn len(&self) -> usize {
        match self {
            Self::Narrow(ids) => ids.len(),
            Self::Wide(ids) => ids.len(),
        }
    }

    /// True for a prompt without tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn validate(&self) -> Result<(), BadInput> {
        let Self::Wide(ids) = self else { return Ok(()) };
        match ids.iter().position(|id| *id > TOKEN_ID_MAX) {
            None => Ok(()),
            Some(at) => {
                Err(BadInput::new("token_ids", format!("ids of at most {TOKEN_ID_MAX}, token {at} is {}", ids[at])))
            }
        }
    }

    /// Writes the bytes that page `index` is hashed from into `out`; the page must be whole.
    pub(super) fn encode_page(&self, unit: Unit, index: usize, page_tokens: usize, out: &mut Vec<u8>) {
        let overlap = usize::from(unit == Unit::Bigram);
        let range = index * page_tokens..(index + 1) * page_tokens + overlap;
        out.clear();
        match self {
            Self::Narrow(ids) => put_words(&ids[range], unit, u32::to_le_bytes, out),
            Self::Wide(ids) => {
                let ids = &ids[range];
                if ids.iter().all(|id| *id <= u64::from(u32::MAX)) {
                    put_words(ids, unit, |id| (id as u32).to_le_bytes(), out);
                } else {
                    out.push(WIDE_TAG);
                    put_words(ids, unit, u64::to_le_bytes, out);
                }
            }
        }
    }
}

fn put_words<T: Copy, const N: usize>(ids: &[T], unit: Unit, bytes: impl Fn(T) -> [u8; N], out: &mut Vec<u8>) {
    match unit {
        Unit::Token => ids.iter().for_each(|id| out.extend_from_slice(&bytes(*id))),
        Unit::Bigram => {
            for [first, second] in ids.array_windows::<2>() {
                out.extend_from_slice(&bytes(*first));
                out.extend_from_slice(&bytes(*second));
            }
        }
    }
}
