//! The metadata group as one peer: any replica answers, and another is asked when one fails.

mod hello;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::bad_input::status_for;
use foreword_proto::limits::META_MESSAGE_BYTES_MAX;
use foreword_proto::wire::meta::meta_client::MetaClient as Generated;
use foreword_seams::{Endpoint, Entropy, Net, rpc};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

pub use hello::{Cluster, HelloError};

/// A client of one replica.
pub type ReplicaClient = Generated<Channel>;

/// How long one replica may take to answer one call, before another is asked.
pub const ATTEMPT: Duration = Duration::from_secs(2);
/// Replicas remembered; more than any group has.
const REPLICAS_MAX: usize = 32;
const BACKOFF_MS_MIN: u64 = 10;
const BACKOFF_MS_MAX: u64 = 100;

/// Which replica a client was of, so that only its failure makes everybody change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica(usize);

/// A client of the group. Clones share the replica in use.
#[derive(Clone)]
pub struct MetaClient {
    inner: Arc<Inner>,
}

struct Inner {
    net: Arc<dyn Net>,
    entropy: Arc<dyn Entropy>,
    replicas: Mutex<Replicas>,
}

struct Replicas {
    endpoints: Vec<Endpoint>,
    current: usize,
    channels: BTreeMap<usize, Channel>,
}

impl MetaClient {
    /// A client of the group these endpoints belong to; there is at least one.
    pub fn new(net: Arc<dyn Net>, entropy: Arc<dyn Entropy>, endpoints: &[Endpoint]) -> Self {
        assert!(!endpoints.is_empty(), "a group has at least one endpoint");
        // Agents spread over the replicas.
        let current = entropy.below(endpoints.len() as u64) as usize;
        let replicas = Replicas { endpoints: endpoints.to_vec(), current, channels: BTreeMap::new() };
        Self { inner: Arc::new(Inner { net, entropy, replicas: Mutex::new(replicas) }) }
    }

    /// The replica in use.
    pub fn client(&self) -> (Replica, ReplicaClient) {
        let mut replicas = self.inner.replicas.lock();
        let current = replicas.current;
        let endpoint = replicas.endpoints[current].clone();
        let net = &self.inner.net;
        let channel = replicas.channels.entry(current).or_insert_with(|| rpc::channel(net.clone(), &endpoint));
        let client = Generated::new(channel.clone())
            .max_decoding_message_size(META_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(META_MESSAGE_BYTES_MAX);
        (Replica(current), client)
    }

    /// This replica failed: if it is still the one in use, the next one is.
    pub fn failed(&self, replica: Replica) {
        let mut replicas = self.inner.replicas.lock();
        if replicas.current == replica.0 {
            replicas.current = (replica.0 + 1) % replicas.endpoints.len();
        }
    }

    /// More replicas of the group.
    pub fn learn(&self, endpoints: impl IntoIterator<Item = Endpoint>) {
        let mut replicas = self.inner.replicas.lock();
        for endpoint in endpoints {
            if replicas.endpoints.len() < REPLICAS_MAX && !replicas.endpoints.contains(&endpoint) {
                replicas.endpoints.push(endpoint);
            }
        }
    }

    /// The source of jitter.
    pub fn entropy(&self) -> &dyn Entropy {
        &*self.inner.entropy
    }

    /// Repeats a call that may be repeated, through one replica after another, until it is answered or the deadline comes.
    ///
    /// Errors: the group's own refusal at once; else the last replica's failure.
    pub async fn retry<T, F, C>(&self, deadline: Instant, mut call: C) -> Result<T, Status>
    where
        C: FnMut(ReplicaClient) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::default();
        loop {
            let status = match self.attempt(deadline, &mut call).await {
                Ok(answer) => return Ok(answer),
                Err(status) if !worth_another_replica(&status) => return Err(status),
                Err(status) => status,
            };
            let pause = backoff.next(self.entropy());
            if Instant::now() + pause >= deadline {
                return Err(status);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks the replica in use once; when it fails, the next one will be in use.
    pub async fn attempt<T, F, C>(&self, deadline: Instant, call: &mut C) -> Result<T, Status>
    where
        C: FnMut(ReplicaClient) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (replica, client) = self.client();
        let until = deadline.min(Instant::now() + ATTEMPT);
        let answered = tokio::time::timeout_at(until, call(client)).await;
        let answered = answered.unwrap_or_else(|_| {
            Err(status_for(Code::DeadlineExceeded, "deadline", "deadline: no answer of the replica in time"))
        });
        match answered {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                if worth_another_replica(&status) {
                    self.failed(replica);
                }
                Err(status)
            }
        }
    }
}

/// True for a failure of the replica or the way to it; false for an answer of the group.
pub fn worth_another_replica(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::Aborted
            | Code::ResourceExhausted
    )
}

/// Growing pauses between attempts, with jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    next_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next_ms: BACKOFF_MS_MIN }
    }
}

impl Backoff {
    /// The next pause: between half of the step and all of it.
    pub fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let step = self.next_ms;
        self.next_ms = (step * 2).min(BACKOFF_MS_MAX);
        Duration::from_millis(step / 2 + entropy.below(step / 2 + 1))
    }
}
