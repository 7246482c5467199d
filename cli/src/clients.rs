//! Clients over this machine's network: of the group, one replica, one agent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use foreword_client::cause;
use foreword_proto::status::{AgentStatus, ReplicaStatus};
use foreword_proto::wire::meta as m;
use foreword_proto::wire::node as n;
use foreword_seams::{Endpoint, OsEntropy, TokioNet};
use tokio::time::timeout;
use tonic::Status;

pub use foreword_client::{Admin, Agent, Group, Replica};

/// How long a server may take to say what it is.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one agent, with a connection of its own.
pub fn agent(endpoint: &Endpoint) -> Agent {
    foreword_client::agent(Arc::new(TokioNet), endpoint)
}

/// A client of one replica's Admin service.
pub fn admin(endpoint: &Endpoint) -> Admin {
    foreword_client::admin(Arc::new(TokioNet), endpoint)
}

/// A client of one replica, with a connection of its own.
pub fn replica(endpoint: &Endpoint) -> Replica {
    foreword_client::replica(Arc::new(TokioNet), endpoint)
}

/// The group that these endpoints belong to.
///
/// Errors: no endpoint.
pub fn group(endpoints: &[Endpoint]) -> anyhow::Result<Group> {
    ensure!(!endpoints.is_empty(), "meta: expected at least one endpoint, got none");
    Ok(Group::new(Arc::new(TokioNet), Arc::new(OsEntropy), endpoints))
}

/// What a replica says of itself and its group.
pub async fn replica_status(endpoint: &Endpoint) -> anyhow::Result<ReplicaStatus> {
    let call = async {
        let answer = admin(endpoint).status(m::StatusRequest {}).await?;
        serde_json::from_str(&answer.into_inner().json).context("a status document of another version")
    };
    timeout(CALL_TIMEOUT, call).await.context("no answer in time").flatten().with_context(|| format!("meta {endpoint}"))
}

/// What an agent says of itself.
pub async fn agent_status(endpoint: &Endpoint) -> anyhow::Result<AgentStatus> {
    let call = async {
        let answer = agent(endpoint).stats(n::StatsRequest {}).await?;
        serde_json::from_str(&answer.into_inner().json).context("a status document of another version")
    };
    timeout(CALL_TIMEOUT, call).await.context("no answer in time").flatten().with_context(|| format!("node {endpoint}"))
}

/// Why a server did not do what it was asked to, as one line: who, the message, which names the field, and the code; or
/// why it could not be asked.
pub fn said_no(server: impl std::fmt::Display, status: &Status) -> anyhow::Error {
    anyhow::anyhow!("{server}: {} ({:?})", cause(status), status.code())
}
