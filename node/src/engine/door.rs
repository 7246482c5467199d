//! The unix socket's door: gRPC and sessions come to one address, and their first byte tells them apart.

use std::io;
use std::sync::Arc;

use foreword_seams::connection::HEAD_DEADLINE;
use foreword_seams::{Endpoint, Incoming, Net, Stream};
use foreword_session::wire::handshake::MAGIC;
use futures::StreamExt;
use futures::future::BoxFuture;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Connections that are handed on at once.
const HANDED_ON_MAX: usize = 16;

/// A network whose unix sockets hand those who ask for a session to somebody else.
pub(crate) struct Door {
    net: Arc<dyn Net>,
    asked: mpsc::Sender<UnixStream>,
}

impl Door {
    /// In front of this network.
    pub(super) fn new(net: Arc<dyn Net>, asked: mpsc::Sender<UnixStream>) -> Self {
        Self { net, asked }
    }
}

impl Net for Door {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
        self.net.connect(endpoint)
    }

    fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
        let listening = self.net.listen(endpoint);
        if matches!(endpoint, Endpoint::Tcp(_)) {
            return listening;
        }
        let (asked, undecided) = (self.asked.clone(), Arc::new(Semaphore::new(self.net.connections_max())));
        Box::pin(async move {
            let (incoming, bound) = listening.await?;
            let (sender, others) = mpsc::channel(HANDED_ON_MAX);
            tokio::spawn(tell_apart(incoming, asked, sender, undecided));
            Ok((ReceiverStream::new(others).boxed(), bound))
        })
    }

    fn connections_max(&self) -> usize {
        self.net.connections_max()
    }
}

/// Hands each connection on, until nobody takes the others any more.
async fn tell_apart(
    mut incoming: Incoming,
    asked: mpsc::Sender<UnixStream>,
    others: mpsc::Sender<io::Result<Stream>>,
    undecided: Arc<Semaphore>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            () = others.closed() => return,
        };
        let other = match accepted {
            None => return,
            Some(Err(error)) => Err(error),
            Some(Ok(stream)) => match stream.into_unix() {
                Err(other) => Ok(other),
                Ok(socket) => {
                    // Too many that say nothing: the newest is closed.
                    if let Ok(permit) = undecided.clone().try_acquire_owned() {
                        tokio::spawn(decide(socket, asked.clone(), others.clone(), permit));
                    }
                    continue;
                }
            },
        };
        if others.send(other).await.is_err() {
            return;
        }
    }
}

/// Waits for the first byte.
async fn decide(
    socket: UnixStream,
    asked: mpsc::Sender<UnixStream>,
    others: mpsc::Sender<io::Result<Stream>>,
    permit: OwnedSemaphorePermit,
) {
    let first = tokio::time::timeout(HEAD_DEADLINE, first_byte(&socket)).await;
    drop(permit);
    match first {
        Ok(Ok(Some(first))) if first == MAGIC[0] => {
            // Full: an engine that is hung up on comes again.
            let _ = asked.try_send(socket);
        }
        Ok(Ok(Some(_))) => {
            let _ = others.send(Ok(Stream::unix(socket))).await;
        }
        // It left, or said nothing.
        _ => {}
    }
}

/// The first byte, left where it is. None: there is none.
async fn first_byte(socket: &UnixStream) -> io::Result<Option<u8>> {
    loop {
        socket.readable().await?;
        let mut byte = [0];
        let peeked = socket.try_io(Interest::READABLE, || {
            let (_, count) = rustix::net::recv(socket, &mut byte[..], RecvFlags::PEEK)?;
            Ok(count)
        });
        match peeked {
            Ok(count) => return Ok((count > 0).then_some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
