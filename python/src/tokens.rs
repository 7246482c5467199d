//! Prompts as Python writes them, and the keys of their pages.

use foreword_proto::chain::{Algorithm, Chain, TokenIds, Unit};
use foreword_proto::{BadInput, PageKey};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::exported::Exported;
use crate::spec::refused;

/// A prompt, and the chain that makes keys of it.
pub(crate) struct Prompt {
    chain: Chain,
    tokens: TokenIds,
}

impl Prompt {
    /// `tokens`: a sequence of int, or memory of uint32, int32, int64 or uint64.
    ///
    /// Errors: TypeError, or ValueError naming `tokens`, `seed`, `unit` or `algorithm`.
    pub(crate) fn parse(tokens: &Bound<'_, PyAny>, seed: Option<&[u8]>, unit: &str, algorithm: &str) -> PyResult<Self> {
        let unit = match unit {
            "token" => Unit::Token,
            "bigram" => Unit::Bigram,
            other => return Err(refused(BadInput::new("unit", format!("\"token\" or \"bigram\", got {other:?}")))),
        };
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "blake3" => Algorithm::Blake3,
            other => {
                return Err(refused(BadInput::new("algorithm", format!("\"sha256\" or \"blake3\", got {other:?}"))));
            }
        };
        let whole = |seed: &[u8]| {
            let seed = <[u8; 32]>::try_from(seed);
            seed.map_err(|_| refused(BadInput::new("seed", "None or 32 bytes")))
        };
        let seed = seed.map(whole).transpose()?;
        Ok(Self { chain: Chain { algorithm, unit, seed }, tokens: token_ids(tokens)? })
    }

    /// Keys of the whole pages. Costs about 1 ms for 100,000 tokens.
    pub(crate) fn keys(&self, page_tokens: u32) -> Result<Vec<PageKey>, BadInput> {
        self.chain.page_keys(&self.tokens, page_tokens)
    }
}

fn token_ids(tokens: &Bound<'_, PyAny>) -> PyResult<TokenIds> {
    if let Ok(memory) = Exported::of("tokens", tokens) {
        return from_memory(&memory);
    }
    if let Ok(ids) = tokens.extract::<Vec<u32>>() {
        return Ok(TokenIds::Narrow(ids));
    }
    let expected = |error: PyErr| PyTypeError::new_err(format!("tokens: expected ints, 0 or more: {error}"));
    Ok(TokenIds::Wide(tokens.extract::<Vec<u64>>().map_err(expected)?))
}

fn from_memory(memory: &Exported) -> PyResult<TokenIds> {
    let count = memory.bytes() / memory.item_bytes().max(1);
    let ids = match (memory.format(), memory.item_bytes()) {
        ("i" | "I" | "l" | "L", 4) => TokenIds::Narrow(read(memory, count)),
        ("q" | "Q" | "l" | "L", 8) => TokenIds::Wide(read(memory, count)),
        (format, bytes) => {
            let got = format!("{bytes} bytes of format {format:?}");
            return Err(PyTypeError::new_err(format!("tokens: expected ints of 32 or 64 bits, got {got}")));
        }
    };
    // Signed ones below 0 have their highest bit set.
    let negative = match (&ids, memory.format()) {
        (TokenIds::Narrow(ids), "i" | "l") => ids.iter().position(|id| *id > i32::MAX as u32),
        (TokenIds::Wide(ids), "q" | "l") => ids.iter().position(|id| *id > i64::MAX as u64),
        _ => None,
    };
    match negative {
        None => Ok(ids),
        Some(at) => Err(refused(BadInput::new(format!("tokens[{at}]"), "0 or more"))),
    }
}

fn read<T: Copy>(memory: &Exported, count: usize) -> Vec<T> {
    let first = memory.address() as *const T;
    // SAFETY: the memory is exported to us, with so many members of this size; they are read one by one, aligned or
    // not.
    (0..count).map(|at| unsafe { first.add(at).read_unaligned() }).collect()
}
