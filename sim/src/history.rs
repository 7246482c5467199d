//! What clients of a simulation did and saw: the input of the checks.
//!
//! Append-only. A finished call is appended at the moment it returns, so that records are in the order of their returns; calls
//! whose outcome was never known are appended at the end. Each check keeps its own cursor into the lists.

use std::sync::Arc;

use foreword_proto::records::{EntryEvents, PageRecord};
use foreword_proto::{Epoch, Fingerprint, NamespaceId, PageKey, Revision};
use parking_lot::Mutex;

use crate::world::context::SimTime;

/// The history that clients write and checks read.
pub type SharedHistory = Arc<Mutex<History>>;

/// One call of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The caller; a client that starts over keeps its number.
    pub client: u32,
    /// The agent it went through; none for a call to a replica.
    pub agent: Option<u32>,
    /// Which life of that agent's process.
    pub agent_incarnation: u64,
    pub invoked: SimTime,
    /// None: no answer came; the call may have taken effect at any time after `invoked`, or never.
    pub returned: Option<SimTime>,
    pub call: Call,
    pub result: Outcome,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Pages put with the wish to hear of their publish; `epoch` is the one the client knew.
    Publish {
        namespace: NamespaceId,
        epoch: Epoch,
        keys: Vec<PageKey>,
    },
    Lookup {
        namespace: NamespaceId,
        keys: Vec<PageKey>,
        min_revision: Revision,
        linearizable: bool,
        at: Target,
    },
    Get {
        namespace: NamespaceId,
        keys: Vec<PageKey>,
    },
    Clear {
        namespace: NamespaceId,
    },
    Delete {
        namespace: NamespaceId,
        keys: Vec<PageKey>,
    },
    OpenNamespace {
        fingerprint: Fingerprint,
    },
}

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The agent of the record.
    Agent,
    /// A replica, by id.
    Replica(u64),
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No answer came.
    Unknown,
    /// An error that says that nothing was done, or that nothing could be said.
    Failed(String),
    /// One outcome a key.
    Published {
        outcomes: Vec<PagePut>,
    },
    /// `pages` leading keys were found; a replica that was asked for every key also says which are present.
    Found {
        pages: u32,
        revision: Revision,
        present: Option<Vec<bool>>,
    },
    /// One answer a key, up to the last that came.
    Got {
        pages: Vec<GotPage>,
    },
    Cleared {
        revision: Revision,
        epoch: Epoch,
    },
    Deleted {
        revision: Revision,
    },
    Opened {
        namespace: NamespaceId,
        epoch: Epoch,
        revision: Revision,
    },
}

/// What became of one page of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagePut {
    /// Of `Published` and `Exists`; 0 for the others.
    pub revision: Revision,
    pub outcome: PutResult,
}

/// How a page's publish ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutResult {
    /// The page is in the index since this revision.
    Published,
    /// The page was there already, and present at this revision.
    Exists,
    /// The agent goes on by itself; nothing is promised.
    Taken,
    /// Not published as far as is known, and why.
    Refused(String),
}

/// One page of a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GotPage {
    pub key: PageKey,
    pub hit: bool,
    /// 1 for L1, 3 for L3; 0 for a miss.
    pub tier: u8,
    pub revision: Revision,
    /// Why it was a miss.
    pub reason: String,
    /// The nonce of each shard's writer, in rank order; Err: the shard and byte that is wrong.
    pub shards: Result<Vec<u64>, String>,
}

/// A frame of a watch stream, as a client read it from a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// One number a stream: a client that reconnects goes on under a new one.
    pub stream: u64,
    pub namespace: NamespaceId,
    pub at: SimTime,
    pub frame: WatchFrame,
}

/// What a frame said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchFrame {
    /// The stream goes on after this revision, as was asked, without a snapshot.
    Resumed {
        epoch: Epoch,
        revision: Revision,
    },
    SnapshotBegin {
        epoch: Epoch,
        revision: Revision,
    },
    SnapshotPart {
        pages: Vec<PageRecord>,
    },
    SnapshotEnd {
        revision: Revision,
    },
    /// Everything up to `revision` that concerns the namespace and was not told before.
    Events {
        revision: Revision,
        entries: Vec<EntryEvents>,
    },
    /// The stream ends and a new one must begin.
    Resync,
}

/// Everything clients did and saw.
#[derive(Debug, Default)]
pub struct History {
    /// Calls, in the order of their returns; those without an answer at the end.
    pub records: Vec<Record>,
    /// Frames of watch streams, in the order in which they were read.
    pub watched: Vec<Watched>,
}

impl History {
    /// An empty history to share.
    pub fn shared() -> SharedHistory {
        Arc::new(Mutex::new(Self::default()))
    }
}
