//! `foreword clear | delete`: pages that are not to be used any more, at the group.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::limits::KEYS_MAX;
use foreword_proto::wire::meta as m;
use foreword_proto::{BadInput, NamespaceId, PageKey};
use serde_json::json;

use super::keyed::NamespaceArgs;
use super::membership::ask_any;
use super::names::{self, PATIENCE};
use super::{Done, NOT_FOUND};
use crate::args::GroupArgs;
use crate::clients;
use crate::out::outln;

/// The namespace, by its id or by its fields.
#[derive(Debug, Args)]
pub struct Which {
    /// The namespace's id, as `foreword meta namespaces` lists it
    #[arg(long, value_name = "ID", conflicts_with_all = ["model", "shard_bytes", "namespace"])]
    pub namespace_id: Option<u32>,
    #[command(flatten)]
    pub fields: NamespaceArgs,
}

const CLEAR_EXAMPLES: &str = "\
Examples:
  foreword clear --meta m1:7400 --model m --shard-bytes 4096 --yes
  foreword clear --meta m1:7400 --namespace-id 17 --yes --json

No page of before is given out by an agent that has seen the revision that is printed: ask with --min-revision. Engines go on using the
namespace. A namespace that is not registered: exit code 3.";

/// `foreword clear`
#[derive(Debug, Args)]
#[command(after_help = CLEAR_EXAMPLES)]
pub struct ClearArgs {
    #[command(flatten)]
    pub group: GroupArgs,
    #[command(flatten)]
    pub which: Which,
    /// Do clear it: nothing brings its pages back
    #[arg(long)]
    pub yes: bool,
}

const DELETE_EXAMPLES: &str = "\
Examples:
  foreword delete --meta m1:7400 --model m --shard-bytes 4096 --opaque a --opaque b
  foreword delete --meta m1:7400 --namespace-id 17 --key 00…ff --json

No page of before is given out by an agent that has seen the revision that is printed: ask with --min-revision. Pages that are not there are
no error. A namespace that is not registered: exit code 3.";

/// `foreword delete`
#[derive(Debug, Args)]
#[command(after_help = DELETE_EXAMPLES)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub group: GroupArgs,
    #[command(flatten)]
    pub which: Which,
    /// Page keys: 64 hexadecimal digits each
    #[arg(long, value_name = "HEX")]
    pub key: Vec<PageKey>,
    /// Names of your own for pages, hashed to their keys
    #[arg(long, value_name = "NAME")]
    pub opaque: Vec<String>,
}

/// Clears a namespace.
pub async fn clear(args: ClearArgs, json: bool) -> Done {
    let Some(namespace_id) = find(&args.group, &args.which).await? else { return not_registered(json) };
    if !args.yes {
        let expected = format!("to be given, all pages of namespace {namespace_id} would be gone for good");
        return Err(BadInput::new("yes", expected).into());
    }
    let request = m::ClearRequest { namespace_id };
    let answer = ask_any(&args.group.meta, PATIENCE, async |endpoint| {
        Ok(clients::replica(endpoint).clear(request).await?.into_inner())
    });
    let m::ClearResponse { epoch, revision } = answer.await?;
    match json {
        true => outln!("{}", json!({ "cleared": namespace_id, "epoch": epoch, "revision": revision })),
        false => outln!("cleared namespace {namespace_id} at revision {revision}, epoch {epoch}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Deletes pages.
pub async fn delete(args: DeleteArgs, json: bool) -> Done {
    let opaque = args.opaque.iter().map(|name| PageKey::opaque(name.as_bytes()));
    let keys: Vec<PageKey> = args.key.iter().copied().chain(opaque).collect();
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(BadInput::new("key", format!("1 to {KEYS_MAX} of --key and --opaque, got {}", keys.len())).into());
    }
    let Some(namespace_id) = find(&args.group, &args.which).await? else { return not_registered(json) };
    let request = m::DeleteRequest { namespace_id, keys: page_keys_to_wire(&keys) };
    let answer = ask_any(&args.group.meta, PATIENCE, async |endpoint| {
        Ok(clients::replica(endpoint).delete(request.clone()).await?.into_inner())
    });
    let m::DeleteResponse { deleted, revision } = answer.await?;
    match json {
        true => outln!("{}", json!({ "deleted": deleted, "revision": revision })),
        false => outln!("deleted {deleted} of {} pages at revision {revision}", keys.len()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The id of the namespace; None if it is not registered. Looking for it registers nothing.
async fn find(group: &GroupArgs, which: &Which) -> anyhow::Result<Option<NamespaceId>> {
    if let Some(id) = which.namespace_id {
        let registered = names::registered(&group.meta).await?;
        return Ok(registered.iter().map(|namespace| namespace.id).find(|known| *known == id));
    }
    let fingerprint = which.fields.namespace(None).context("which namespace")?.fingerprint().to_string();
    let registered = names::registered(&group.meta).await?;
    Ok(registered.iter().find(|namespace| namespace.fingerprint == fingerprint).map(|namespace| namespace.id))
}

fn not_registered(json: bool) -> Done {
    match json {
        true => outln!("{}", json!({ "registered": false })),
        false => eprintln!("no such namespace: foreword meta namespaces lists those that are registered"),
    }
    Ok(ExitCode::from(NOT_FOUND))
}
