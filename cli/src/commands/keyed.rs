//! `foreword lookup | get | put`: pages by key, through an agent, or an index lookup at a replica.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::limits::PIECES_BYTES_MAX;
use foreword_proto::wire::common as c;
use foreword_proto::wire::meta as m;
use foreword_proto::wire::node as n;
use foreword_proto::{BadInput, Namespace, PageKey};
use foreword_seams::Endpoint;
use futures::stream;
use serde_json::json;
use tokio::time::Instant;
use tonic::Status;

use super::{Done, NOT_FOUND};
use crate::clients::{self, Agent, said_no};
use crate::out::outln;

const PATIENCE: Duration = Duration::from_secs(30);

/// Who shares the pages.
#[derive(Debug, Args)]
pub struct NamespaceArgs {
    /// The model whose pages they are
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Tokens of one page
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub page_tokens: u32,
    /// Bytes of each shard of a page, in rank order
    #[arg(long, value_name = "BYTES,…", value_delimiter = ',')]
    pub shard_bytes: Vec<u64>,
    /// The namespace with all its fields, as a JSON file; in place of the three above
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "shard_bytes"])]
    pub namespace: Option<PathBuf>,
}

impl NamespaceArgs {
    /// The namespace; `page_bytes` stands for the only shard's size when none is given.
    pub(super) fn namespace(&self, page_bytes: Option<u64>) -> anyhow::Result<Namespace> {
        let namespace = match (&self.namespace, &self.model) {
            (Some(path), _) => {
                let text = std::fs::read(path)
                    .map_err(|error| BadInput::new("namespace", format!("a file, {}: {error}", path.display())))?;
                serde_json::from_slice(&text)
                    .map_err(|error| BadInput::new("namespace", format!("a namespace, {}: {error}", path.display())))?
            }
            (None, Some(model)) => {
                let shards = match (self.shard_bytes.is_empty(), page_bytes) {
                    (true, Some(bytes)) => vec![bytes],
                    (true, None) => return Err(BadInput::new("shard_bytes", "the size of each shard, got none").into()),
                    (false, _) => self.shard_bytes.clone(),
                };
                Namespace::simple(model, self.page_tokens, shards)
            }
            (None, None) => return Err(BadInput::new("model", "a name, got none").into()),
        };
        namespace.validate().map_err(|error| error.within("namespace"))?;
        Ok(namespace)
    }
}

/// One page.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct KeyArgs {
    /// A page key: 64 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    pub key: Option<PageKey>,
    /// A name of your own for the page, hashed to its key
    #[arg(long, value_name = "NAME")]
    pub opaque: Option<String>,
}

impl KeyArgs {
    fn key(&self) -> anyhow::Result<PageKey> {
        let opaque = || self.opaque.as_ref().map(|name| PageKey::opaque(name.as_bytes()));
        self.key.or_else(opaque).context("key: expected --key or --opaque")
    }
}

/// The agent a command talks to.
#[derive(Debug, Args)]
pub struct AgentArg {
    /// Endpoint of the agent: unix:/path or host:port
    #[arg(long, env = "FOREWORD_AGENT", value_name = "ENDPOINT")]
    pub agent: Endpoint,
}

async fn open(endpoint: &Endpoint, agent: &mut Agent, namespace: &Namespace) -> anyhow::Result<u32> {
    let request = n::OpenNamespaceRequest { namespace: Some(namespace.into()) };
    let opened =
        agent.open_namespace(request).await.map_err(|status| said_no(format_args!("agent {endpoint}"), &status))?;
    Ok(opened.into_inner().namespace_id)
}

const LOOKUP_EXAMPLES: &str = "\
Examples:
  foreword lookup --agent unix:/run/foreword.sock --model m --shard-bytes 4096 --opaque a --opaque b
  foreword lookup --meta m1:7400 --linearizable --model m --shard-bytes 4096 --key 00…ff
  foreword lookup --agent unix:/run/foreword.sock --model m --page-tokens 64 --shard-bytes 4096 --tokens 1,2,3,…";

/// `foreword lookup`
#[derive(Debug, Args)]
#[command(after_help = LOOKUP_EXAMPLES)]
pub struct LookupArgs {
    /// Ask this agent: unix:/path or host:port
    #[arg(long, value_name = "ENDPOINT", required_unless_present = "meta", conflicts_with = "meta")]
    pub agent: Option<Endpoint>,
    /// Ask the group: gRPC endpoints of meta replicas
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub meta: Vec<Endpoint>,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Page keys in prompt order: 64 hexadecimal digits each
    #[arg(long, value_name = "HEX")]
    pub key: Vec<PageKey>,
    /// Names of your own for pages, hashed to their keys; after the --key ones
    #[arg(long, value_name = "NAME")]
    pub opaque: Vec<String>,
    /// A prompt as token ids; page keys are SGLang's sha256 chain
    #[arg(long, value_name = "ID,…", value_delimiter = ',', conflicts_with_all = ["key", "opaque"])]
    pub tokens: Vec<u32>,
    /// Wait until this revision is seen
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    pub min_revision: u64,
    /// Ask the leader first: nothing acknowledged before is missed
    #[arg(long)]
    pub linearizable: bool,
}

/// Runs `foreword lookup`.
pub async fn lookup(args: LookupArgs, json: bool) -> Done {
    let namespace = args.namespace.namespace(None)?;
    let opaque = args.opaque.iter().map(|name| PageKey::opaque(name.as_bytes()));
    let keys: Vec<PageKey> = args.key.iter().copied().chain(opaque).collect();
    if keys.is_empty() && args.tokens.is_empty() {
        return Err(BadInput::new("keys", "--key, --opaque or --tokens, got none").into());
    }
    let keys = page_keys_to_wire(&keys);
    let tokens = (!args.tokens.is_empty()).then(|| c::Tokens {
        algorithm: c::ChainAlgorithm::Sha256 as i32,
        unit: c::ChainUnit::Token as i32,
        seed: Bytes::new(),
        token_ids: args.tokens.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>().into(),
        wide: false,
    });
    let freshness = Some(c::Freshness { min_revision: args.min_revision, linearizable: args.linearizable });
    let (pages, revision) = match &args.agent {
        Some(endpoint) => {
            let mut agent = clients::agent(endpoint);
            let namespace_id = open(endpoint, &mut agent, &namespace).await?;
            let answer = agent.lookup(n::LookupRequest { namespace_id, keys, tokens, freshness }).await;
            let answer = answer.map_err(|status| said_no(format_args!("agent {endpoint}"), &status))?.into_inner();
            (answer.pages, answer.revision)
        }
        None => lookup_at_group(&args.meta, &namespace, keys, tokens, freshness).await?,
    };
    if json {
        outln!("{}", json!({ "pages": pages, "revision": revision }));
    } else {
        outln!("{pages} leading pages at revision {revision}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn lookup_at_group(
    endpoints: &[Endpoint],
    namespace: &Namespace,
    keys: Bytes,
    tokens: Option<c::Tokens>,
    freshness: Option<c::Freshness>,
) -> anyhow::Result<(u32, u64)> {
    let group = clients::group(endpoints)?;
    let register = m::RegisterNamespaceRequest { namespace: Some(namespace.into()) };
    let registered = group
        .retry(Instant::now() + PATIENCE, |mut replica| {
            let register = register.clone();
            async move { replica.register_namespace(register).await }
        })
        .await
        .map_err(|status| said_no(&group, &status))?;
    let request = m::LookupRequest {
        namespace_id: registered.namespace_id,
        keys,
        tokens,
        freshness,
        with_locations: false,
        every_key: false,
    };
    let answer = group
        .retry(Instant::now() + PATIENCE, |mut replica| {
            let request = request.clone();
            async move { replica.lookup(request).await }
        })
        .await
        .map_err(|status| said_no(&group, &status))?;
    Ok((answer.prefix, answer.revision))
}

const GET_EXAMPLES: &str = "\
Examples:
  foreword get --agent unix:/run/foreword.sock --model m --shard-bytes 4096 --opaque greeting > page.bin
  foreword get --agent unix:/run/foreword.sock --model m --shard-bytes 2048,2048 --key 00…ff --out page.bin --json
With --json the page goes only to --out. A page that is not there: exit code 3.";

/// `foreword get`
#[derive(Debug, Args)]
#[command(after_help = GET_EXAMPLES)]
pub struct GetArgs {
    #[command(flatten)]
    pub agent: AgentArg,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub key: KeyArgs,
    /// Write the page here: all shards, one after another [default: stdout]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Read L3 even when a nearer tier has the page
    #[arg(long)]
    pub bypass_cache: bool,
    /// Wait until the agent has seen this revision; a miss if it has not in time
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    pub min_revision: u64,
}

/// Runs `foreword get`.
pub async fn get(args: GetArgs, json: bool) -> Done {
    let namespace = args.namespace.namespace(None)?;
    let mut agent = clients::agent(&args.agent.agent);
    let namespace_id = open(&args.agent.agent, &mut agent, &namespace).await?;
    let request = n::GetRequest {
        namespace_id,
        keys: page_keys_to_wire(&[args.key.key()?]),
        shards: Vec::new(),
        bypass_cache: args.bypass_cache,
        every_key: true,
        min_revision: args.min_revision,
    };
    let answers = agent.get(request).await;
    let mut answers =
        answers.map_err(|status| said_no(format_args!("agent {}", args.agent.agent), &status))?.into_inner();
    let mut starts = vec![0usize];
    for bytes in &namespace.shard_bytes {
        starts.push(starts[starts.len() - 1] + *bytes as usize);
    }
    let mut page = vec![0; starts[starts.len() - 1]];
    let (mut filled, mut end) = (0, None);
    while let Some(message) = answers.message().await? {
        for piece in message.pieces {
            let start = starts.get(piece.shard as usize).map(|start| start + piece.offset as usize);
            let room = start.and_then(|start| page.get_mut(start..start + piece.data.len()));
            room.context("the agent sent bytes outside the page")?.copy_from_slice(&piece.data);
            filled += piece.data.len();
        }
        end = message.ends.into_iter().next().or(end);
    }
    let end = end.context("the agent ended the answer without a word on the page")?;
    if end.hit && filled != page.len() {
        bail!("expected a page of {} bytes, got {filled}", page.len());
    }
    if end.hit {
        match &args.out {
            Some(path) => std::fs::write(path, &page).with_context(|| format!("out: {}", path.display()))?,
            None if json => {}
            None => std::io::stdout().write_all(&page)?,
        }
    } else if !json {
        eprintln!("not there: {}", end.reason);
    }
    if json {
        let tier = end.hit.then(|| format!("{:?}", end.tier()).to_lowercase());
        outln!("{}", json!({ "hit": end.hit, "tier": tier, "reason": end.reason, "revision": end.revision }));
    }
    Ok(if end.hit { ExitCode::SUCCESS } else { ExitCode::from(NOT_FOUND) })
}

const PUT_EXAMPLES: &str = "\
Examples:
  foreword put --agent unix:/run/foreword.sock --model m --opaque greeting page.bin
  generate | foreword put --agent unix:/run/foreword.sock --model m --shard-bytes 2048,2048 --key 00…ff -
Without --shard-bytes the page is one shard, as long as the file.";

/// `foreword put`
#[derive(Debug, Args)]
#[command(after_help = PUT_EXAMPLES)]
pub struct PutArgs {
    #[command(flatten)]
    pub agent: AgentArg,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    pub key: KeyArgs,
    /// The page before it in its chain
    #[arg(long, value_name = "HEX")]
    pub parent: Option<PageKey>,
    /// The page: all shards, one after another; - is stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Runs `foreword put`.
pub async fn put(args: PutArgs, json: bool) -> Done {
    let page = read_page(&args.file)?;
    let namespace = args.namespace.namespace(Some(page.len() as u64))?;
    let expected: u64 = namespace.shard_bytes.iter().sum();
    if expected != page.len() as u64 {
        return Err(BadInput::new("file", format!("a page of {expected} bytes, got {}", page.len())).into());
    }
    let mut agent = clients::agent(&args.agent.agent);
    let namespace_id = open(&args.agent.agent, &mut agent, &namespace).await?;
    let header = n::PutHeader {
        namespace_id,
        shard: 0,
        keys: page_keys_to_wire(&[args.key.key()?]),
        parent: args.parent.map(|key| Bytes::copy_from_slice(&key.0)).unwrap_or_default(),
        wait_published: true,
    };
    let (mut start, mut puts) = (0, Vec::new());
    for (shard, bytes) in namespace.shard_bytes.iter().enumerate() {
        let shard_page = page.slice(start..start + *bytes as usize);
        start += *bytes as usize;
        puts.push(put_shard(agent.clone(), n::PutHeader { shard: shard as u32, ..header.clone() }, shard_page));
    }
    let outcomes = futures::future::try_join_all(puts).await;
    let outcomes = outcomes.map_err(|status| said_no(format_args!("agent {}", args.agent.agent), &status))?;
    let published = |put: &n::PagePut| matches!(put.outcome(), n::PutOutcome::Published | n::PutOutcome::Exists);
    let put = outcomes.iter().find(|put| !published(put)).or(outcomes.first()).context("a page without shards")?;
    let outcome = put.outcome().as_str_name().trim_start_matches("PUT_OUTCOME_").to_lowercase();
    if json {
        outln!("{}", json!({ "outcome": outcome, "revision": put.revision, "reason": put.reason }));
    } else {
        outln!("{outcome} at revision {} {}", put.revision, put.reason);
    }
    Ok(if published(put) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_page(file: &std::path::Path) -> anyhow::Result<Bytes> {
    if file.as_os_str() == "-" {
        let mut page = Vec::new();
        std::io::stdin().read_to_end(&mut page)?;
        return Ok(page.into());
    }
    let read = std::fs::read(file);
    let page = read.map_err(|error| BadInput::new("file", format!("a readable file, {}: {error}", file.display())))?;
    Ok(page.into())
}

async fn put_shard(mut agent: Agent, header: n::PutHeader, shard_page: Bytes) -> Result<n::PagePut, Status> {
    let shard = header.shard;
    let asked = n::WantedRequest { namespace_id: header.namespace_id, shard, keys: header.keys.clone() };
    let known = agent.wanted(asked).await?.into_inner().pages.into_iter().next();
    if let Some(known) = known.filter(|known| known.outcome() == n::PutOutcome::Exists) {
        return Ok(known);
    }
    let message = |kind| n::PutRequest { kind: Some(kind) };
    let header = message(n::put_request::Kind::Header(header));
    let starts: Arc<[usize]> = (0..shard_page.len()).step_by(PIECES_BYTES_MAX).collect();
    let pieces = (0..starts.len()).map(move |at| {
        let (start, end) = (starts[at], (starts[at] + PIECES_BYTES_MAX).min(shard_page.len()));
        let piece = n::Piece { index: 0, shard, offset: start as u64, data: shard_page.slice(start..end) };
        message(n::put_request::Kind::Pieces(n::Pieces { pieces: vec![piece] }))
    });
    let answer = agent.put(stream::iter(std::iter::once(header).chain(pieces))).await?.into_inner();
    answer
        .pages
        .into_iter()
        .next()
        .ok_or_else(|| Status::internal("the agent answered without an outcome for the page"))
}
