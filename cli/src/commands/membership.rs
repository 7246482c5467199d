//! `foreword meta add | remove | replace`: changes who is in the group.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use foreword_proto::wire::meta as m;
use foreword_seams::Endpoint;
use serde_json::json;
use tokio::time::timeout;

use super::Done;
use crate::args::GroupArgs;
use crate::clients;
use crate::out::outln;

/// A new replica is sent a snapshot before it votes: that takes as long as it takes.
const PATIENCE: Duration = Duration::from_secs(600);

const ADD_EXAMPLE: &str = "\
Example (the replica runs already, with a directory made by `foreword meta init --join`):
  foreword meta add --meta m1:7400 --replica-id 4 --endpoint m4:7400";

/// Where a new replica is reached.
#[derive(Debug, Args)]
pub struct ReachedArgs {
    /// Where the other replicas reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Endpoint,
    /// Where agents reach it [default: --endpoint]
    #[arg(long, value_name = "HOST:PORT")]
    pub client_endpoint: Option<Endpoint>,
}

impl ReachedArgs {
    fn endpoints(&self) -> (String, String) {
        let client = self.client_endpoint.as_ref().unwrap_or(&self.endpoint);
        (self.endpoint.to_string(), client.to_string())
    }
}

/// `foreword meta add`
#[derive(Debug, Args)]
#[command(after_help = ADD_EXAMPLE)]
pub struct AddArgs {
    #[command(flatten)]
    pub group: GroupArgs,
    /// The new replica's id
    #[arg(long, value_name = "ID")]
    pub replica_id: u64,
    #[command(flatten)]
    pub reached: ReachedArgs,
}

/// `foreword meta remove`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foreword meta remove --meta m1:7400 --replica-id 3")]
pub struct RemoveArgs {
    #[command(flatten)]
    pub group: GroupArgs,
    /// The replica to take out
    #[arg(long, value_name = "ID")]
    pub replica_id: u64,
}

/// `foreword meta replace`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foreword meta replace --meta m1:7400 --old 3 --new 4 --endpoint m4:7400")]
pub struct ReplaceArgs {
    #[command(flatten)]
    pub group: GroupArgs,
    /// The replica to take out
    #[arg(long, value_name = "ID")]
    pub old: u64,
    /// The replica to take in
    #[arg(long, value_name = "ID")]
    pub new: u64,
    #[command(flatten)]
    pub reached: ReachedArgs,
}

/// A change of the group.
pub enum Change {
    Add(AddArgs),
    Remove(RemoveArgs),
    Replace(ReplaceArgs),
}

/// Runs the command. Any replica takes it; the leader does it.
pub async fn run(change: Change, json: bool) -> Done {
    let endpoints = match &change {
        Change::Add(args) => &args.group.meta,
        Change::Remove(args) => &args.group.meta,
        Change::Replace(args) => &args.group.meta,
    };
    let voters = ask_any(endpoints, PATIENCE, async |endpoint| ask(endpoint, &change).await).await?;
    if json {
        outln!("{}", json!({ "voters": voters }));
    } else {
        outln!("voters: {}", voters.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks one replica after another until one could be asked.
pub(super) async fn ask_any<T>(
    endpoints: &[Endpoint],
    patience: Duration,
    ask: impl AsyncFn(&Endpoint) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut last = None;
    for endpoint in endpoints {
        match timeout(patience, ask(endpoint)).await.context("no answer in time").flatten() {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                let status = error.downcast_ref::<tonic::Status>();
                let unreachable = status.is_some_and(|status| status.code() == tonic::Code::Unavailable);
                let error = match status {
                    Some(status) => clients::said_no(format_args!("meta {endpoint}"), status),
                    None => error.context(format!("meta {endpoint}")),
                };
                // Only a replica that could not be asked leaves the question to the next one.
                if !unreachable {
                    return Err(error);
                }
                last = Some(error);
            }
        }
    }
    Err(last.context("meta: expected at least one endpoint")?)
}

async fn ask(endpoint: &Endpoint, change: &Change) -> anyhow::Result<Vec<u64>> {
    let mut admin = clients::admin(endpoint);
    let answer = match change {
        Change::Add(args) => {
            let (endpoint, client_endpoint) = args.reached.endpoints();
            admin.add_replica(m::AddReplicaRequest { replica_id: args.replica_id, endpoint, client_endpoint }).await
        }
        Change::Remove(args) => admin.remove_replica(m::RemoveReplicaRequest { replica_id: args.replica_id }).await,
        Change::Replace(args) => {
            let (endpoint, client_endpoint) = args.reached.endpoints();
            let (old_replica_id, new_replica_id) = (args.old, args.new);
            let request = m::ReplaceReplicaRequest { old_replica_id, new_replica_id, endpoint, client_endpoint };
            admin.replace_replica(request).await
        }
    };
    Ok(answer?.into_inner().voters)
}

/// `foreword meta leader`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foreword meta leader --meta m1:7400 --to 2")]
pub struct LeaderArgs {
    #[command(flatten)]
    pub group: GroupArgs,
    /// The voter that is to lead
    #[arg(long, value_name = "ID")]
    pub to: u64,
}

/// Moves leadership: before the leader's machine is restarted, say.
pub async fn leader(args: LeaderArgs, json: bool) -> Done {
    let request = m::MoveLeaderRequest { to: args.to };
    let answer = ask_any(&args.group.meta, PATIENCE, async |endpoint| {
        Ok(clients::admin(endpoint).move_leader(request).await?.into_inner())
    });
    let m::MoveLeaderResponse { leader } = answer.await?;
    match json {
        true => outln!("{}", json!({ "leader": leader })),
        false => outln!("leader: {leader}"),
    }
    Ok(ExitCode::SUCCESS)
}
