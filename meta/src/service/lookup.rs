//! Lookup: a batch of keys against the index of this replica, as fresh as the caller asks.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use foreword_proto::chain::asked_keys;
use foreword_proto::limits::META_MESSAGE_BYTES_MAX;
use foreword_proto::records::Record;
use foreword_proto::wire::common::Freshness;
use foreword_proto::wire::meta as wire;
use foreword_proto::{BadInput, Location, PageKey, Revision};
use tokio::time::Instant;
use tonic::Status;

use crate::refusal::refused;
use crate::replica::group::Group;
use crate::state::command::Refusal;
use crate::state::{LocationRef, State};

/// Keys looked up while the lock is held: some tens of microseconds. A change in between is of a later revision than
/// the answer names, and shows or not, as with any read beside a write.
const KEYS_PER_LOOK: usize = 1024;

/// Answers a lookup.
///
/// Errors: NOT_FOUND `namespace_id`; INVALID_ARGUMENT `keys` or `tokens`; FAILED_PRECONDITION `behind`; UNAVAILABLE
/// without a leader.
pub(super) async fn lookup(
    group: &Arc<Group>,
    request: wire::LookupRequest,
    deadline: Instant,
) -> Result<wire::LookupResponse, Status> {
    refresh(group, request.freshness, deadline).await?;
    let keys = keys_of(group, &request)?;
    let namespace = request.namespace_id;
    let unknown = || refused(Refusal::NoNamespace { namespace });
    loop {
        let start = |state: &State| {
            let info = state.namespace(namespace)?;
            let found = Found::new(keys.len(), request.with_locations, Location::bytes(info.shards()));
            Some((found, info.epoch, state.revision()))
        };
        let (mut found, epoch, revision) = group.applied.peek(start).ok_or_else(unknown)?;
        let mut of_one_epoch = true;
        for some in keys.chunks(KEYS_PER_LOOK) {
            let look = |state: &State| state.lookup(namespace, some, request.every_key, |_, at| found.add(at));
            of_one_epoch &= group.applied.peek(look).ok_or_else(unknown)? == epoch;
            if !of_one_epoch || !(found.unbroken || request.every_key) {
                break;
            }
        }
        if of_one_epoch {
            return found.answer(revision);
        }
        // Cleared between two looks: what was found before would be of another epoch than what came after.
    }
}

/// Waits until this replica may answer.
pub(super) async fn refresh(group: &Group, freshness: Option<Freshness>, deadline: Instant) -> Result<(), Status> {
    let freshness = freshness.unwrap_or_default();
    let mut wanted: Revision = freshness.min_revision;
    if freshness.linearizable {
        wanted = wanted.max(group.read_index(deadline).await?);
    }
    if wanted > 0 {
        group.wait_applied(wanted, deadline).await?;
    }
    Ok(())
}

fn keys_of(group: &Group, request: &wire::LookupRequest) -> Result<Vec<PageKey>, Status> {
    let namespace = request.namespace_id;
    let page_tokens = group.applied.peek(|state| state.namespace(namespace).map(|info| info.namespace.page_tokens));
    let page_tokens = page_tokens.ok_or_else(|| refused(Refusal::NoNamespace { namespace }))?;
    Ok(asked_keys(&request.keys, request.tokens.as_ref(), page_tokens)?)
}

/// The answer as it grows.
struct Found {
    prefix: u32,
    unbroken: bool,
    present: BytesMut,
    locations: Option<BytesMut>,
}

impl Found {
    fn new(keys: usize, with_locations: bool, location_bytes: usize) -> Self {
        let locations = with_locations.then(|| BytesMut::with_capacity(keys * location_bytes));
        Self { prefix: 0, unbroken: true, present: BytesMut::with_capacity(keys), locations }
    }

    fn add(&mut self, location: Option<LocationRef<'_>>) {
        self.present.put_u8(u8::from(location.is_some()));
        self.unbroken &= location.is_some();
        self.prefix += u32::from(self.unbroken);
        if let (Some(location), Some(locations)) = (location, &mut self.locations) {
            location.put(locations);
        }
    }

    fn answer(self, revision: Revision) -> Result<wire::LookupResponse, Status> {
        let locations = self.locations.unwrap_or_default();
        if locations.len() + self.present.len() + 64 > META_MESSAGE_BYTES_MAX {
            let expected = "fewer keys a call: the locations of this many shards exceed one message";
            return Err(BadInput::new("keys", expected).into());
        }
        Ok(wire::LookupResponse {
            revision,
            prefix: self.prefix,
            present: self.present.freeze(),
            locations: locations.freeze(),
        })
    }
}
