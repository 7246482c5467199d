//! openraft's messages to and from the wire. Entries' payloads travel as they are stored; the small headers as JSON.

use bytes::Bytes;
use foreword_proto::wire::raft as wire;
use openraft::raft::AppendEntriesRequest;
use openraft::{LogId, Vote};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::consensus::entry_codec::{entry_from_wire, entry_to_wire};
use crate::consensus::types::TypeConfig;

#[derive(Serialize, Deserialize)]
struct AppendHeader {
    vote: Vote<u64>,
    prev_log_id: Option<LogId<u64>>,
    leader_commit: Option<LogId<u64>>,
}

/// A value as a message body.
pub(crate) fn to_body<T: Serialize>(value: &T) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(value).map(Bytes::from)
}

/// A message body as a value.
pub(crate) fn from_body<T: DeserializeOwned>(field: &str, body: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(body).map_err(|error| {
        foreword_proto::bad_input::status_for(tonic::Code::InvalidArgument, field, format!("{field}: {error}"))
    })
}

/// An AppendEntries for the wire.
pub(crate) fn append_to_wire(
    request: AppendEntriesRequest<TypeConfig>,
) -> Result<wire::AppendRequest, serde_json::Error> {
    let header =
        AppendHeader { vote: request.vote, prev_log_id: request.prev_log_id, leader_commit: request.leader_commit };
    let entries = request.entries.iter().map(entry_to_wire).collect();
    Ok(wire::AppendRequest { header: to_body(&header)?, entries })
}

/// An AppendEntries from the wire.
pub(crate) fn append_from_wire(request: wire::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let header: AppendHeader = from_body("header", &request.header)?;
    let entries = request.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?;
    Ok(AppendEntriesRequest {
        vote: header.vote,
        prev_log_id: header.prev_log_id,
        leader_commit: header.leader_commit,
        entries,
    })
}
