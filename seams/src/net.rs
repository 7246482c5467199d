//! The network as an input: streams to and from endpoints.

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use foreword_proto::BadInput;
use foreword_proto::limits::CONNECTIONS_PER_LISTENER_MAX;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use rustix::net::sockopt;
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Connected;

use crate::connection::Activity;

/// Where something listens: `host:port`, or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Endpoint {
    Tcp(String),
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let bad = || BadInput::new("endpoint", format!("host:port or unix:/path, got {text:?}"));
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(bad()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let in_brackets = host.starts_with('[') && host.ends_with(']');
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if host.is_empty() || port.parse::<u16>().is_err() || !in_brackets && !host.bytes().all(of_a_name) {
            return Err(bad());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = BadInput;

    fn try_from(text: String) -> Result<Self, BadInput> {
        text.parse()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// One connection.
pub struct Stream {
    inner: Inner,
    activity: Option<Arc<Activity>>,
}

enum Inner {
    /// Can be taken out again, for what is not a stream of bytes only: descriptors and credentials.
    Unix(UnixStream),
    Any(Box<dyn Duplex>),
}

impl Inner {
    fn duplex(&mut self) -> &mut dyn Duplex {
        match self {
            Self::Unix(stream) => stream,
            Self::Any(stream) => &mut **stream,
        }
    }
}

impl Stream {
    /// Wraps a connection of any kind.
    pub fn new(inner: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { inner: Inner::Any(Box::new(inner)), activity: None }
    }

    /// Wraps a connection on a unix socket.
    pub fn unix(inner: UnixStream) -> Self {
        Self { inner: Inner::Unix(inner), activity: None }
    }

    /// The unix socket that it wraps, if it wraps one.
    ///
    /// Errors: another kind, as it was.
    pub fn into_unix(self) -> Result<UnixStream, Self> {
        match self.inner {
            Inner::Unix(stream) => Ok(stream),
            inner => Err(Self { inner, ..self }),
        }
    }

    /// The same, for a connection whose server tells `activity` of the requests on it.
    pub(crate) fn watched(
        inner: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        activity: Arc<Activity>,
    ) -> Self {
        Self { inner: Inner::Any(Box::new(inner)), activity: Some(activity) }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner.duplex()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.inner.duplex()).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner.duplex()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner.duplex()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.inner.duplex()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Unix(stream) => stream.is_write_vectored(),
            Inner::Any(stream) => stream.is_write_vectored(),
        }
    }
}

impl Connected for Stream {
    type ConnectInfo = Option<Arc<Activity>>;

    fn connect_info(&self) -> Option<Arc<Activity>> {
        self.activity.clone()
    }
}

/// Connections as they arrive.
pub type Incoming = BoxStream<'static, io::Result<Stream>>;

/// A network.
pub trait Net: Send + Sync + 'static {
    /// Opens a connection.
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>>;

    /// Listens; answers with the endpoint really bound (port 0 means any).
    fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>>;

    /// Connections that one listener may hold.
    fn connections_max(&self) -> usize {
        CONNECTIONS_PER_LISTENER_MAX
    }
}

/// The machine's network.
#[derive(Debug, Default, Clone, Copy)]
pub struct TokioNet;

impl Net for TokioNet {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
        let endpoint = endpoint.clone();
        Box::pin(async move {
            Ok(match endpoint {
                Endpoint::Tcp(address) => {
                    let stream = tokio::net::TcpStream::connect(address).await?;
                    set_options(&stream)?;
                    Stream::new(stream)
                }
                Endpoint::Unix(path) => Stream::unix(UnixStream::connect(path).await?),
            })
        })
    }

    fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
        let endpoint = endpoint.clone();
        Box::pin(async move {
            match endpoint {
                Endpoint::Tcp(address) => {
                    let listener = tokio::net::TcpListener::bind(&address).await?;
                    let port = listener.local_addr()?.port();
                    let host = address.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
                    let bound = Endpoint::Tcp(format!("{host}:{port}"));
                    let incoming = TcpListenerStream::new(listener).map(|accepted| {
                        let stream = accepted?;
                        set_options(&stream)?;
                        Ok(Stream::new(stream))
                    });
                    Ok((incoming.boxed(), bound))
                }
                Endpoint::Unix(path) => {
                    let listener = bind_unix(&path).await?;
                    let incoming = UnixListenerStream::new(listener).map(|accepted| Ok(Stream::unix(accepted?)));
                    Ok((incoming.boxed(), Endpoint::Unix(path)))
                }
            }
        })
    }

    fn connections_max(&self) -> usize {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        CONNECTIONS_PER_LISTENER_MAX
            .min(usize::try_from(descriptors).unwrap_or(usize::MAX) / DESCRIPTORS_PER_CONNECTION)
    }
}

/// Three listeners full of connections leave a quarter of the descriptors to files and to the connections we make.
const DESCRIPTORS_PER_CONNECTION: usize = 4;
/// A peer that lost power is noticed within idle + probes * interval = 25 s, whichever side waits for it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// The same for bytes that are under way: they are given up as late as an idle connection is.
const UNACKNOWLEDGED_MS_MAX: u32 = 25_000;
const _: () = assert!(
    UNACKNOWLEDGED_MS_MAX as u64 / 1000
        == KEEPALIVE_IDLE.as_secs() + KEEPALIVE_PROBES as u64 * KEEPALIVE_INTERVAL.as_secs()
);

/// What every TCP socket gets, accepted or dialled.
fn set_options(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX)?;
    Ok(())
}

/// Binds a unix socket; one that a dead process left behind is replaced, one that answers is an error.
async fn bind_unix(path: &std::path::Path) -> io::Result<tokio::net::UnixListener> {
    match tokio::net::UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(error);
            }
            if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                let expected = format!("expected a socket or nothing, {} is something else", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, expected));
            }
            std::fs::remove_file(path)?;
            tokio::net::UnixListener::bind(path)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse_and_print() {
        for text in ["127.0.0.1:0", "meta-1.example:7400", "[::1]:80", "unix:/run/foreword.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "host", ":1", "host:70000", "unix:relative", "http://a:1", "a b:1"] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert_eq!(error.field, "endpoint", "{text:?}");
        }
    }

    #[tokio::test]
    async fn sockets_of_both_sides_notice_a_peer_without_power() {
        let (mut incoming, endpoint) = TokioNet.listen(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let Endpoint::Tcp(address) = &endpoint else { panic!("{endpoint}") };
        let dialled = tokio::net::TcpStream::connect(address).await.unwrap();
        set_options(&dialled).unwrap();
        incoming.next().await.unwrap().unwrap();
        assert!(sockopt::socket_keepalive(&dialled).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&dialled).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_user_timeout(&dialled).unwrap(), UNACKNOWLEDGED_MS_MAX);
    }

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let endpoint = Endpoint::Unix(path);
        let (_incoming, _) = TokioNet.listen(&endpoint).await.unwrap();
        let error = TokioNet.listen(&endpoint).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
