//! Why a command is refused: a value, not a fault.

use std::fmt;

use foreword_proto::limits::{
    HF3FS_DEPLOYMENT_BYTES_MAX, HF3FS_FILES_MAX, HF3FS_PAGES_MAX, HF3FS_POOL_BYTES_MAX, KEYS_MAX,
    NAMESPACE_TEXT_BYTES_MAX, NAMESPACES_MAX, PAGES_PER_PUBLISH_MAX, REPLICA_IDS_MAX, SESSIONS_MAX,
    SLOTS_PER_ABORT_MAX, SLOTS_PER_GRANT_MAX, SUSPECTS_PER_REPORT_MAX,
};
use foreword_proto::{DirectoryId, NamespaceId, Sequence, SessionId, SlabId};

use super::codec::{kinds, record};

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("session: expected an open session, {session} is not one (expired, closed or never opened)")]
    NoSession { session: SessionId },
    #[error("sequence: expected one of the session's last {window} commands, {sequence} is older")]
    SequenceTooOld { sequence: Sequence, window: u32 },
    #[error("namespace_id: expected a registered namespace, {namespace} is not one (dropped, or never registered)")]
    NoNamespace { namespace: NamespaceId },
    /// Registered before with other sizes.
    #[error("{}: expected what is registered as namespace {namespace}: {registered}", registered.field())]
    OtherGeometry { namespace: NamespaceId, registered: Registered },
    #[error("{}: expected {_0}", _0.field())]
    Invalid(Invalid),
    #[error("{}: expected at most {}", _0.field(), _0.most())]
    TooMany(Limit),
    /// Another agent's session stands under that name, or that of a later process on a copy of this agent's state
    /// directory; `running` and `refused` are the two endpoints.
    #[error(
        "node: expected a name of its own, {node} is the agent's at {running}; the one at {refused} is another, \
         or runs on a copy of its state directory, and is refused until that session ends"
    )]
    NameTaken { node: String, running: String, refused: String },
}

kinds!(Refusal, "refusal" {
    1 => NoSession { session },
    2 => SequenceTooOld { sequence, window },
    3 => NoNamespace { namespace },
    4 => OtherGeometry { namespace, registered },
    5 => Invalid(invalid),
    6 => TooMany(limit),
    7 => NameTaken { node, running, refused },
});

/// The geometry of a namespace that is registered under the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub page_tokens: u32,
    pub shard_bytes: Vec<u64>,
    /// The one refused has another `page_tokens`; else it has other `shard_bytes`.
    pub other_page_tokens: bool,
}

record!(Registered { page_tokens, shard_bytes, other_page_tokens });

impl Registered {
    /// The field that differs, as its owner wrote it.
    pub fn field(&self) -> &'static str {
        if self.other_page_tokens { "namespace.page_tokens" } else { "namespace.shard_bytes" }
    }
}

impl fmt::Display for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page_tokens {}, shard_bytes {:?}", self.page_tokens, self.shard_bytes)
    }
}

/// What a field of a command holds that it cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// `Namespace::validate` refuses it: whoever proposes it has said which of its fields.
    Namespace,
    Node {
        bytes: u32,
    },
    Endpoint {
        bytes: u32,
    },
    /// No registered namespace has slots of this size.
    SlotBytes {
        found: u64,
    },
    /// Not a whole number of records.
    Pages {
        bytes: u32,
        record_bytes: u32,
    },
    /// It is not there, or has a slot that is not free.
    Slab {
        slab: SlabId,
    },
    Deployment {
        found: String,
    },
    Pool {
        bytes: u32,
    },
    /// Pages of a page file.
    FilePages {
        found: u32,
    },
    /// The replica id belongs to another data directory, for ever.
    Directory {
        replica_id: u64,
        known: DirectoryId,
        found: DirectoryId,
    },
    /// A session that opens under the id of one that is open.
    Session {
        found: SessionId,
    },
}

kinds!(Invalid, "invalid field" {
    1 => Namespace,
    2 => Node { bytes },
    3 => Endpoint { bytes },
    4 => SlotBytes { found },
    5 => Pages { bytes, record_bytes },
    6 => Slab { slab },
    7 => Deployment { found },
    8 => Pool { bytes },
    9 => FilePages { found },
    10 => Directory { replica_id, known, found },
    11 => Session { found },
});

impl Invalid {
    /// The field, as its owner wrote it.
    pub fn field(&self) -> &'static str {
        match self {
            // SGLang's clients call a pool a namespace.
            Self::Namespace | Self::Pool { .. } => "namespace",
            Self::Node { .. } => "node",
            Self::Endpoint { .. } => "endpoint",
            Self::SlotBytes { .. } => "slot_bytes",
            Self::Pages { .. } => "pages",
            Self::Slab { .. } => "slabs",
            Self::Deployment { .. } => "deployment",
            Self::FilePages { .. } => "num_pages",
            Self::Directory { .. } => "directory",
            Self::Session { .. } => "session",
        }
    }
}

/// What was expected, and what was found.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace => write!(f, "one all of whose fields are within their limits"),
            Self::Node { bytes } => write!(f, "1 to {NAMESPACE_TEXT_BYTES_MAX} bytes, got {bytes}"),
            Self::Endpoint { bytes } => write!(f, "at most {NAMESPACE_TEXT_BYTES_MAX} bytes, got {bytes}"),
            Self::SlotBytes { found } => write!(f, "the slot size of a registered namespace, got {found}"),
            Self::Pages { bytes, record_bytes } => write!(f, "records of {record_bytes} bytes, got {bytes} bytes"),
            Self::Slab { slab } => write!(f, "slabs all of whose slots are free, {slab} is not one"),
            Self::Deployment { found } => write!(
                f,
                "at most {HF3FS_DEPLOYMENT_BYTES_MAX} letters, digits, '.', '_' and '-', and neither '.' nor '..', \
                 got {found:?}"
            ),
            Self::Pool { bytes } => write!(f, "1 to {HF3FS_POOL_BYTES_MAX} bytes, got {bytes}"),
            Self::FilePages { found } => write!(f, "1 to {HF3FS_PAGES_MAX}, got {found}"),
            Self::Directory { replica_id, known, found } => {
                write!(f, "{known}, to which replica id {replica_id} belongs for ever, got {found}")
            }
            Self::Session { found } => write!(f, "an id that no open session has, {found} is one's"),
        }
    }
}

/// What there is a most of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Namespaces,
    /// Ids of namespaces, for life: none is given out twice.
    NamespaceIds,
    /// Clears of all namespaces, for life: each takes the id of a table.
    Clears,
    Sessions,
    /// Slots of one grant.
    GrantedSlots,
    /// Pages of one publish.
    PublishedPages,
    /// Slots of one abort.
    AbortedSlots,
    /// Keys of one delete.
    DeletedKeys,
    /// Pages of one report.
    Suspects,
    /// Those that were dropped lately included: their pages still rest.
    PageFiles,
    /// Numbers of page files, for life.
    PageFileIds,
    /// Replica ids that were ever a member's.
    ReplicaIds,
}

kinds!(Limit, "limit" {
    1 => Namespaces,
    2 => Clears,
    3 => Sessions,
    4 => GrantedSlots,
    5 => PublishedPages,
    6 => AbortedSlots,
    7 => DeletedKeys,
    8 => Suspects,
    9 => PageFiles,
    10 => ReplicaIds,
    11 => NamespaceIds,
    12 => PageFileIds,
});

impl Limit {
    /// The field that holds more, or what there would be more of.
    pub fn field(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::NamespaceIds => "namespaces ever registered",
            Self::Clears => "clears",
            Self::Sessions => "sessions",
            Self::GrantedSlots => "slots",
            Self::PublishedPages => "pages",
            Self::AbortedSlots => "unwritten and unknown",
            Self::DeletedKeys => "keys",
            Self::Suspects => "suspects",
            Self::PageFiles => "page files",
            Self::PageFileIds => "page files ever made",
            Self::ReplicaIds => "replica_id",
        }
    }

    /// How many there may be.
    pub fn most(self) -> u64 {
        match self {
            Self::Namespaces => NAMESPACES_MAX as u64,
            Self::Clears | Self::NamespaceIds | Self::PageFileIds => u32::MAX.into(),
            Self::Sessions => SESSIONS_MAX as u64,
            Self::GrantedSlots => SLOTS_PER_GRANT_MAX.into(),
            Self::PublishedPages => PAGES_PER_PUBLISH_MAX as u64,
            Self::AbortedSlots => SLOTS_PER_ABORT_MAX as u64,
            Self::DeletedKeys => KEYS_MAX as u64,
            Self::Suspects => SUSPECTS_PER_REPORT_MAX as u64,
            Self::PageFiles => HF3FS_FILES_MAX as u64,
            Self::ReplicaIds => REPLICA_IDS_MAX as u64,
        }
    }
}
