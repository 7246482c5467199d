//! Clients of the two servers: any replica that answers, and one agent.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use foreword_proto::limits::{META_MESSAGE_BYTES_MAX, NODE_MESSAGE_BYTES_MAX};
use foreword_proto::status::{AgentStatus, ReplicaStatus};
use foreword_proto::wire::meta as m;
use foreword_proto::wire::meta::admin_client::AdminClient;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_proto::wire::node as n;
use foreword_proto::wire::node::node_client::NodeClient;
use foreword_seams::{Endpoint, TokioNet, rpc};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long one call may take before another replica is asked.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a call that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// An agent's client.
pub type Agent = NodeClient<Channel>;
/// A replica's client.
pub type Replica = MetaClient<Channel>;

/// A client of one agent, with a connection of its own.
pub fn agent(endpoint: &Endpoint) -> Agent {
    NodeClient::new(rpc::channel(Arc::new(TokioNet), endpoint))
        .max_decoding_message_size(NODE_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(NODE_MESSAGE_BYTES_MAX)
}

/// A client of one replica's Admin service.
pub fn admin(endpoint: &Endpoint) -> AdminClient<Channel> {
    AdminClient::new(rpc::channel(Arc::new(TokioNet), endpoint)).max_decoding_message_size(META_MESSAGE_BYTES_MAX)
}

/// A client of one replica, with a connection of its own.
pub fn replica(endpoint: &Endpoint) -> Replica {
    MetaClient::new(rpc::channel(Arc::new(TokioNet), endpoint))
        .max_decoding_message_size(META_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(META_MESSAGE_BYTES_MAX)
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

/// Why a server did not do what it was asked to, as one line: who, the message, which names the field, and the code.
pub fn said_no(server: impl std::fmt::Display, status: &Status) -> anyhow::Error {
    anyhow::anyhow!("{server}: {} ({:?})", status.message(), status.code())
}

/// The replicas of one group: a call goes to one that answers.
#[derive(Clone)]
pub struct Group {
    endpoints: Arc<[Endpoint]>,
    replicas: Arc<[Replica]>,
    current: Arc<AtomicUsize>,
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoints: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
        write!(f, "meta {}", endpoints.join(","))
    }
}

impl Group {
    /// A group by its endpoints.
    ///
    /// Errors: no endpoint.
    pub fn new(endpoints: &[Endpoint]) -> anyhow::Result<Self> {
        ensure!(!endpoints.is_empty(), "meta: expected at least one endpoint, got none");
        let replicas = endpoints.iter().map(replica).collect();
        Ok(Self { endpoints: endpoints.into(), replicas, current: Arc::default() })
    }

    /// The replica whose turn it is.
    pub fn pick(&self) -> Replica {
        self.replicas[self.current.load(Ordering::Relaxed) % self.replicas.len()].clone()
    }

    /// The replica whose turn it is did not answer: the next one's turn.
    pub fn turn(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    /// The endpoints.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Calls replicas in turn until one answers or `deadline` has passed. The call must be idempotent.
    ///
    /// Errors: the last answer; at once when it says that the request itself is wrong.
    pub async fn call<T, F>(&self, deadline: Duration, call: impl Fn(Replica) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let until = Instant::now() + deadline;
        loop {
            let answer = timeout(CALL_TIMEOUT, call(self.pick())).await;
            let status = match answer {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no replica answered in time"),
            };
            if is_final(status.code()) || Instant::now() >= until {
                return Err(status);
            }
            self.turn();
            sleep(RETRY_PAUSE).await;
        }
    }
}

/// Codes that another try does not change.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::OutOfRange
            | Code::Unauthenticated
    )
}
