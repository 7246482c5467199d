//! Generated messages, and the conversions at which they stop.

/// `foreword.common.v1`
#[allow(clippy::all, unreachable_pub)]
pub mod common {
    tonic::include_proto!("foreword.common.v1");
}
/// `foreword.meta.v1`
#[allow(clippy::all, unreachable_pub)]
pub mod meta {
    tonic::include_proto!("foreword.meta.v1");
}
/// `foreword.raft.v1`
#[allow(clippy::all, unreachable_pub)]
pub mod raft {
    tonic::include_proto!("foreword.raft.v1");
}
/// `foreword.page_files.v1`
#[allow(clippy::all, unreachable_pub)]
pub mod page_files {
    tonic::include_proto!("foreword.page_files.v1");
}
/// `foreword.node.v1`
#[allow(clippy::all, unreachable_pub)]
pub mod node {
    tonic::include_proto!("foreword.node.v1");
}

use crate::{BadInput, Namespace, Tier};

impl From<&Namespace> for common::Namespace {
    fn from(n: &Namespace) -> Self {
        Self {
            tenant: n.tenant.clone(),
            model: n.model.clone(),
            revision: n.revision.clone(),
            dtype: n.dtype.clone(),
            layout: n.layout.clone(),
            storage_format: n.storage_format.clone(),
            page_tokens: n.page_tokens,
            layer_first: n.layer_first,
            layer_count: n.layer_count,
            cp_rank: n.cp_rank,
            cp_size: n.cp_size,
            dcp_rank: n.dcp_rank,
            dcp_size: n.dcp_size,
            tp_first: n.tp_first,
            tp_count: n.tp_count,
            tp_size: n.tp_size,
            head_split: n.head_split.clone(),
            shard_bytes: n.shard_bytes.clone(),
            pool: n.pool.clone(),
            draft_model: n.draft_model.clone(),
            draft_revision: n.draft_revision.clone(),
            salt: n.salt.clone().into(),
        }
    }
}

/// Parses and validates a namespace; the error's field starts with `namespace.`.
pub fn namespace_from_wire(message: Option<common::Namespace>) -> Result<Namespace, BadInput> {
    let m = message.ok_or_else(|| BadInput::new("namespace", "a value, got none"))?;
    let namespace = Namespace {
        tenant: m.tenant,
        model: m.model,
        revision: m.revision,
        dtype: m.dtype,
        layout: m.layout,
        storage_format: m.storage_format,
        page_tokens: m.page_tokens,
        layer_first: m.layer_first,
        layer_count: m.layer_count,
        cp_rank: m.cp_rank,
        cp_size: m.cp_size,
        dcp_rank: m.dcp_rank,
        dcp_size: m.dcp_size,
        tp_first: m.tp_first,
        tp_count: m.tp_count,
        tp_size: m.tp_size,
        head_split: m.head_split,
        shard_bytes: m.shard_bytes,
        pool: m.pool,
        draft_model: m.draft_model,
        draft_revision: m.draft_revision,
        salt: m.salt.into(),
    };
    namespace.validate().map_err(|error| error.within("namespace"))?;
    Ok(namespace)
}

impl From<Tier> for node::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::L1 => Self::L1,
            Tier::L2 => Self::L2,
            Tier::L3 => Self::L3,
        }
    }
}
