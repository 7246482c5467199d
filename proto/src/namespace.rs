//! Namespaces: who may share pages, and how a page of theirs is laid out in a slot.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::BadInput;
use crate::limits::{NAMESPACE_TEXT_BYTES_MAX, PAGE_BYTES_MAX, PAGE_TOKENS_MAX, SHARD_ALIGN_BYTES, SHARDS_MAX};

/// Everything that must agree before one engine may read another's pages. Two namespaces that differ in any field share
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    pub tenant: String,
    pub model: String,
    /// The weights' revision, or the explicit word `static` for weights that never change under this name.
    pub revision: String,
    pub dtype: String,
    /// Order of a page's bytes: `page_first`, `page_first_direct`, `layer_first`, ...
    pub layout: String,
    /// Tag of the engine's storage format.
    pub storage_format: String,
    /// Tokens of one page.
    pub page_tokens: u32,
    /// Layers held: `layer_first .. layer_first + layer_count` (a pipeline stage).
    pub layer_first: u32,
    pub layer_count: u32,
    /// Context-parallel and decode-context-parallel rank and size (0 of 1: none).
    pub cp_rank: u32,
    pub cp_size: u32,
    pub dcp_rank: u32,
    pub dcp_size: u32,
    /// The rank group: tensor-parallel ranks `tp_first .. tp_first + tp_count` of `tp_size`.
    pub tp_first: u32,
    pub tp_count: u32,
    pub tp_size: u32,
    /// How heads are split over ranks, `none` when every rank holds all of them.
    pub head_split: String,
    /// Bytes of each shard of one page, in rank order.
    pub shard_bytes: Vec<u64>,
    /// `kv`, `indexer`, `mamba`, `draft`, ...
    pub pool: String,
    /// The draft model's identity; both empty when the pool has none.
    pub draft_model: String,
    pub draft_revision: String,
    /// Keeps apart what is otherwise equal. At most 256 bytes.
    #[serde(with = "hex::serde")]
    pub salt: Vec<u8>,
}

/// BLAKE3 of a namespace's canonical encoding: its identity in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Namespace {
    /// A plain single-tenant namespace with shards of these sizes: for the demo, tests and tools.
    pub fn simple(model: &str, page_tokens: u32, shard_bytes: Vec<u64>) -> Self {
        let shards = shard_bytes.len() as u32;
        Self {
            tenant: "default".into(),
            model: model.into(),
            revision: "static".into(),
            dtype: "bfloat16".into(),
            layout: "page_first".into(),
            storage_format: "raw".into(),
            page_tokens,
            layer_first: 0,
            layer_count: 1,
            cp_rank: 0,
            cp_size: 1,
            dcp_rank: 0,
            dcp_size: 1,
            tp_first: 0,
            tp_count: shards,
            tp_size: shards,
            head_split: "even".into(),
            shard_bytes,
            pool: "kv".into(),
            draft_model: String::new(),
            draft_revision: String::new(),
            salt: Vec::new(),
        }
    }

    /// Checks every field; the error names it.
    pub fn validate(&self) -> Result<(), BadInput> {
        self.validate_texts()?;
        self.validate_ranks()?;
        if self.page_tokens == 0 || self.page_tokens > PAGE_TOKENS_MAX {
            return Err(BadInput::new("page_tokens", format!("1 to {PAGE_TOKENS_MAX}, got {}", self.page_tokens)));
        }
        if self.shard_bytes.is_empty() || self.shard_bytes.len() > SHARDS_MAX {
            return Err(BadInput::new(
                "shard_bytes",
                format!("1 to {SHARDS_MAX} sizes, got {}", self.shard_bytes.len()),
            ));
        }
        if let Some(zero) = self.shard_bytes.iter().position(|bytes| *bytes == 0) {
            return Err(BadInput::new("shard_bytes", format!("positive sizes, shard {zero} has 0 bytes")));
        }
        let page = self.shard_bytes.iter().try_fold(0u64, |sum, bytes| sum.checked_add(*bytes));
        if page.is_none_or(|bytes| bytes > PAGE_BYTES_MAX) {
            return Err(BadInput::new(
                "shard_bytes",
                format!("a page of at most {PAGE_BYTES_MAX} bytes over all shards"),
            ));
        }
        Ok(())
    }

    fn validate_texts(&self) -> Result<(), BadInput> {
        let required = [
            ("tenant", &self.tenant),
            ("model", &self.model),
            ("revision", &self.revision),
            ("dtype", &self.dtype),
            ("layout", &self.layout),
            ("storage_format", &self.storage_format),
            ("head_split", &self.head_split),
            ("pool", &self.pool),
        ];
        let optional = [("draft_model", &self.draft_model), ("draft_revision", &self.draft_revision)];
        for (field, text) in required.into_iter().chain(optional) {
            if text.len() > NAMESPACE_TEXT_BYTES_MAX {
                let expected = format!("at most {NAMESPACE_TEXT_BYTES_MAX} bytes, got {}", text.len());
                return Err(BadInput::new(field, expected));
            }
        }
        for (field, text) in required {
            if text.is_empty() {
                let hint = if field == "revision" { " (a weights revision, or `static`)" } else { "" };
                return Err(BadInput::new(field, format!("a value, got none{hint}")));
            }
        }
        if self.salt.len() > NAMESPACE_TEXT_BYTES_MAX {
            let expected = format!("at most {NAMESPACE_TEXT_BYTES_MAX} bytes, got {}", self.salt.len());
            return Err(BadInput::new("salt", expected));
        }
        if self.draft_model.is_empty() != self.draft_revision.is_empty() {
            return Err(BadInput::new("draft_revision", "a value exactly when draft_model has one"));
        }
        Ok(())
    }

    fn validate_ranks(&self) -> Result<(), BadInput> {
        for (field, rank, size) in [("cp_rank", self.cp_rank, self.cp_size), ("dcp_rank", self.dcp_rank, self.dcp_size)]
        {
            if rank >= size {
                return Err(BadInput::new(field, format!("a rank below its size {size}, got {rank}")));
            }
        }
        if self.tp_count == 0 || u64::from(self.tp_first) + u64::from(self.tp_count) > u64::from(self.tp_size) {
            let expected = format!("tp_first + tp_count within tp_size {}, and at least one rank", self.tp_size);
            return Err(BadInput::new("tp_count", expected));
        }
        if self.layer_count == 0 {
            return Err(BadInput::new("layer_count", "at least one layer"));
        }
        Ok(())
    }

    /// Shards of one page.
    pub fn shards(&self) -> usize {
        self.shard_bytes.len()
    }

    /// How a page lies in a slot.
    pub fn geometry(&self) -> Geometry {
        Geometry::new(&self.shard_bytes)
    }

    /// The name under which a geometry is registered: everything but sizes. Two namespaces of one name and other sizes
    /// are a mistake.
    pub fn identity_without_geometry(&self) -> Fingerprint {
        let plain = Self { shard_bytes: Vec::new(), page_tokens: 0, ..self.clone() };
        plain.fingerprint()
    }

    /// BLAKE3 of the canonical encoding: the texts and the salt, then the numbers, then the shards' sizes, each group
    /// in declared order; a u64 little-endian length before each text and before the list.
    pub fn fingerprint(&self) -> Fingerprint {
        let Self {
            tenant,
            model,
            revision,
            dtype,
            layout,
            storage_format,
            page_tokens,
            layer_first,
            layer_count,
            cp_rank,
            cp_size,
            dcp_rank,
            dcp_size,
            tp_first,
            tp_count,
            tp_size,
            head_split,
            shard_bytes,
            pool,
            draft_model,
            draft_revision,
            salt,
        } = self;
        let mut hash = blake3::Hasher::new_derive_key("foreword 2026 namespace v1");
        let texts =
            [tenant, model, revision, dtype, layout, storage_format, head_split, pool, draft_model, draft_revision];
        for bytes in texts.into_iter().map(String::as_bytes).chain([&salt[..]]) {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        let numbers =
            [page_tokens, layer_first, layer_count, cp_rank, cp_size, dcp_rank, dcp_size, tp_first, tp_count, tp_size];
        for number in numbers {
            hash.update(&number.to_le_bytes());
        }
        hash.update(&(shard_bytes.len() as u64).to_le_bytes());
        for bytes in shard_bytes {
            hash.update(&bytes.to_le_bytes());
        }
        Fingerprint(*hash.finalize().as_bytes())
    }
}

/// Where each shard of a page lies within its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of each shard.
    pub shard_bytes: Vec<u64>,
    /// Offset of each shard: multiples of 4,096.
    pub shard_offsets: Vec<u64>,
    /// The sum of the strides: bytes a frame needs to hold the page.
    pub frame_bytes: u64,
}

impl Geometry {
    /// Lays shards of these sizes one after another, each at a multiple of 4,096.
    pub fn new(shard_bytes: &[u64]) -> Self {
        let mut offset = 0;
        let shard_offsets = shard_bytes
            .iter()
            .map(|bytes| {
                let start = offset;
                offset += bytes.next_multiple_of(SHARD_ALIGN_BYTES);
                start
            })
            .collect();
        Self { shard_bytes: shard_bytes.to_vec(), shard_offsets, frame_bytes: offset }
    }

    /// Shards of one page.
    pub fn shards(&self) -> usize {
        self.shard_bytes.len()
    }

    /// Bytes of a slot in a cluster with this chunk size.
    pub fn slot_bytes(&self, chunk_bytes: u32) -> u64 {
        self.frame_bytes.next_multiple_of(u64::from(chunk_bytes))
    }

    /// The byte range of one shard within the frame or slot.
    pub fn shard_range(&self, shard: usize) -> std::ops::Range<usize> {
        let start = self.shard_offsets[shard] as usize;
        start..start + self.shard_bytes[shard] as usize
    }
}
