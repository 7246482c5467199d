//! `foreword bench prepare`: fills the directories of a new group with a state of any size.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use foreword_meta::generated::{Plan, directories};
use serde_json::json;

use crate::commands::Done;
use crate::out::outln;

const EXAMPLE: &str = "\
Example: three replicas with five million pages
  foreword meta init --data-dir /d/1 --data-dir /d/2 --data-dir /d/3 --peers 1=127.0.0.1:7401,2=127.0.0.1:7402,3=127.0.0.1:7403 \\
    --l3 posix:/d/l3 --l3-bytes 32GiB
  foreword bench prepare --data-dir /d/1 --data-dir /d/2 --data-dir /d/3 --pages 5000000
  foreword meta run --data-dir /d/1";

/// `foreword bench prepare`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct PrepareArgs {
    /// A data directory that `meta init` made and no replica has used; all members'
    #[arg(long, value_name = "DIR", required = true)]
    pub data_dir: Vec<PathBuf>,
    /// Pages of each namespace
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1000000")]
    pub pages: Vec<u64>,
    /// Slots that rest
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rests: u64,
    /// Sessions that are open
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sessions: u32,
    /// Pages of each page file
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub page_files: Vec<u32>,
    /// What keys and ids are drawn from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Runs the command.
pub(super) async fn run(args: PrepareArgs, json: bool) -> Done {
    let PrepareArgs { data_dir, pages, rests, sessions, page_files, seed } = args;
    let plan = Plan { seed, namespaces: pages, written: 0, rests, sessions, page_files };
    let made = directories::fill(&plan, &data_dir).await?;
    let directories::Generated { revision, digest, snapshot_bytes } = made;
    if json {
        outln!(
            "{}",
            json!({ "revision": revision, "digest": format!("{digest:016x}"), "snapshot_bytes": snapshot_bytes })
        );
    } else {
        outln!("filled {} directories: revision {revision}, a snapshot of {snapshot_bytes} bytes", data_dir.len());
    }
    Ok(ExitCode::SUCCESS)
}
