//! Namespaces and page files as an operator sees them: listed, and dropped.

use std::sync::Arc;

use foreword_proto::bad_input::status_for;
use foreword_proto::limits::NAMESPACES_PER_LIST_MAX;
use foreword_proto::wire::meta as wire;
use serde::Serialize;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::status::{namespace, page_file};
use crate::hf3fs;
use crate::refusal::{refused, unexpected};
use crate::replica::group::Group;
use crate::state::State;
use crate::state::command::{Command, Outcome};

/// Namespaces with ids above `after`, as of now.
pub(super) async fn list_namespaces(
    group: &Group,
    request: wire::ListNamespacesRequest,
    deadline: Instant,
) -> Result<wire::ListNamespacesResponse, Status> {
    let mut found = as_of_now(group, deadline, |state| {
        let above = state.namespaces_after(request.after).take(NAMESPACES_PER_LIST_MAX + 1);
        above.map(namespace).collect::<Vec<_>>()
    })
    .await?;
    let more = found.len() > NAMESPACES_PER_LIST_MAX;
    found.truncate(NAMESPACES_PER_LIST_MAX);
    Ok(wire::ListNamespacesResponse { json: documents(&found)?, more })
}

/// Drops a namespace. Any replica takes it.
///
/// Errors: NOT_FOUND `namespace_id`; UNAVAILABLE while the group has no leader, or when nobody knows whether it was
/// applied.
pub(super) async fn drop_namespace(
    group: &Group,
    request: wire::DropNamespaceRequest,
    deadline: Instant,
) -> Result<wire::DropNamespaceResponse, Status> {
    let namespace = request.namespace_id;
    match group.propose_one(Command::DropNamespace { namespace }, deadline).await? {
        (revision, Outcome::NamespaceDropped { pages }) => {
            tracing::warn!(namespace, pages, revision, "a namespace was dropped");
            Ok(wire::DropNamespaceResponse { pages, revision })
        }
        (_, Outcome::Refused(refusal)) => Err(refused(refusal)),
        (_, other) => Err(unexpected(&other)),
    }
}

/// All page files, as of now.
pub(super) async fn list_page_files(group: &Group, deadline: Instant) -> Result<wire::ListPageFilesResponse, Status> {
    let found = as_of_now(group, deadline, |state| {
        state.hf3fs().files().map(|(id, file)| page_file(id, file)).collect::<Vec<_>>()
    });
    Ok(wire::ListPageFilesResponse { json: documents(&found.await?)? })
}

/// Drops a page file. The leader's.
///
/// Errors: NOT_FOUND `page_file_id`; UNAVAILABLE as of [`drop_namespace`].
pub(super) async fn drop_page_file(
    leader: &Arc<hf3fs::Leader>,
    request: wire::DropPageFileRequest,
    deadline: Instant,
) -> Result<wire::DropPageFileResponse, Status> {
    let page_file = request.page_file_id;
    if leader.drop_file(page_file, deadline).await? {
        tracing::warn!(page_file, "a page file was dropped");
        return Ok(wire::DropPageFileResponse {});
    }
    let message = format!("page_file_id: expected a page file, {page_file} is not one (dropped, or never made)");
    Err(status_for(Code::NotFound, "page_file_id", message))
}

async fn as_of_now<T>(group: &Group, deadline: Instant, look: impl FnOnce(&State) -> T) -> Result<T, Status> {
    group.catch_up(deadline).await?;
    Ok(group.applied.read(look))
}

fn documents(found: &[impl Serialize]) -> Result<Vec<String>, Status> {
    let documents = found.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
    documents.map_err(|error| Status::internal(error.to_string()))
}
