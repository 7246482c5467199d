//! `foreword meta feature-level`: what the group has committed, what each member knows, and raising it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use foreword_proto::wire::meta as m;
use serde_json::json;

use super::Done;
use super::membership::ask_any;
use crate::args::GroupArgs;
use crate::clients;
use crate::out::outln;

/// The leader waits 2 s for the slowest member's hello, and for one entry.
const PATIENCE: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  foreword meta feature-level --meta m1:7400
  foreword meta feature-level --meta m1:7400 --raise 2

Raise it once all replicas run the new binary and you will not go back: a binary that does not know the level refuses the group's
files from then on. It is never lowered.";

/// `foreword meta feature-level`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FeatureLevelArgs {
    #[command(flatten)]
    pub group: GroupArgs,
    /// Raise the level to this one; every voter and learner must be reachable and know it
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u32).range(1..))]
    pub raise: Option<u32>,
}

/// Runs the command. Any replica takes it; the leader does it.
pub async fn run(args: FeatureLevelArgs, json: bool) -> Done {
    let request = m::FeatureLevelRequest { raise_to: args.raise.unwrap_or(0) };
    let answer = ask_any(&args.group.meta, PATIENCE, async |endpoint| {
        Ok(clients::admin(endpoint).feature_level(request).await?.into_inner())
    });
    let m::FeatureLevelResponse { committed, members } = answer.await?;
    if json {
        let known = |member: &m::MemberLevel| (member.known > 0).then_some(member.known);
        let members: Vec<_> = members
            .iter()
            .map(|one| json!({ "replica_id": one.replica_id, "endpoint": one.endpoint, "known": known(one) }))
            .collect();
        outln!("{}", json!({ "committed": committed, "members": members }));
        return Ok(ExitCode::SUCCESS);
    }
    outln!("committed: {committed}");
    for m::MemberLevel { replica_id, endpoint, known } in members {
        let known = if known > 0 { format!("knows up to {known}") } else { "did not answer".into() };
        outln!("replica {replica_id} at {endpoint}: {known}");
    }
    Ok(ExitCode::SUCCESS)
}
