//! The engine's side: [`Session`] and its calls.
//!
//! A call lasts no longer than its deadline, and after it has returned, for any reason, nobody touches the memory that
//! it was given: bytes are copied by the calling thread, or by threads that end within the call. A session that has
//! ended answers every call with [`CallError::Ended`]; the caller opens another. A forked child has no part in its
//! parent's sessions.

mod clock;
mod copy;
mod fork;
mod get;
mod keeper;
mod lookup;
mod put;
mod segments;
mod slots;
mod staging;

use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::wire::ops::{MissCode, PutCode, Status};

pub use clock::Deadline;
use keeper::Line;
use segments::Segments;
use slots::Slots;
use staging::Staging;

/// Where pages lie in the caller's memory: each is some parts, one after the other.
///
/// # Safety
/// For as long as a call is given it, what [`Self::part`] names is readable (put) or writable (get) memory that nobody
/// else touches.
pub unsafe trait PageMemory: Sync {
    /// Parts of each page.
    fn parts(&self) -> usize;
    /// Address and bytes of part `part` of page `page`.
    fn part(&self, page: usize, part: usize) -> (NonNull<u8>, usize);
}

/// A session with an agent.
pub struct Session {
    line: Arc<Line>,
    slots: Slots,
    staging: Staging,
    segments: Arc<Segments>,
    born: fork::Generation,
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no agent at {path}: {error}")]
    Connect { path: String, error: io::Error },
    #[error("the agent refused a session: {reason}")]
    Refused { reason: String },
    #[error("expected an agent that speaks session version {ours}, got {theirs}")]
    Version { ours: u32, theirs: u32 },
    #[error("what answered at {path} is no agent with sessions: {what}")]
    Protocol { path: String, what: String },
    #[error("tenant: expected at most {max} bytes, got {got}")]
    Tenant { max: usize, got: usize },
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("the session has ended")]
    Ended,
    #[error("the session belongs to the process that opened it, and this is a child of it")]
    Forked,
    #[error("no answer within the deadline")]
    Deadline,
    #[error("all {0} calls of the session are under way")]
    Busy(usize),
    #[error("{detail}")]
    Refused { status: StatusCode, detail: String },
}

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusCode {
    BadInput,
    UnknownNamespace,
    Behind,
    Unavailable,
}

impl CallError {
    fn refused(status: Status, detail: String) -> Self {
        let status = match status {
            Status::BadInput => StatusCode::BadInput,
            Status::UnknownNamespace => StatusCode::UnknownNamespace,
            Status::Behind => StatusCode::Behind,
            Status::Ok | Status::Unavailable => StatusCode::Unavailable,
        };
        Self::Refused { status, detail }
    }
}

/// Leading pages that the agent could deliver now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    pub pages: usize,
    pub revision: u64,
    pub l1_pages: usize,
    pub l3_pages: usize,
}

/// Where each of some pages is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub revision: u64,
    /// One byte a key: bit 0 L1, bit 1 L2, bit 2 L3.
    pub tiers: Vec<u8>,
}

/// Pages to get.
#[derive(Debug, Clone, Copy)]
pub struct Get<'a> {
    pub namespace: u32,
    pub shard: u32,
    pub keys: &'a [[u8; 32]],
    /// Go on after a miss.
    pub every_key: bool,
    /// Read L3 even when a nearer tier has the page.
    pub bypass_cache: bool,
    pub min_revision: u64,
}

/// One page of a get: copied, from this tier, or a miss. The memory of a miss may have been written to in part.
pub type Got = Result<u8, MissCode>;

/// Pages to put.
#[derive(Debug, Clone, Copy)]
pub struct Put<'a> {
    pub namespace: u32,
    pub shard: u32,
    pub keys: &'a [[u8; 32]],
    /// The page before the first key.
    pub parent: Option<&'a [u8; 32]>,
    /// Return when each page is published or refused; else when the agent has the bytes.
    pub wait_published: bool,
}

/// One page of a put. A page that the agent did not want to see is answered with what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutPage {
    pub code: PutCode,
    /// The refusal's number (`foreword_proto::PutRefusal`), 0 for none.
    pub reason: u32,
    pub revision: u64,
}

impl Session {
    /// Opens a session for the namespaces of a tenant, at the agent's unix socket.
    ///
    /// Errors: nobody answers, or somebody who refuses; at the deadline at the latest.
    pub fn open(path: &Path, tenant: &str, wait: Duration) -> Result<Self, OpenError> {
        fork::watch();
        let born = fork::Generation::now();
        let (line, welcome) = keeper::connect(path, tenant, Deadline::after(wait))?;
        let protocol =
            |error: io::Error| OpenError::Protocol { path: path.display().to_string(), what: error.to_string() };
        let (slots, staging) = welcome.map().map_err(protocol)?;
        let line = Arc::new(line);
        let segments = Arc::new(Segments::default());
        keeper::keep(line.clone(), segments.clone()).map_err(protocol)?;
        Ok(Self { line, slots, staging, segments, born })
    }

    /// False: it has ended, and every call fails.
    pub fn is_alive(&self) -> bool {
        self.born.is_now() && self.line.is_open()
    }

    /// Ends it, for both sides. Calls under way come back soon, as those of a session that has ended.
    pub fn close(&self) {
        // In a child the socket is the parent's, and closed already.
        if self.born.is_now() {
            self.line.close();
        }
    }

    /// Segments that are mapped now.
    pub fn segments_mapped(&self) -> usize {
        self.segments.mapped()
    }

    fn check(&self) -> Result<(), CallError> {
        if !self.born.is_now() {
            return Err(CallError::Forked);
        }
        if self.line.is_open() { Ok(()) } else { Err(CallError::Ended) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether something is over.
#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Flag {
    fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
