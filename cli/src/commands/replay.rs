//! `foreword replay`: plays a trace through agents that run already.

use std::process::ExitCode;

use clap::Args;
use foreword_seams::{Endpoint, Entropy, OsEntropy};
use tokio::sync::watch;

use super::Done;
use super::playing::{PlayArgs, Script, Stage, Voice};
use crate::args::GroupArgs;
use crate::driver::Report;
use crate::driver::audit::Findings;
use crate::driver::report::Facts;
use crate::out::outln;

const EXAMPLES: &str = "\
Examples:
  foreword replay --agent unix:/run/a.sock,unix:/run/b.sock --meta m1:7400,m2:7400,m3:7400
  foreword replay --agent unix:/run/a.sock --meta m1:7400 --trace conversation.jsonl.gz --page-bytes 4096 --json

Each run has a namespace of its own, so that it starts empty, unless --salt says otherwise. Nothing is killed: outage_ms is
null, and the audit reads the group as it is, without a restart.";

/// `foreword replay`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    #[command(flatten)]
    pub play: PlayArgs,
    /// Endpoints of the agents: unix:/path or host:port; request i goes to agent i modulo their number
    #[arg(long, env = "FOREWORD_AGENT", value_name = "ENDPOINT,…", value_delimiter = ',', required = true)]
    pub agent: Vec<Endpoint>,
    #[command(flatten)]
    pub group: GroupArgs,
    /// Share pages with the runs of the same salt [default: drawn]
    #[arg(long, value_name = "TEXT")]
    pub salt: Option<String>,
}

/// Runs the command.
pub async fn run(args: ReplayArgs, json: bool) -> Done {
    let voice = Voice::default();
    let salt = args.salt.map_or_else(|| OsEntropy.bytes16().to_vec(), String::into_bytes);
    let script = args.play.script(salt)?;
    let stage = Stage::open(&script, &args.agent, &args.group.meta).await?;
    let (submitted, _) = watch::channel(0);
    let (counts, wall) = stage.play(&script, &submitted, &voice).await;
    let findings = stage.audit(&script, &counts, &voice).await?;
    let facts = Facts {
        slots_reused: stage.slots_reused(),
        findings: Some(findings),
        ..facts(&script, args.agent.len(), wall)
    };
    print(&Report::new(&counts, &facts), findings, json)
}

/// The facts that follow from the script.
pub(super) fn facts(script: &Script, agents: usize, wall: std::time::Duration) -> Facts {
    Facts {
        requests: script.plan.requests.len(),
        agents,
        shards: script.namespace.shards(),
        page_bytes: script.namespace.shard_bytes.iter().sum(),
        ideal_hit_ratio: script.ideal.hit_ratio,
        wall,
        slots_reused: None,
        outage: None,
        findings: None,
    }
}

/// Prints the report; success only when it proves what it should.
pub(super) fn print(report: &Report, findings: Findings, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        outln!("{}", serde_json::to_string(report)?);
    } else {
        outln!("\n{}", report.table(Some(findings)).trim_end());
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
