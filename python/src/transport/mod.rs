//! What carries the calls of an open namespace to its agent.

mod coverage;
mod grpc;
mod pieces;
mod session;

use foreword_proto::PageKey;
use tokio::time::Instant;

use crate::keys::Keys;
use crate::places::Places;

pub(crate) use grpc::Grpc;
pub(crate) use session::InSession;

/// Why a call did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection was closed here.
    Closed,
    /// No answer in time.
    Late,
    /// The agent has closed the namespace meanwhile: opened again, the call may be repeated.
    NotOpen,
    /// Anything else, in words.
    Said(String),
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Freshness {
    pub(crate) min_revision: u64,
    pub(crate) linearizable: bool,
}

/// One shard of some pages, and where it lies here.
#[derive(Clone, Copy)]
pub(crate) struct Shards<'a> {
    pub(crate) shard: u32,
    pub(crate) shard_bytes: usize,
    pub(crate) keys: &'a Keys,
    /// Of the caller; as many pages as keys at least, each as large as the shard.
    pub(crate) places: &'a Places,
    /// The place of the first key.
    pub(crate) first: usize,
}

/// What became of one page of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Outcome {
    /// The call failed, or the bytes were not taken.
    Failed = 0,
    Taken = 1,
    Published = 2,
    Exists = 3,
    /// The agent's policy does not want it.
    Declined = 4,
    /// No room, a full queue, a quota, or a page whose other shards did not come.
    Refused = 5,
}

/// A way to an agent. Each call is one of an open namespace, is made on the caller's thread, and is over by its
/// deadline. Memory of the caller is touched on that thread only, and so never after the call.
pub(crate) trait Transport: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Has calls of other threads come back.
    fn end(&self);

    /// Keys of one call at most.
    fn keys_max(&self) -> usize;

    /// Leading pages that the agent could deliver now.
    fn lookup(&self, namespace: u32, keys: &Keys, fresh: Freshness, deadline: Instant) -> Result<u32, Failure>;

    /// Where each page is: one byte a key, bit 0 L1, bit 1 L2, bit 2 L3.
    fn locate(&self, namespace: u32, keys: &Keys, deadline: Instant) -> Result<Vec<u8>, Failure>;

    /// Copies pages to their places, and notes in `hits` each that is there whole. Without `every_key` the first miss
    /// is the last.
    fn get(
        &self,
        namespace: u32,
        shards: Shards<'_>,
        every_key: bool,
        deadline: Instant,
        hits: &mut [bool],
    ) -> Result<(), Failure>;

    /// Offers pages, sends those that are wanted, and notes in `outcomes` what became of each. `parent` is the page
    /// before the first. The answer is why the first of them was refused that was, if the agent says it.
    fn put(
        &self,
        namespace: u32,
        shards: Shards<'_>,
        parent: Option<PageKey>,
        wait_published: bool,
        deadline: Instant,
        outcomes: &mut [Outcome],
    ) -> Result<Option<String>, Failure>;
}
