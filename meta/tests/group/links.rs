//! A network between replicas whose links a test cuts, one direction at a time. Clients of a test do not use it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use foreword_seams::{Endpoint, Incoming, Net, Stream, TokioNet};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

#[derive(Default)]
struct State {
    /// Who connects, and to whom.
    cut: BTreeSet<(u64, String)>,
    /// Ends the connections that are open.
    open: BTreeMap<(u64, String), CancellationToken>,
}

/// The links of a cluster.
#[derive(Clone, Default)]
pub(crate) struct Links(Arc<Mutex<State>>);

impl Links {
    /// The network of one replica.
    pub(crate) fn of(&self, replica: u64) -> Arc<dyn Net> {
        Arc::new(LinkNet { links: self.clone(), replica })
    }

    /// Ends the connections that `from` opened to `to`, and refuses others.
    pub(crate) fn cut(&self, from: u64, to: &Endpoint) {
        let link = (from, to.to_string());
        let mut state = self.0.lock();
        if let Some(open) = state.open.remove(&link) {
            open.cancel();
        }
        state.cut.insert(link);
    }

    pub(crate) fn heal_all(&self) {
        self.0.lock().cut.clear();
    }
}

struct LinkNet {
    links: Links,
    replica: u64,
}

impl Net for LinkNet {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
        let (links, link) = (self.links.clone(), (self.replica, endpoint.to_string()));
        let connecting = TokioNet.connect(endpoint);
        Box::pin(async move {
            let inner = connecting.await?;
            let mut state = links.0.lock();
            if state.cut.contains(&link) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let ended = state.open.entry(link).or_default().clone();
            Ok(Stream::new(Cuttable { inner, ended: Box::pin(ended.cancelled_owned()) }))
        })
    }

    fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
        TokioNet.listen(endpoint)
    }
}

struct Cuttable {
    inner: Stream,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Cuttable {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
