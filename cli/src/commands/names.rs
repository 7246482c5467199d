//! `foreword meta namespaces | page-files`: which there are, and dropping one.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use foreword_proto::status::{NamespaceStatus, PageFileStatus};
use foreword_proto::wire::meta as m;
use foreword_proto::{BadInput, NamespaceId};
use foreword_seams::Endpoint;
use serde_json::json;

use super::Done;
use super::membership::ask_any;
use crate::args::GroupArgs;
use crate::clients;
use crate::out::outln;

/// A replica waits 10 s for the group.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

const NAMESPACES_EXAMPLES: &str = "\
Examples:
  foreword meta namespaces --meta m1:7400
  foreword meta namespaces --meta m1:7400 --drop 17 --yes

A dropped namespace is gone at once, on every agent. Its pages' room is given out again by and by, its id never. An engine that still uses
it is told that the namespace is not open; when it opens it again it begins empty, under a new id.";

/// `foreword meta namespaces`
#[derive(Debug, Args)]
#[command(after_help = NAMESPACES_EXAMPLES)]
pub struct NamespacesArgs {
    #[command(flatten)]
    pub group: GroupArgs,
    #[command(flatten)]
    pub dropping: Dropping,
}

const PAGE_FILES_EXAMPLES: &str = "\
Examples:
  foreword meta page-files --meta m1:7400
  foreword meta page-files --meta m1:7400 --drop 3 --yes

Dropping forgets which key has which page; the file on 3FS is its engines' to remove. An engine that still uses it is answered 404 until it
initializes it again: then the file is empty, and its pages are given out once whoever was told of them before has had his time.";

/// `foreword meta page-files`
#[derive(Debug, Args)]
#[command(after_help = PAGE_FILES_EXAMPLES)]
pub struct PageFilesArgs {
    #[command(flatten)]
    pub group: GroupArgs,
    #[command(flatten)]
    pub dropping: Dropping,
}

/// What is to be dropped.
#[derive(Debug, Args)]
pub struct Dropping {
    /// Drop the one of this id
    #[arg(long, value_name = "ID")]
    pub drop: Option<u32>,
    /// Do drop it: nothing brings it back
    #[arg(long, requires = "drop")]
    pub yes: bool,
}

impl Dropping {
    /// The id to drop, said twice.
    fn id(&self, what: &str) -> Result<Option<u32>, BadInput> {
        match self.drop {
            Some(id) if !self.yes => {
                let expected = format!("to be given, {what} {id} and all its pages would be gone for good");
                Err(BadInput::new("yes", expected))
            }
            drop => Ok(drop),
        }
    }
}

/// Lists namespaces, or drops one.
pub async fn namespaces(args: NamespacesArgs, json: bool) -> Done {
    let endpoints = &args.group.meta;
    if let Some(namespace_id) = args.dropping.id("namespace")? {
        let request = m::DropNamespaceRequest { namespace_id };
        let answer = ask_any(endpoints, PATIENCE, async |endpoint| {
            Ok(clients::admin(endpoint).drop_namespace(request).await?.into_inner())
        });
        let m::DropNamespaceResponse { pages, revision } = answer.await?;
        match json {
            true => outln!("{}", json!({ "dropped": namespace_id, "pages": pages, "revision": revision })),
            false => outln!("dropped namespace {namespace_id}, pages: {pages}, revision: {revision}"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let found = registered(endpoints).await?;
    if json {
        outln!("{}", json!({ "namespaces": found }));
        return Ok(ExitCode::SUCCESS);
    }
    outln!("{:>8} {:>12} {:>8} {:>12}  {:<16} model", "id", "pages", "epoch", "slot bytes", "tenant");
    for NamespaceStatus { id, pages, epoch, slot_bytes, tenant, model, model_revision, shards: _, fingerprint: _ } in
        found
    {
        outln!("{id:>8} {pages:>12} {epoch:>8} {slot_bytes:>12}  {tenant:<16} {model} ({model_revision})");
    }
    Ok(ExitCode::SUCCESS)
}

/// All namespaces of the group, by id.
pub(super) async fn registered(endpoints: &[Endpoint]) -> anyhow::Result<Vec<NamespaceStatus>> {
    let mut found: Vec<NamespaceStatus> = Vec::new();
    loop {
        let after: NamespaceId = found.last().map_or(0, |last| last.id);
        let answer = ask_any(endpoints, PATIENCE, async |endpoint| {
            Ok(clients::admin(endpoint).list_namespaces(m::ListNamespacesRequest { after }).await?.into_inner())
        });
        let m::ListNamespacesResponse { json, more } = answer.await?;
        let known = found.len();
        for document in &json {
            found.push(serde_json::from_str(document)?);
        }
        if !more || found.len() == known {
            break;
        }
    }
    Ok(found)
}

/// Lists page files, or drops one.
pub async fn page_files(args: PageFilesArgs, json: bool) -> Done {
    let endpoints = &args.group.meta;
    if let Some(page_file_id) = args.dropping.id("page file")? {
        let request = m::DropPageFileRequest { page_file_id };
        ask_any(endpoints, PATIENCE, async |endpoint| {
            Ok(clients::admin(endpoint).drop_page_file(request).await?.into_inner())
        })
        .await?;
        match json {
            true => outln!("{}", json!({ "dropped": page_file_id })),
            false => outln!("dropped page file {page_file_id}"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let answer = ask_any(endpoints, PATIENCE, async |endpoint| {
        Ok(clients::admin(endpoint).list_page_files(m::ListPageFilesRequest {}).await?.into_inner())
    });
    let documents = answer.await?.json;
    let found = documents.iter().map(|json| serde_json::from_str(json)).collect::<Result<Vec<PageFileStatus>, _>>()?;
    if json {
        outln!("{}", json!({ "page_files": found }));
        return Ok(ExitCode::SUCCESS);
    }
    outln!("{:>8} {:>12} {:>12} {:>6}  {:<12} deployment", "id", "pages", "confirmed", "rank", "pool");
    for file in found {
        let PageFileStatus { id, pages, confirmed, rank, pool, deployment, .. } = file;
        outln!("{id:>8} {pages:>12} {confirmed:>12} {rank:>6}  {pool:<12} {deployment}");
    }
    Ok(ExitCode::SUCCESS)
}
