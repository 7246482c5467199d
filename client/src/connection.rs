//! One server, over one connection that comes back by itself. What goes wrong with it says where, and why.

use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use foreword_proto::limits::{META_MESSAGE_BYTES_MAX, NODE_MESSAGE_BYTES_MAX};
use foreword_proto::wire::meta::admin_client::AdminClient;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_proto::wire::node::node_client::NodeClient;
use foreword_seams::{Endpoint, Net, rpc};
use futures::future::BoxFuture;
use http::HeaderValue;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Status};
use tower::{Service, ServiceExt};

/// A client of one replica.
pub type Replica = MetaClient<Connection>;
/// A client of one replica, for operators.
pub type Admin = AdminClient<Connection>;
/// A client of one agent.
pub type Agent = NodeClient<Connection>;

/// A client of one replica, with a connection of its own.
pub fn replica(net: Arc<dyn Net>, endpoint: &Endpoint) -> Replica {
    Connection::new(net, endpoint).replica()
}

/// A client of one replica's Admin service, with a connection of its own.
pub fn admin(net: Arc<dyn Net>, endpoint: &Endpoint) -> Admin {
    Connection::new(net, endpoint).admin()
}

/// A client of one agent, with a connection of its own.
pub fn agent(net: Arc<dyn Net>, endpoint: &Endpoint) -> Agent {
    Connection::new(net, endpoint).agent()
}

/// A channel to one server. Its failures are statuses that name the endpoint and the cause, UNAVAILABLE unless the
/// library says more.
#[derive(Debug, Clone)]
pub struct Connection {
    endpoint: Arc<Endpoint>,
    channel: Channel,
    deadline: Option<Instant>,
}

impl Connection {
    /// Connects when the first call is made.
    pub fn new(net: Arc<dyn Net>, endpoint: &Endpoint) -> Self {
        let channel = rpc::channel(net, endpoint);
        Self { endpoint: Arc::new(endpoint.clone()), channel, deadline: None }
    }

    /// The same connection, whose server is told with every call when nobody waits for the answer any more.
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// A replica's client over this connection.
    pub fn replica(self) -> Replica {
        MetaClient::new(self)
            .max_decoding_message_size(META_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(META_MESSAGE_BYTES_MAX)
    }

    /// An agent's client over this connection.
    pub fn agent(self) -> Agent {
        NodeClient::new(self)
            .max_decoding_message_size(NODE_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(NODE_MESSAGE_BYTES_MAX)
    }

    /// An operator's client over this connection.
    pub fn admin(self) -> Admin {
        AdminClient::new(self)
            .max_decoding_message_size(META_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(META_MESSAGE_BYTES_MAX)
    }
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // The channel is asked within the call, where its failure can be named.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(timeout) = self.deadline.and_then(grpc_timeout) {
            request.headers_mut().insert("grpc-timeout", timeout);
        }
        let (channel, endpoint) = (self.channel.clone(), self.endpoint.clone());
        Box::pin(async move {
            let answer = channel.oneshot(request).await;
            answer.map_err(|error| named(&endpoint, Status::from_error(error.into())))
        })
    }
}

/// What is left, as gRPC's header says it: milliseconds, 8 digits at most. None: longer than that.
fn grpc_timeout(deadline: Instant) -> Option<HeaderValue> {
    const MS_MAX: u128 = 99_999_999;
    let left_ms = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
    (left_ms <= MS_MAX).then(|| format!("{left_ms}m").parse().ok()).flatten()
}

/// A failure of the way to an endpoint, in words for people.
fn named(endpoint: &Endpoint, status: Status) -> Status {
    let code = if status.code() == Code::Unknown { Code::Unavailable } else { status.code() };
    let why = below(&status);
    let mut said = Status::new(code, format!("{endpoint}: {why}"));
    if never_sent(&status) {
        said.set_source(Arc::new(ConnectError(why.into())));
    }
    said
}

/// True: the connection was not there, and nothing was sent.
pub fn never_sent(status: &Status) -> bool {
    let mut below = status.source();
    while let Some(error) = below {
        if error.is::<ConnectError>() {
            return true;
        }
        below = error.source();
    }
    false
}

/// Why a call failed: the server's words, or what is below the library's.
pub fn cause(status: &Status) -> String {
    match status.source() {
        Some(error) if !error.is::<ConnectError>() => below(status),
        // What answers so knows none of our calls.
        _ if status.code() == Code::Unimplemented && status.message().is_empty() => {
            "it does not know this call: is it another kind of server, a replica where an agent was expected?"
                .to_owned()
        }
        // A server's own, or named already.
        _ if status.message().is_empty() => status.code().description().to_owned(),
        _ => status.message().to_owned(),
    }
}

/// What is below the library's words.
fn below(status: &Status) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut below = status.source();
    while let Some(error) = below {
        let said = error.to_string();
        // Wrappers that say nothing, or what is said below or was said above.
        let empty = said == "transport error" || said.starts_with("code: ") || said.is_empty();
        if !empty && words.iter().all(|above| !above.contains(&said)) {
            words.retain(|above| !said.contains(above.as_str()));
            words.push(said);
        }
        below = error.source();
    }
    if words.is_empty() { status.message().to_owned() } else { words.join(": ") }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use foreword_proto::wire::meta as wire;
    use foreword_seams::TokioNet;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Wrapped(#[source] ConnectError);

    #[tokio::test]
    async fn a_failure_names_the_endpoint_and_the_cause() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let mut client = replica(Arc::new(TokioNet), &endpoint);
        // Somebody that hangs up on whoever comes.
        let rude = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await?;
                let _ = stream.read(&mut [0; 8]).await;
            }
            #[expect(unreachable_code)]
            io::Result::Ok(())
        });
        let hung_up = client.hello(wire::HelloRequest::default()).await.unwrap_err();
        rude.abort();
        let _ = rude.await;
        let mut client = replica(Arc::new(TokioNet), &endpoint);
        let refused = client.hello(wire::HelloRequest::default()).await.unwrap_err();
        for status in [hung_up, refused] {
            assert!(status.message().starts_with(&endpoint.to_string()), "{status:?}");
            assert!(!status.message().contains("transport error"), "{status:?}");
            assert_ne!(status.code(), Code::Unknown, "{status:?}");
            assert!(status.message().len() > endpoint.to_string().len() + 2, "{status:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_refused_can_be_told_from_one_that_broke() {
        let status = Status::from_error(Box::new(Wrapped(ConnectError("refused".into()))));
        let status = named(&"127.0.0.1:1".parse().unwrap(), status);
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "127.0.0.1:1: refused"));
        assert!(never_sent(&status));
        assert!(!never_sent(&Status::unavailable("broke")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_said_in_milliseconds() {
        let header = |left| grpc_timeout(Instant::now() + left).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header(Duration::from_millis(1500)).as_deref(), Some("1501m"));
        assert_eq!(header(Duration::ZERO).as_deref(), Some("1m"));
        assert_eq!(header(Duration::from_secs(1 << 30)), None);
    }
}
