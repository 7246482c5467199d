//! Prompts on the wire, and the two ways of a caller to say which pages it means.

use bytes::Bytes;

use super::{Algorithm, Chain, TokenIds, Unit};
use crate::key::page_keys_from_wire;
use crate::limits::{KEYS_MAX, TOKEN_IDS_BYTES_MAX};
use crate::wire::common;
use crate::{BadInput, PageKey};

/// A prompt as tokens, with the chain that makes keys of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub chain: Chain,
    pub tokens: TokenIds,
}

impl Prompt {
    /// Parses a prompt. Errors name `tokens.algorithm`, `tokens.unit`, `tokens.seed` or `tokens.token_ids`.
    pub fn from_wire(message: &common::Tokens) -> Result<Self, BadInput> {
        Self::parse(message).map_err(|error| error.within("tokens"))
    }

    fn parse(message: &common::Tokens) -> Result<Self, BadInput> {
        let chain = Chain {
            algorithm: algorithm_from_wire(message.algorithm)?,
            unit: unit_from_wire(message.unit)?,
            seed: seed_from_wire(&message.seed)?,
        };
        let tokens = if message.wide {
            TokenIds::Wide(ids_from_wire(&message.token_ids)?.map(|id| u64::from_le_bytes(*id)).collect())
        } else {
            TokenIds::Narrow(ids_from_wire(&message.token_ids)?.map(|id| u32::from_le_bytes(*id)).collect())
        };
        tokens.validate()?;
        Ok(Self { chain, tokens })
    }

    /// The message that [`Self::from_wire`] reads.
    pub fn to_wire(&self) -> common::Tokens {
        let algorithm = match self.chain.algorithm {
            Algorithm::Sha256 => common::ChainAlgorithm::Sha256,
            Algorithm::Blake3 => common::ChainAlgorithm::Blake3,
        };
        let unit = match self.chain.unit {
            Unit::Token => common::ChainUnit::Token,
            Unit::Bigram => common::ChainUnit::Bigram,
        };
        let (token_ids, wide): (Vec<u8>, bool) = match &self.tokens {
            TokenIds::Narrow(ids) => (ids.iter().flat_map(|id| id.to_le_bytes()).collect(), false),
            TokenIds::Wide(ids) => (ids.iter().flat_map(|id| id.to_le_bytes()).collect(), true),
        };
        common::Tokens {
            algorithm: algorithm.into(),
            unit: unit.into(),
            seed: self.chain.seed.map_or_else(Bytes::new, |seed| Bytes::copy_from_slice(&seed)),
            token_ids: token_ids.into(),
            wide,
        }
    }

    /// Keys of the prompt's whole pages. Errors name `tokens.token_ids` (more than [`KEYS_MAX`] pages) or
    /// `page_tokens`.
    pub fn page_keys(&self, page_tokens: u32) -> Result<Vec<PageKey>, BadInput> {
        let pages = self.chain.pages(&self.tokens, page_tokens);
        if pages > KEYS_MAX {
            let expected = format!("at most {KEYS_MAX} pages of {page_tokens} tokens, got {pages}");
            return Err(BadInput::new("tokens.token_ids", expected));
        }
        self.chain.page_keys(&self.tokens, page_tokens)
    }
}

/// The pages a request asks for: its `keys`, or those of its `tokens` in a namespace with pages of `page_tokens`.
///
/// Errors name `tokens` (when both are there), `keys`, or what [`Prompt`] names.
pub fn asked_keys(keys: &[u8], tokens: Option<&common::Tokens>, page_tokens: u32) -> Result<Vec<PageKey>, BadInput> {
    match tokens {
        None => page_keys_from_wire("keys", keys, KEYS_MAX),
        Some(_) if !keys.is_empty() => Err(BadInput::new("tokens", "nothing when keys are given")),
        Some(tokens) => Prompt::from_wire(tokens)?.page_keys(page_tokens),
    }
}

fn algorithm_from_wire(number: i32) -> Result<Algorithm, BadInput> {
    match common::ChainAlgorithm::try_from(number) {
        Ok(common::ChainAlgorithm::Sha256) => Ok(Algorithm::Sha256),
        Ok(common::ChainAlgorithm::Blake3) => Ok(Algorithm::Blake3),
        Ok(common::ChainAlgorithm::Unspecified) | Err(_) => {
            Err(BadInput::new("algorithm", format!("1 (sha256) or 2 (blake3), got {number}")))
        }
    }
}

fn unit_from_wire(number: i32) -> Result<Unit, BadInput> {
    match common::ChainUnit::try_from(number) {
        Ok(common::ChainUnit::Token) => Ok(Unit::Token),
        Ok(common::ChainUnit::Bigram) => Ok(Unit::Bigram),
        Ok(common::ChainUnit::Unspecified) | Err(_) => {
            Err(BadInput::new("unit", format!("1 (token) or 2 (bigram), got {number}")))
        }
    }
}

fn seed_from_wire(seed: &[u8]) -> Result<Option<[u8; 32]>, BadInput> {
    if seed.is_empty() {
        return Ok(None);
    }
    let whole = seed.try_into().map_err(|_| BadInput::new("seed", format!("none or 32 bytes, got {}", seed.len())))?;
    Ok(Some(whole))
}

/// Cuts the field into ids of N bytes.
fn ids_from_wire<const N: usize>(bytes: &[u8]) -> Result<impl Iterator<Item = &[u8; N]>, BadInput> {
    let (ids, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(BadInput::new("token_ids", format!("a multiple of {N} bytes, got {}", bytes.len())));
    }
    if bytes.len() > TOKEN_IDS_BYTES_MAX {
        let tokens_max = TOKEN_IDS_BYTES_MAX / N;
        return Err(BadInput::new("token_ids", format!("at most {tokens_max} ids of {N} bytes, got {}", ids.len())));
    }
    Ok(ids.iter())
}
