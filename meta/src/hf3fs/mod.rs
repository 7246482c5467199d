//! What SGLang's hf3fs metadata clients ask over HTTP, and the leader's memory behind the answers.
//!
//! `exists` is answered from the state of any replica. Everything else is decided by the leader; a replica that does
//! not lead passes the call on. [`office`] is pure: what one leader knows of its own term, with time as an input.
//! [`leader`] is the thin part around it: look, decide, propose, confirm that this replica still leads.

pub mod answer;
pub mod body;
pub mod calls;
mod forward;
pub mod http;
pub mod leader;
mod measures;
pub mod office;
mod outcome;
mod path;
mod protections;
mod touches;

pub use answer::Answer;
pub use calls::Calls;
pub use forward::ForwardedCalls;
pub use leader::Leader;
pub use measures::PageFileGauges;

use bytes::Bytes;

/// What a client asks of a page file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Initialize,
    Exists,
    Reserve,
    Confirm,
    Delete,
    Clear,
    Get,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 7] =
        [Self::Initialize, Self::Exists, Self::Reserve, Self::Confirm, Self::Delete, Self::Clear, Self::Get];

    /// The last part of its URL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Exists => "exists",
            Self::Reserve => "reserve_and_allocate_page_indices",
            Self::Confirm => "confirm_write",
            Self::Delete => "delete_keys",
            Self::Clear => "clear",
            Self::Get => "get_page_indices",
        }
    }

    /// The operation of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }
}

/// A call as it came: its URL is read, its body is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The path of the client's base URL; empty where it has none.
    pub deployment: String,
    pub rank: i64,
    pub operation: Operation,
    pub body: Bytes,
}
