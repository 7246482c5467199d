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

/// Defines both conversions from one list: a field forgotten here, in the message or in the type does not compile.
macro_rules! same_fields {
    ($($field:ident),* $(,)?) => {
        impl From<Namespace> for common::Namespace {
            fn from(Namespace { $($field,)* salt }: Namespace) -> Self {
                Self { $($field,)* salt: salt.into() }
            }
        }

        impl From<common::Namespace> for Namespace {
            fn from(common::Namespace { $($field,)* salt }: common::Namespace) -> Self {
                Self { $($field,)* salt: salt.into() }
            }
        }
    };
}

same_fields! {
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
}

impl From<&Namespace> for common::Namespace {
    fn from(namespace: &Namespace) -> Self {
        namespace.clone().into()
    }
}

/// Parses and validates a namespace; the error's field starts with `namespace.`.
pub fn namespace_from_wire(message: Option<common::Namespace>) -> Result<Namespace, BadInput> {
    let message = message.ok_or_else(|| BadInput::new("namespace", "a value, got none"))?;
    let namespace = Namespace::from(message);
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
