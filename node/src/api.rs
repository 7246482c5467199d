//! What an engine or a router can ask of its agent, whatever carries the bytes. gRPC is the first client of this trait.

use std::any::Any;
use std::sync::Arc;

use foreword_proto::namespace::Geometry;
use foreword_proto::status::AgentStatus;
use foreword_proto::{BadInput, Epoch, Namespace, NamespaceId, PageKey, PutOutcome, Revision, Tier};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::Status;

use crate::arena::Frame;

/// Why a call has no answer. A page that is not there is an answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    #[error("{0}")]
    BadInput(#[from] BadInput),
    #[error("namespace_id: expected a namespace opened on this agent, {0} is not one")]
    UnknownNamespace(NamespaceId),
    #[error("the metadata group refused: {0}")]
    Group(Status),
    #[error(
        "namespace: expected at most {0} on one agent, and its tenant to have no more than others; try again later"
    )]
    TooManyNamespaces(usize),
    #[error(
        "clear_tenants: expected to name tenant {0:?} in this agent's configuration: engines of others may not clear"
    )]
    MayNotClear(String),
}

/// An open namespace.
#[derive(Debug, Clone)]
pub struct Opened {
    pub namespace: NamespaceId,
    pub tenant: String,
    pub epoch: Epoch,
    /// What the mirror has.
    pub revision: Revision,
    pub geometry: Geometry,
    pub slot_bytes: u32,
    pub page_tokens: u32,
}

/// A longest-prefix question.
#[derive(Debug, Clone)]
pub struct LookupAsk {
    pub namespace: NamespaceId,
    pub keys: Vec<PageKey>,
    /// Wait until this revision is in the mirror.
    pub min_revision: Revision,
    /// Ask the group's leader for the newest revision first.
    pub linearizable: bool,
    /// When the call fails with `behind` unless the revision is there.
    pub deadline: Instant,
}

/// Leading pages this agent could deliver now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    pub pages: u32,
    pub revision: Revision,
    pub l1_pages: u32,
    pub l3_pages: u32,
}

/// Where each of some pages is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub revision: Revision,
    /// One byte a key: bit 0 L1, bit 1 L2, bit 2 L3.
    pub tiers: Vec<u8>,
}

/// Bits of [`Located::tiers`].
pub const LOCATED_L1: u8 = 1;
pub const LOCATED_L3: u8 = 4;

/// Pages to give, in the order of the keys.
#[derive(Debug, Clone)]
pub struct GetAsk {
    pub namespace: NamespaceId,
    pub keys: Vec<PageKey>,
    /// Read L3 even when a nearer tier has the page.
    pub bypass_cache: bool,
    /// Go on after a miss; else the first miss is the last answer.
    pub every_key: bool,
    /// Wait until what is known of a page is of this revision or a later one, whether it is there or not.
    pub min_revision: Revision,
    pub deadline: Instant,
}

/// Why a page was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    Absent,
    ReadFailed,
    Checksum,
    BreakerOpen,
    Deadline,
    NoRoom,
    /// The mirror did not reach the revision that was asked for in time.
    Behind,
}

impl Miss {
    /// The wire's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::ReadFailed => "read_failed",
            Self::Checksum => "checksum",
            Self::BreakerOpen => "breaker_open",
            Self::Deadline => "deadline",
            Self::NoRoom => "no_room",
            Self::Behind => "behind",
        }
    }
}

/// A page on its way to the caller: its bytes stay as they are while this lives.
#[derive(Debug)]
pub struct PageBytes {
    pub frame: Frame,
    /// What the page takes up, once for all its callers, until the last of them has the bytes.
    pub(crate) _charge: Arc<dyn Any + Send + Sync>,
}

/// One page of a get.
#[derive(Debug)]
pub struct PageAnswer {
    /// Index of its key.
    pub index: usize,
    pub page: Result<(PageBytes, Tier), Miss>,
    /// The mirror's revision when it was decided.
    pub revision: Revision,
}

/// One shard of some pages.
#[derive(Debug, Clone)]
pub struct PutAsk {
    pub namespace: NamespaceId,
    pub shard: u32,
    pub keys: Vec<PageKey>,
    /// The page before the first key.
    pub parent: Option<PageKey>,
    /// Finish when each page is published or refused; else when the agent has the bytes.
    pub wait_published: bool,
}

/// A cleared namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    pub epoch: Epoch,
    /// Nothing of before is given to who asks for this revision.
    pub revision: Revision,
}

/// Bytes that a put takes: this process's own, or memory that another process may write to meanwhile.
pub trait PieceBytes: Sync {
    fn len(&self) -> usize;
    /// Never a piece.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies those from `from` on; `to` is not longer than what is left.
    fn copy_to(&self, from: usize, to: &mut [u8]);
}

impl<T: AsRef<[u8]> + Sync> PieceBytes for T {
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn copy_to(&self, from: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.as_ref()[from..from + to.len()]);
    }
}

/// A put under way. Dropping it gives up the pages whose bytes did not come in whole.
pub trait PutCall: Send {
    /// Bytes of the page with this index, in order and without gaps within a page. Copied when the future is ready.
    ///
    /// Errors: bytes that do not continue the page or do not fit into the shard (field `pieces`). Pages already whole
    /// go on.
    fn piece<'a>(
        &'a mut self,
        index: usize,
        offset: u64,
        bytes: &'a dyn PieceBytes,
    ) -> BoxFuture<'a, Result<(), ApiError>>;

    /// No more bytes: one outcome a key, in order.
    ///
    /// Errors: a page of which only a part came (field `pieces`).
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Vec<PutOutcome>, ApiError>>;
}

/// The agent's API.
pub trait EngineApi: Send + Sync + 'static {
    /// Registers the namespace with the group, watches it, and waits for the first sync until the deadline. Each
    /// opening is to be closed once; one that nobody uses for an hour is closed all the same.
    fn open_namespace(&self, namespace: Namespace, deadline: Instant) -> BoxFuture<'_, Result<Opened, ApiError>>;
    /// Ends one opening. Nobody uses the namespace any more: it is closed after a minute, its pages stay.
    fn close_namespace(&self, namespace: NamespaceId) -> Result<(), ApiError>;
    /// An open namespace's shape; counts as a use.
    fn namespace(&self, namespace: NamespaceId) -> Result<Opened, ApiError>;
    /// The leading pages this agent could deliver now.
    fn lookup(&self, ask: LookupAsk) -> BoxFuture<'_, Result<Found, ApiError>>;
    /// The same, of what the mirror has now: waits for nothing.
    fn lookup_now(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<Found, ApiError>;
    /// Where pages are, for routers.
    fn locate(&self, ask: LookupAsk) -> BoxFuture<'_, Result<Located, ApiError>>;
    /// Pages in the order of their keys. Never wrong bytes: what did not verify is a miss.
    fn get(&self, ask: GetAsk) -> Result<BoxStream<'static, PageAnswer>, ApiError>;
    /// The leading ones of these pages that are in L1 and may be pinned, now: waits for nothing. The rest is
    /// [`Self::get`]'s.
    fn get_now(
        &self,
        namespace: NamespaceId,
        keys: &[PageKey],
        min_revision: Revision,
    ) -> Result<Vec<PageAnswer>, ApiError>;
    /// Which of these shards' bytes are wanted: one answer a key, in order. None: they are. Else what a put of them
    /// would be answered.
    fn wanted(&self, namespace: NamespaceId, shard: u32, keys: &[PageKey])
    -> Result<Vec<Option<PutOutcome>>, ApiError>;
    /// Begins to take one shard of some pages.
    fn put(&self, ask: PutAsk) -> Result<Box<dyn PutCall>, ApiError>;
    /// Begins to read pages into L1, as many as the window allows; answers with their number.
    fn prefetch(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<u32, ApiError>;
    /// Pages that will not be asked for after all.
    fn release(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<(), ApiError>;
    /// Takes all pages out of the index, for every agent; refused unless the configuration allows it to the tenant.
    /// When it is answered, this agent gives none of them any more, if it heard of it before the deadline.
    fn clear(&self, namespace: NamespaceId, deadline: Instant) -> BoxFuture<'_, Result<Cleared, ApiError>>;
    /// The agent about itself.
    fn stats(&self) -> AgentStatus;
}
