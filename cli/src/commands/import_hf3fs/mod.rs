//! `foreword import-hf3fs`: takes over what SGLang's metadata server saved, so that a change of server costs no page.

mod saved;

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use clap::Args;
use foreword_proto::BadInput;
use foreword_proto::wire::meta as m;
use foreword_seams::Endpoint;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use self::saved::SavedFile;
use super::Done;
use crate::args::GroupArgs;
use crate::clients;
use crate::out::outln;

/// Entries of one call: more would keep a serving replica busy for too long at a time.
const ENTRIES_PER_CALL: usize = 4096;
/// An election passes within it.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const BUFFER_BYTES: usize = 1 << 20;

const EXAMPLE: &str = "\
Example (FILE is what SGLang's mini_3fs_metadata_server was given as --persistence-path; stop that server first):
  foreword import-hf3fs /var/lib/sglang/metadata.json --meta m1:7400,m2:7400,m3:7400 --deployment qwen3-32b

What two keys claim, or what was free as well, is left out: its bytes may be of either. Running it again changes nothing.";

/// `foreword import-hf3fs`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ImportArgs {
    /// The JSON file that the server saved
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub group: GroupArgs,
    /// The path of the new metadata_server_url, without slashes [default: none, for a URL without a path]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub deployment: String,
}

/// Runs the command: reads and checks the whole file, then sends it.
pub async fn run(args: ImportArgs, json: bool) -> Done {
    let file = File::open(&args.file)
        .map_err(|error| BadInput::new("FILE", format!("a readable file at {}: {error}", args.file.display())))?;
    let files = saved::read(BufReader::with_capacity(BUFFER_BYTES, file))?;
    let mut all_taken = true;
    let mut told = Vec::new();
    for file in &files {
        let conflicts = send(&args, file).await.with_context(|| format!("rank {} {}", file.rank, file.pool))?;
        all_taken &= conflicts == 0;
        let taken = file.entries.len() as u64 - conflicts;
        let SavedFile { rank, pool, pages, doubtful, leaked, .. } = file;
        if json {
            told.push(json!({ "rank": rank, "namespace": pool, "num_pages": pages, "imported": taken,
                              "left_out": doubtful, "leaked": leaked, "conflicts": conflicts }));
        } else {
            outln!(
                "rank {rank} {pool}: {taken} of {pages} pages taken over, {doubtful} doubtful left out, {leaked} leaked ones \
                 won back, {conflicts} in conflict with what is there"
            );
        }
    }
    if json {
        outln!("{}", json!({ "deployment": args.deployment, "files": told }));
    }
    Ok(if all_taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sends one page file, in its order. Returns the entries that the group has otherwise.
async fn send(args: &ImportArgs, file: &SavedFile) -> anyhow::Result<u64> {
    let mut conflicts = 0;
    let mut chunks: Vec<_> = file.entries.chunks(ENTRIES_PER_CALL).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    for chunk in chunks {
        let request = m::ImportHf3fsRequest {
            deployment: args.deployment.clone(),
            rank: file.rank,
            pool: file.pool.clone(),
            pages: file.pages,
            entries: records_of(chunk),
        };
        conflicts += u64::from(call(&args.group.meta, request).await?.conflicts);
    }
    Ok(conflicts)
}

/// Asks replicas in turn: the call may be repeated.
async fn call(endpoints: &[Endpoint], request: m::ImportHf3fsRequest) -> anyhow::Result<m::ImportHf3fsResponse> {
    let until = Instant::now() + PATIENCE;
    for endpoint in endpoints.iter().cycle() {
        let mut admin = clients::admin(endpoint);
        let answer = timeout(PATIENCE, admin.import_hf3fs(request.clone())).await.context("no answer in time");
        let status = match answer {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) if status.code() != tonic::Code::Unavailable || Instant::now() >= until => status,
            Err(error) if Instant::now() >= until => return Err(error.context(format!("meta {endpoint}"))),
            _ => {
                sleep(RETRY_PAUSE).await;
                continue;
            }
        };
        return Err(clients::said_no(format!("meta {endpoint}"), &status));
    }
    anyhow::bail!("meta: expected at least one endpoint, got none")
}

fn records_of(entries: &[(foreword_proto::EntryKey, u32)]) -> Bytes {
    let mut records = BytesMut::with_capacity(entries.len() * 20);
    for (key, page) in entries {
        records.put_slice(&key.0);
        records.put_u32_le(*page);
    }
    records.freeze()
}
