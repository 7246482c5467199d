//! `foreword status`: what replicas and agents say of themselves, as a table or as JSON.

use std::process::ExitCode;

use clap::Args;
use foreword_proto::status::{AgentStatus, ReplicaStatus};
use foreword_seams::Endpoint;
use futures::future::join_all;
use serde_json::{Value, json};

use super::Done;
use crate::clients;
use crate::glance::glance;
use crate::human::Size;
use crate::out::outln;

const EXAMPLES: &str = "\
Examples:
  foreword status --meta m1:7400,m2:7400,m3:7400
  foreword status --meta m1:7400 --agent unix:/run/foreword.sock --json";

/// Namespaces and sessions in the table at most.
const LISTED_MAX: usize = 20;

/// `foreword status`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// gRPC endpoints of meta replicas
    #[arg(
        long,
        env = "FOREWORD_META",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        required_unless_present = "agent"
    )]
    pub meta: Vec<Endpoint>,
    /// Endpoints of agents: unix:/path or host:port
    #[arg(long, env = "FOREWORD_AGENT", value_name = "ENDPOINT,…", value_delimiter = ',')]
    pub agent: Vec<Endpoint>,
}

/// Runs the command: exit 1 when one of them did not answer.
pub async fn run(args: StatusArgs, json: bool) -> Done {
    let replicas = join_all(args.meta.iter().map(clients::replica_status)).await;
    let agents = join_all(args.agent.iter().map(clients::agent_status)).await;
    let all_answered = replicas.iter().all(Result::is_ok) && agents.iter().all(Result::is_ok);
    if json {
        outln!("{}", json!({ "replicas": documents(&replicas)?, "agents": documents(&agents)? }));
    } else {
        print_replicas(&replicas);
        print_agents(&agents);
    }
    Ok(if all_answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each document, or `{"error": …}` of who did not answer.
fn documents<T: serde::Serialize>(answers: &[anyhow::Result<T>]) -> anyhow::Result<Vec<Value>> {
    let document = |answer: &anyhow::Result<T>| match answer {
        Ok(status) => Ok(serde_json::to_value(status)?),
        Err(error) => Ok(json!({ "error": format!("{error:#}") })),
    };
    answers.iter().map(document).collect()
}

fn print_replicas(replicas: &[anyhow::Result<ReplicaStatus>]) {
    if replicas.is_empty() {
        return;
    }
    let answers: Vec<ReplicaStatus> = replicas.iter().flatten().cloned().collect();
    for line in glance(&answers, replicas.len()) {
        outln!("{line}");
    }
    outln!(
        "\n{:<8} {:<10} {:>6} {:>12} {:>10} {:>10} {:>10}  state digest",
        "replica",
        "role",
        "term",
        "revision",
        "pages",
        "log",
        "memory"
    );
    for replica in replicas {
        match replica {
            Ok(r) => outln!(
                "{:<8} {:<10} {:>6} {:>12} {:>10} {:>10} {:>10}  {}{}",
                r.replica_id,
                r.role,
                r.term,
                r.revision,
                r.pages,
                megabytes(r.log_bytes),
                r.resident_bytes.map_or("?".into(), megabytes),
                r.state_digest,
                if r.ready { "" } else { "  not ready" }
            ),
            Err(error) => eprintln!("foreword: {error:#}"),
        }
    }
    let Some(one) = replicas.iter().flatten().max_by_key(|replica| replica.revision) else { return };
    let l3 = &one.l3;
    outln!(
        "cluster {}, leader {}, voters {:?}",
        one.cluster_id,
        one.leader_id.map_or("none".into(), |id| id.to_string()),
        one.voters
    );
    outln!(
        "L3: budget {}, {} slabs; free {}, granted {}, published {}, resting {}; {} slots reused",
        Size(l3.budget_bytes),
        l3.slabs,
        megabytes(l3.free_bytes),
        megabytes(l3.granted_bytes),
        megabytes(l3.published_bytes),
        megabytes(l3.resting_bytes),
        l3.slots_reused
    );
    let mut largest: Vec<_> = one.namespaces.iter().collect();
    largest.sort_by_key(|namespace| std::cmp::Reverse(namespace.pages));
    for n in largest.iter().take(LISTED_MAX) {
        outln!(
            "namespace {} ({}/{}): {} pages, epoch {}, {} shards",
            n.id,
            n.tenant,
            n.model,
            n.pages,
            n.epoch,
            n.shards
        );
    }
    if largest.len() > LISTED_MAX {
        outln!("and {} smaller namespaces: `foreword meta namespaces` lists them", largest.len() - LISTED_MAX);
    }
    for s in one.sessions.iter().take(LISTED_MAX) {
        outln!("session {} of {} at {}: {} slots granted", s.id, s.node, s.endpoint, s.granted_slots);
    }
    if one.sessions.len() > LISTED_MAX {
        outln!("and {} more sessions: --json has them all", one.sessions.len() - LISTED_MAX);
    }
}

fn print_agents(agents: &[anyhow::Result<AgentStatus>]) {
    for agent in agents {
        match agent {
            Ok(a) => {
                let state = if a.fenced {
                    "fenced"
                } else if a.ready {
                    "ready"
                } else {
                    "not ready"
                };
                let c = &a.counters;
                outln!(
                    "agent {}: {state}, L3 breaker {}, session {}",
                    a.node,
                    a.l3_breaker,
                    a.session.as_deref().unwrap_or("none")
                );
                outln!(
                    "  L1 {} of {} in {} pages; hits L1 {} L3 {}, misses {}; published {}, refused {}",
                    megabytes(a.arena.frame_bytes_used),
                    megabytes(a.arena.arena_bytes),
                    a.arena.pages,
                    c.l1_hits,
                    c.l3_hits,
                    c.misses,
                    c.publishes_acked,
                    c.puts_refused
                );
                for n in &a.namespaces {
                    outln!(
                        "  namespace {}: {} pages at revision {}, mirror {} ms old",
                        n.id,
                        n.pages,
                        n.revision,
                        n.mirror_age_ms
                    );
                }
            }
            Err(error) => eprintln!("foreword: {error:#}"),
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}MB", bytes as f64 / 1e6)
}
