//! Prefix chains: from a prompt's tokens to the keys of its pages.
//!
//! A page's key is a digest over its tokens and the key before it, so equal keys mean equal prompts up to there:
//!
//! ```text
//! seed ──┐
//! page 0 ┴─► digest 0 ──┐            page i: its units, each a token or an overlapping pair (EAGLE), as u32 words,
//!              page 1 ──┴─► digest 1         or, if an id does not fit u32, one byte 0xff and u64 words; little-endian
//! ```
//!
//! `sha256` is what SGLang 0.5.23 computes, bit for bit (`hash_binding.cpp`, `utils.py`, `radix_cache.py`):
//! tests/it/chains.rs compares with vectors made by SGLang's own code. `blake3` is ours, for callers that choose their
//! keys themselves; at 64 tokens a page the two cost the same where the CPU has SHA instructions (docs/PERFORMANCE.md).
//! Only whole pages have keys; a pair belongs to the page of its first token, so a page of bigrams is complete one
//! token later.

mod tokens;
mod wire;

use sha2::{Digest, Sha256};

pub use tokens::TokenIds;
pub use wire::{Prompt, asked_keys};

use crate::limits::PAGE_TOKENS_MAX;
use crate::{BadInput, PageKey};

/// The digest of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SGLang's.
    Sha256,
    /// Ours: BLAKE3 keyed by the digest before.
    Blake3,
}

/// What a page counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    Token,
    /// Overlapping pairs, as EAGLE's draft model sees a prompt: n tokens are n - 1 pairs.
    Bigram,
}

/// How a prompt becomes page keys. All of it must agree between those who share pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain {
    pub algorithm: Algorithm,
    pub unit: Unit,
    /// Keeps apart prompts that are otherwise equal ([`sglang_seed`]); stands where the first page's parent would.
    pub seed: Option<[u8; 32]>,
}

impl Chain {
    /// SGLang's chain over tokens, without a seed.
    pub const SGLANG: Self = Self { algorithm: Algorithm::Sha256, unit: Unit::Token, seed: None };

    /// Keys of the whole pages of a prompt, in order. Tokens after the last whole page are left out.
    ///
    /// Errors: `page_tokens` outside 1 to [`PAGE_TOKENS_MAX`], a token id above 2^63 - 1 (`token_ids`).
    pub fn page_keys(&self, tokens: &TokenIds, page_tokens: u32) -> Result<Vec<PageKey>, BadInput> {
        self.page_keys_after(None, tokens, page_tokens)
    }

    /// Keys of the whole pages that follow the page `parent`; `tokens` begin with the first token after it (for
    /// bigrams: with the first token of the first pair after it, which the last pair before ends with). None: the
    /// prompt begins here.
    ///
    /// Errors: as [`Self::page_keys`].
    pub fn page_keys_after(
        &self,
        parent: Option<PageKey>,
        tokens: &TokenIds,
        page_tokens: u32,
    ) -> Result<Vec<PageKey>, BadInput> {
        if page_tokens == 0 || page_tokens > PAGE_TOKENS_MAX {
            return Err(BadInput::new("page_tokens", format!("1 to {PAGE_TOKENS_MAX}, got {page_tokens}")));
        }
        tokens.validate()?;
        let mut digest = parent.map(|key| key.0).or_else(|| self.root());
        let mut page = Vec::new();
        let keys = (0..self.pages(tokens, page_tokens)).map(|index| {
            tokens.encode_page(self.unit, index, page_tokens as usize, &mut page);
            let next = self.step(digest.as_ref(), &page);
            digest = Some(next);
            PageKey(next)
        });
        Ok(keys.collect())
    }

    /// Whole pages of a prompt.
    pub fn pages(&self, tokens: &TokenIds, page_tokens: u32) -> usize {
        let units = match self.unit {
            Unit::Token => tokens.len(),
            Unit::Bigram => tokens.len().saturating_sub(1),
        };
        units.checked_div(page_tokens as usize).unwrap_or(0)
    }

    /// What stands before the first page.
    fn root(&self) -> Option<[u8; 32]> {
        let context = match (self.algorithm, self.unit) {
            (Algorithm::Sha256, _) => return self.seed,
            (Algorithm::Blake3, Unit::Token) => "foreword 2026 prefix chain of tokens v1",
            (Algorithm::Blake3, Unit::Bigram) => "foreword 2026 prefix chain of bigrams v1",
        };
        Some(blake3::derive_key(context, self.seed.as_ref().map_or(&[], |seed| seed.as_slice())))
    }

    fn step(&self, before: Option<&[u8; 32]>, page: &[u8]) -> [u8; 32] {
        match self.algorithm {
            Algorithm::Sha256 => {
                let mut hash = Sha256::new();
                if let Some(before) = before {
                    hash.update(before);
                }
                hash.update(page);
                hash.finalize().into()
            }
            Algorithm::Blake3 => *blake3::keyed_hash(before.unwrap_or(&[0; 32]), page).as_bytes(),
        }
    }
}

/// The seed that SGLang's storage chains have under an `extra_key` (LoRA, caller's) and a `cache_salt`; none without
/// both.
///
/// SGLang's radix cache takes an empty `cache_salt` for none before it comes here; an empty `extra_key` stays one.
/// Source: `storage_namespace_seed` in SGLang's utils.py.
pub fn sglang_seed(extra_key: Option<&str>, cache_salt: Option<&str>) -> Option<[u8; 32]> {
    if extra_key.is_none() && cache_salt.is_none() {
        return None;
    }
    let mut hash = Sha256::new_with_prefix("sglang-cache-namespace-v1");
    for part in [extra_key, cache_salt] {
        match part {
            None => hash.update([0]),
            Some(text) => {
                hash.update([1]);
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
        }
    }
    Some(hash.finalize().into())
}
