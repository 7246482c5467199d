//! Calls through a session in shared memory, and over gRPC what it has no room for.

use std::ptr::NonNull;
use std::time::Duration;

use foreword_proto::{PageKey, PutRefusal};
use foreword_session::engine::StatusCode;
use foreword_session::wire::ops::{MissCode, PutCode};
use foreword_session::{CallError, Get, PageMemory, Put, PutPage, Session};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Failure, Freshness, Grpc, Outcome, Shards, Transport};
use crate::keys::Keys;

/// A session with an agent, beside a connection to the same.
pub(crate) struct InSession {
    session: Session,
    grpc: Grpc,
    /// Cancelled when the session has ended: what is left of the line is of no use.
    gone: CancellationToken,
}

impl InSession {
    pub(crate) fn new(session: Session, grpc: Grpc, gone: CancellationToken) -> Self {
        Self { session, grpc, gone }
    }

    fn failure(&self, error: CallError) -> Failure {
        match error {
            CallError::Ended | CallError::Forked => {
                self.gone.cancel();
                Failure::Said(error.to_string())
            }
            CallError::Deadline => Failure::Late,
            CallError::Refused { status: StatusCode::UnknownNamespace, .. } => Failure::NotOpen,
            CallError::Busy(_) | CallError::Refused { .. } => Failure::Said(error.to_string()),
        }
    }

    /// Why a call that answered for some pages did not for all of them, if it was neither the agent's word nor a lack
    /// of room.
    fn whole(&self, all: bool, deadline: Instant) -> Result<(), Failure> {
        if !self.session.is_alive() {
            return Err(self.failure(CallError::Ended));
        }
        if !all && Instant::now() >= deadline { Err(Failure::Late) } else { Ok(()) }
    }
}

impl Transport for InSession {
    fn name(&self) -> &'static str {
        "session"
    }

    fn keys_max(&self) -> usize {
        self.grpc.keys_max()
    }

    fn lookup(&self, namespace: u32, keys: &Keys, fresh: Freshness, deadline: Instant) -> Result<u32, Failure> {
        let Freshness { min_revision, linearizable } = fresh;
        let found = self.session.lookup(namespace, keys.arrays(), min_revision, linearizable, left(deadline));
        Ok(found.map_err(|error| self.failure(error))?.pages as u32)
    }

    fn locate(&self, namespace: u32, keys: &Keys, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let located = self.session.locate(namespace, keys.arrays(), 0, left(deadline));
        Ok(located.map_err(|error| self.failure(error))?.tiers)
    }

    fn get(
        &self,
        namespace: u32,
        shards: Shards<'_>,
        every_key: bool,
        deadline: Instant,
        hits: &mut [bool],
    ) -> Result<(), Failure> {
        let (keys, shard) = (shards.keys.arrays(), shards.shard);
        let get = Get { namespace, shard, keys, every_key, bypass_cache: false, min_revision: 0 };
        let got = self.session.get(&get, &shards, left(deadline)).map_err(|error| self.failure(error))?;
        for (hit, got) in hits.iter_mut().zip(&got) {
            *hit = got.is_ok();
        }
        if got.contains(&Err(MissCode::Gone)) && self.session.is_alive() {
            // The agent has them, but this process cannot map its memory, or lost a frame while it copied.
            return self.grpc.get(namespace, shards, every_key, deadline, hits);
        }
        self.whole(!got.contains(&Err(MissCode::Deadline)), deadline)
    }

    fn put(
        &self,
        namespace: u32,
        shards: Shards<'_>,
        parent: Option<PageKey>,
        wait_published: bool,
        deadline: Instant,
        outcomes: &mut [Outcome],
    ) -> Result<Option<String>, Failure> {
        let (keys, shard) = (shards.keys.arrays(), shards.shard);
        let put = Put { namespace, shard, keys, parent: parent.as_ref().map(|key| &key.0), wait_published };
        let pages = self.session.put(&put, &shards, left(deadline)).map_err(|error| self.failure(error))?;
        let staged = !pages.iter().any(not_staged);
        let refused = pages.iter().find_map(|page| Some(PutRefusal::from_number(page.reason)?.name().to_owned()));
        let mut put = self.whole(staged, deadline).map(|()| refused);
        if !staged && put.is_ok() {
            // A shard is larger than all of the session's staging memory. What the agent has by now is not wanted any
            // more.
            put = self.grpc.put(namespace, shards, parent, wait_published, deadline, outcomes);
        }
        for (outcome, page) in outcomes.iter_mut().zip(&pages).filter(|(_, page)| !not_staged(page)) {
            *outcome = outcome_of(page);
        }
        put
    }

    fn end(&self) {
        self.session.close();
    }
}

// SAFETY: the engine says that its memory is there, and nobody else's while the call lasts; `Shards` lives no longer
// than that.
unsafe impl PageMemory for Shards<'_> {
    fn parts(&self) -> usize {
        self.places.parts()
    }

    fn part(&self, page: usize, part: usize) -> (NonNull<u8>, usize) {
        let (address, bytes) = self.places.part(self.first + page, part);
        (NonNull::new(address as *mut u8).expect("addresses are checked when places are made"), bytes)
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Refused on this side, before the agent saw it.
fn not_staged(page: &PutPage) -> bool {
    page.code == PutCode::Refused && page.reason == 0
}

fn outcome_of(page: &PutPage) -> Outcome {
    match page.code {
        PutCode::Taken => Outcome::Taken,
        PutCode::Published => Outcome::Published,
        PutCode::Exists => Outcome::Exists,
        PutCode::Declined => Outcome::Declined,
        PutCode::Refused => Outcome::Refused,
        PutCode::Wanted => Outcome::Failed,
    }
}
